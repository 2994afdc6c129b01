"""How long a kill switch takes: from `trivium rollout <feature> --roll-back` to the first control answer.

Against a platform that runs; TRIVIUM_STATE_DIR and TRIVIUM_PORT_OFFSET say which, as for every command, and
with Unleash TRIVIUM_UNLEASH_URL and TRIVIUM_UNLEASH_ADMIN_TOKEN. It asks the gateway twenty times a second;
after each round the feature is brought back to where it was.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

from trivium.flag_admin import FlagAdminSettings

console = Console()
COMMAND = [str(Path(sys.executable).parent / "trivium"), "rollout"]
SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
ALL = ["--advance", "--override", "--reason", "back", "--by", "measurement"]
NONE = ["--roll-back", "--reason", "measurement", "--by", "measurement"]


def main(
    feature: Annotated[str, typer.Option()] = "ticket-triage",
    text: Annotated[str, typer.Option(help="Of the input.")] = "Where is my card?",
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Prints each round's seconds, their median and the longest."""
    settings = FlagAdminSettings()
    key = (settings.state_dir / "dev.key").read_text().strip()
    url = f"http://127.0.0.1:{settings.port_of('gateway')}/v1/features/{feature}/infer"
    body = {"input": {"text": text}, "subject": {"id": "subject-1"}}
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:

        def arm() -> str:
            return str(client.post(url, json=body).raise_for_status().json()["arm"])

        seconds = []
        for number in range(1, rounds + 1):
            while arm() != "treatment":
                _rollout(feature, ALL)
                time.sleep(settings.flags_refresh_s + 0.5)
            begun = time.monotonic()
            switching = subprocess.Popen([*COMMAND, feature, *NONE], **SILENT)
            while arm() != "control":
                time.sleep(0.05)
            seconds.append(time.monotonic() - begun)
            switching.wait(30)
            console.print(f"round {number}: {seconds[-1]:.2f} s")
    console.print(f"median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s")
    for _ in range(4):
        _rollout(feature, ALL)


def _rollout(feature: str, words: list[str]) -> None:
    subprocess.run([*COMMAND, feature, *words], check=False, **SILENT)


if __name__ == "__main__":
    typer.run(main)
