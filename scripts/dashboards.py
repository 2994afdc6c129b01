"""Writes deploy/grafana/dashboards/*.json from scripts/boards; with --check only says what is out of date."""

import sys
from pathlib import Path

from boards import cost, drift, edge, feature, gateway, patterns, precompute

FOLDER = Path(__file__).parents[1] / "deploy" / "grafana" / "dashboards"
BOARDS = (gateway, patterns, feature, cost, edge, precompute, drift)


def build() -> dict[str, str]:
    """Every dashboard's text by the name of its file."""
    boards = [module.board() for module in BOARDS]
    return {f"{board.name}.json": board.to_json() for board in boards}


def outdated(made: dict[str, str]) -> list[str]:
    """Names of files that are missing, say something else, or should not be there."""
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def write(made: dict[str, str]) -> None:
    """Makes the folder hold these files and no others."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in outdated(made):
        if name in made:
            (FOLDER / name).write_text(made[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()


if __name__ == "__main__":
    if "--check" not in sys.argv:
        write(build())
    elif old := outdated(build()):
        sys.exit(f"out of date: {', '.join(old)}; run python scripts/dashboards.py")
