"""`make load-test`: `trivium load`; without a `--url`, against an edge model service started for it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support.edge import KEY, end_on_sigterm, running_edge  # noqa: E402


def main(arguments: list[str]) -> int:
    """The exit code of `trivium load`."""
    command = [sys.executable, "-m", "trivium.cli.main", "load", *arguments]
    if any(argument.split("=")[0] == "--url" for argument in arguments):
        return subprocess.run(command, check=False).returncode
    with running_edge(ROOT / "models", ROOT / ".bench-load-test.log") as edge:
        own = ["--url", f"http://127.0.0.1:{edge.port}", "--model", "ticket-triage", "--key", KEY]
        return subprocess.run([*command, *own], check=False).returncode


if __name__ == "__main__":
    end_on_sigterm()
    try:
        raise SystemExit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
