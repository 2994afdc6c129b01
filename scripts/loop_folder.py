"""The folder in which the loop is closed: a feature, a registry, a state, and services that run on them."""

import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from loop_traffic import Message
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.edge import KEY, free_port, running_edge
from support.platform import ROOT, clean_environment

FEATURE = "ticket-triage"
GATE = 0.80
console = Console(soft_wrap=True)


@dataclass
class Loop:
    """A folder with everything in it: the feature, the registry, the state."""

    folder: Path
    figures: dict[str, Any] = field(default_factory=dict)
    edge_url: str = "http://127.0.0.1:9"

    @property
    def environment(self) -> dict[str, str]:
        """Of every command and service."""
        return {
            **clean_environment(),
            "TRIVIUM_STATE_DIR": str(self.folder / "state"),
            "TRIVIUM_FEATURES_DIR": str(self.folder / "features"),
            "TRIVIUM_MODELS_DIR": str(self.folder / "models"),
            "TRIVIUM_FLAGS_FILE": str(self.folder / "flags.json"),
            "TRIVIUM_EDGE_URL": self.edge_url,
            "TRIVIUM_SERVICE_KEY": KEY,
        }

    def trivium(self, *words: str, ends: int = 0) -> str:
        """Runs a command, which must end so; returns what it printed."""
        console.print(f"[dim]$ trivium {' '.join(words)}[/]", highlight=False)
        done = subprocess.run(
            [sys.executable, "-m", "trivium.cli.main", *words],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != ends:
            console.print(done.stdout, done.stderr, markup=False)
            raise SystemExit(f"trivium {words[0]} ended with {done.returncode}, not {ends}")
        return done.stdout

    def write_feature(self, golden: list[Message] | None, held_back: list[str], *variants: str) -> None:
        """The shipped feature with models of the loop's own, and its own golden set."""
        manifest = yaml.safe_load((ROOT / "features" / FEATURE / "feature.yaml").read_text())
        models = {name: f"{FEATURE}/{n}" for n, name in enumerate(variants, start=1)}
        manifest |= {
            "variants": {name: {"pattern": "edge", "model": model} for name, model in models.items()},
            "serve": "edge-v1",
            "fallback": [{"static": {"label": "general-queue"}}],
            "evaluation": {
                "dataset": "golden.jsonl",
                "evaluators": ["accuracy"],
                "gates": {"accuracy": {"min": GATE}},
            },
        }
        folder = self.folder / "features" / FEATURE
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "feature.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
        if golden:
            lines = [_case(n, text, label, held_back) for n, (text, label) in enumerate(golden)]
            (folder / "golden.jsonl").write_text("".join(lines))

    @contextlib.contextmanager
    def edge(self) -> Iterator[None]:
        """The edge model, with whatever is in the registry."""
        with running_edge(self.folder / "models", self.folder / "edge.log") as running:
            self.edge_url = f"http://127.0.0.1:{running.port}"
            yield

    @contextlib.contextmanager
    def gateway(self) -> Iterator[str]:
        """The gateway, until all it noted is in the database; gives its address."""
        port = free_port()
        environment = self.environment | {"TRIVIUM_GATEWAY_PORT": str(port)}
        with (self.folder / "gateway.log").open("wb") as log:
            words = [sys.executable, "-m", "gateway"]
            process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        try:
            _until_ready(f"http://127.0.0.1:{port}/health/ready", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _case(number: int, text: str, label: str, held_back: list[str]) -> str:
    slices = {"intent": "held back" if label in held_back else "known"}
    case = {"id": f"g-{number:04d}", "input": {"text": text}, "expected": {"label": label}, "slices": slices}
    return json.dumps(case) + "\n"


def _until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise SystemExit("the gateway did not start")
