"""The messages of gRPC are made from the protocol's definition."""

import subprocess
import sys
from pathlib import Path


def test_the_generated_messages_are_up_to_date(root: Path, tmp_path: Path) -> None:
    folder = root / "services/edge-model/edge_model/doors"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--python_out={tmp_path}"]
    command += [f"--pyi_out={tmp_path}", "open_inference.proto"]
    subprocess.run(command, check=True, timeout=60)
    for made in tmp_path.iterdir():
        assert (folder / made.name).read_text() == made.read_text(), "make proto"
