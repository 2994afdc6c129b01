"""The gateways that `make bench-gateway` measures: how each is started, with the least that it needs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = ROOT / "scripts/peers"
PEERS = ROOT / ".venv-peers"
OURS, YARDSTICK = "Trivium", "pass-through"
CARRIED_OVER = ("TRIVIUM_DATABASE_URL", "TRIVIUM_LOG_LEVEL")
"""Settings of the caller's that ours keeps."""


class Failed(Exception):
    """The bench cannot go on; says why."""


@dataclass(frozen=True)
class Started:
    """How a contender is started, and what its callers send."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Contender:
    """A gateway: `prepare(port, upstream, folder)` writes its configuration."""

    name: str
    prepare: Callable[[int, str, Path], Started]
    ready: str
    installed: bool = True


def _ours(port: int, upstream: str, folder: Path) -> Started:
    """As it ships: on SQLite, or what CARRIED_OVER says."""
    (folder / "routes.yaml").write_text(
        "routes:\n  route/bench:\n    targets:\n"
        f'      - {{provider: openai, model: stub-model, base_url: "{upstream}", '
        "timeouts: {total_s: 10}}\n"
        f'      - {{provider: openai, model: stub-model-2, base_url: "{upstream}"}}\n'
    )
    environment = {
        "TRIVIUM_ROUTES_FILE": str(folder / "routes.yaml"),
        "TRIVIUM_FEATURES_DIR": str(ROOT / "features"),
        "TRIVIUM_STATE_DIR": str(folder / "state"),
        "TRIVIUM_GATEWAY_PORT": str(port),
        "OPENAI_API_KEY": "upstream",
        **{name: os.environ[name] for name in CARRIED_OVER if name in os.environ},
    }
    (folder / "state").mkdir()
    make_key = ["keys", "create", "bench", "--scopes", "infer"]
    for arguments in (["db", "upgrade"], make_key):
        command = [sys.executable, "-m", "trivium.cli.main", *arguments]
        done = subprocess.run(command, env=clean_environment() | environment, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"trivium {' '.join(arguments)}: {done.stderr[-2000:]}")
    key = done.stdout.split()[-1]
    return Started([sys.executable, "-m", "gateway"], environment, {"Authorization": f"Bearer {key}"})


def _pass_through(port: int, upstream: str, folder: Path) -> Started:
    return Started([sys.executable, str(HERE / "passthrough.py"), str(port), upstream])


def _litellm(port: int, upstream: str, folder: Path) -> Started:
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n  - model_name: route/bench\n    litellm_params:\n"
        f'      {{model: openai/stub-model, api_base: "{upstream}", api_key: upstream}}\n'
        "general_settings: {master_key: sk-bench}\n"
    )
    command = [str(PEERS / "litellm/bin/litellm"), "--config", str(config), "--host", "127.0.0.1"]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_TELEMETRY": "False",
    }
    return Started([*command, "--port", str(port)], environment, {"Authorization": "Bearer sk-bench"})


def _portkey(port: int, upstream: str, folder: Path) -> Started:
    script = PEERS / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": upstream}
    command = ["node", str(script), f"--port={port}", "--headless"]
    return Started(command, {"NODE_ENV": "production"}, {"Authorization": "Bearer upstream", **headers})


def _tensorzero(port: int, upstream: str, folder: Path) -> Started:
    config = folder / "tensorzero.toml"
    config.write_text(
        "[gateway]\nobservability.enabled = false\n\n"
        '[models."stub-model"]\nrouting = ["stub"]\n\n'
        '[models."stub-model".providers.stub]\ntype = "openai"\nmodel_name = "stub-model"\n'
        f'api_base = "{upstream}/"\napi_key_location = "none"\n'
    )
    python = PEERS / "tensorzero/bin/python"
    return Started([str(python), str(HERE / "tensorzero_app.py"), str(port), str(config)])


CONTENDERS = [
    Contender(OURS, _ours, "/health/ready"),
    Contender(YARDSTICK, _pass_through, "/health/ready"),
    Contender("LiteLLM proxy", _litellm, "/health/liveliness", (PEERS / "litellm/bin/litellm").exists()),
    Contender(
        "Portkey", _portkey, "/", (PEERS / "portkey/node_modules").exists() and bool(shutil.which("node"))
    ),
    Contender("TensorZero, embedded", _tensorzero, "/", (PEERS / "tensorzero/bin/python").exists()),
]


def clean_environment() -> dict[str, str]:
    """This environment without anyone's settings and keys."""
    left_out = ("TRIVIUM_", "OPENAI_", "ANTHROPIC_", "LITELLM_", "DATABASE_URL", "PYTHONDONTWRITEBYTECODE")
    return {k: v for k, v in os.environ.items() if not k.startswith(left_out)} | {"DO_NOT_TRACK": "1"}
