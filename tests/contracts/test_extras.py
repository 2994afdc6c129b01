"""Each extra, installed alone from what the lock pins, imports its own service and no other's needs."""

import subprocess
import sys
from pathlib import Path

import pytest

SERVICES = {
    "gateway": ("gateway.app", ["onnxruntime", "torch", "psutil"]),
    "batch-worker": ("batch_worker.app", ["onnxruntime", "torch", "UnleashClient"]),
    "edge-model": ("edge_model.app", ["sqlalchemy", "arq", "redis", "aiohttp", "torch"]),
}


@pytest.mark.parametrize("extra", SERVICES)
def test_an_extra_alone_imports_its_service(extra: str, root: Path, tmp_path: Path) -> None:
    module, absent = SERVICES[extra]
    uv = Path(sys.executable).with_name("uv")
    venv = tmp_path / "venv"
    python = venv / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=120)
    command = f"{uv} pip install --quiet --python {python} --constraint {root / 'requirements.lock'}"
    subprocess.run([*command.split(), f"{root}[{extra}]"], check=True, timeout=300)
    found = ", ".join(f"{name!r}" for name in absent)
    check = (
        f"import importlib.util, {module}\n"
        f"there = [n for n in [{found}] if importlib.util.find_spec(n)]\n"
        "assert not there, there\n"
        f"{module}.create_app()"
    )
    subprocess.run([python, "-c", check], check=True, timeout=60, cwd=tmp_path)
