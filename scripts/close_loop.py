"""`scripts/close_loop.py`: from what users correct to a better model, on real messages, end to end.

Some intents of banking77 are held back from a first model's training. Their messages come as traffic to a
real gateway and edge model, users correct the answers (some wrongly, some against each other, some twice),
and from that `trivium dataset build`, `trivium review` and `trivium train` make a second model. Both are
evaluated on messages that neither has seen, and only the second may be promoted.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from loop_folder import FEATURE, Loop, console
from loop_traffic import Messages, Said, Users, read_messages, send

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.edge import REAL_DATA
from trivium.corrections.versions import EVAL, TRAIN, Versions

RECIPE = ("--members", "1", "--epochs", "4", "--held-out", "0.1", "--validation", "0.1", "--threads", "2")
GATES = ("--max-ece", "0.2", "--max-p99-ms", "1000", "--min-accuracy", "0.75")


def main(
    data: Annotated[Path, typer.Option(help="banking77's train.csv.")] = REAL_DATA / "banking77/train.csv",
    intents: Annotated[int, typer.Option(min=2, help="Of the 77.")] = 24,
    held_back: Annotated[int, typer.Option(min=1, help="Of these.")] = 8,
    each: Annotated[int, typer.Option(min=20, help="Messages of an intent to train on.")] = 60,
    judged: Annotated[int, typer.Option(min=5, help="Messages of an intent to judge by.")] = 25,
    seed: Annotated[int, typer.Option(help="Of the draw and the users.")] = 7,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures.")] = None,
) -> None:
    """Closes the loop once, and shows what it did."""
    began = time.monotonic()
    messages = read_messages(data, intents, held_back, each, judged, seed)
    users = Users()
    with tempfile.TemporaryDirectory(prefix="trivium-loop-") as scratch:
        loop = Loop(Path(scratch))
        first_model(loop, messages)
        said = asyncio.run(traffic(loop, messages, users, seed))
        number = dataset(loop, said)
        second_model(loop, messages, number)
        judge(loop)
    loop.figures["seconds"] = round(time.monotonic() - began)
    show(loop.figures, messages)
    if json_file:
        json_file.write_text(json.dumps(loop.figures, indent=2) + "\n")


def first_model(loop: Loop, messages: Messages) -> None:
    """Trains without the intents that are held back."""
    loop.write_feature(messages.golden, messages.held_back, "edge-v1")
    on = {"name": FEATURE, "enabled": True, "strategies": [{"name": "default"}]}
    (loop.folder / "flags.json").write_text(json.dumps({"version": 1, "features": [on]}))
    base = loop.folder / "base.jsonl"
    base.write_text("".join(json.dumps({"text": t, "label": i}) + "\n" for t, i in messages.base))
    loop.trivium("train", FEATURE, "--data", str(base), "--credit", "banking77", *RECIPE, *GATES)


async def traffic(loop: Loop, messages: Messages, users: Users, seed: int) -> Said:
    """Lets users ask and correct."""
    secret = loop.trivium("keys", "create", "loop").split()[-1]
    with loop.edge(), loop.gateway() as url:
        said = await send(url, secret, messages, users, seed)
    loop.figures["traffic"] = {"asked": said.asked, "degraded": said.abstained, **said.kinds}
    return said


def dataset(loop: Loop, said: Said) -> int:
    """Builds a version, has a reviewer who knows the truth decide on the queue, and builds again."""
    build = ("dataset", "build", FEATURE, "--with", str(loop.folder / "base.jsonl"))
    loop.trivium(*build)
    queued = [json.loads(line) for line in loop.trivium("review", FEATURE, "--list", "--json").splitlines()]
    for one in queued[: len(queued) // 2]:
        truth = said.truth[one["input_hash"]]
        value = next((str(v["value"]) for v in one["values"] if v["output"]["label"] == truth), None)
        words = ("--accept", one["input_hash"], "--value", value) if value else ()
        output = json.dumps({"label": truth})
        loop.trivium("review", FEATURE, *(words or ("--amend", one["input_hash"], "--output", output)))
    loop.trivium(*build)
    versions = Versions(loop.folder / "state/datasets", FEATURE)
    again = loop.trivium(*build)
    if "there is no news" not in again:
        raise SystemExit(again)
    number = versions.numbers()[-1]
    rows = versions.rows(number, TRAIN)
    fed = [row for row in rows if row["input_hash"] in said.truth]
    wrong = sum(row["label"] != said.truth[row["input_hash"]] for row in fed)
    card = versions.load(number)
    loop.figures["dataset"] = {
        "version": number,
        "queued": len(queued),
        "decided": len(queued) // 2,
        "counts": card.counts,
        "left_out": card.left_out,
        "evaluated_apart": len(versions.rows(number, EVAL)),
        "wrong_labels": wrong / len(fed),
    }
    return number


def second_model(loop: Loop, messages: Messages, number: int) -> None:
    """Trains on the dataset, by the same recipe."""
    data = loop.folder / "state/datasets" / FEATURE / str(number) / TRAIN
    credit = ("--credit", f"{FEATURE} dataset {number}")
    loop.trivium("train", FEATURE, "--data", str(data), "--label-field", "label", *credit, *RECIPE, *GATES)
    loop.write_feature(None, messages.held_back, "edge-v1", "edge-v2")


def judge(loop: Loop) -> None:
    """Evaluates both on the golden set, and promotes what passes its gate."""
    report = loop.folder / "evaluation.json"
    with loop.edge():
        loop.trivium("eval", FEATURE, "--variant", "edge-v1", "--json", str(report), ends=1)
        loop.figures["before"] = _short(report)
        loop.trivium(
            *("eval", FEATURE, "--variant", "edge-v2", "--against", "edge-v1", "--json", str(report)), ends=0
        )
        loop.figures["after"] = _short(report)
    loop.trivium("variant", "promote", FEATURE, "edge-v1", ends=1)
    loop.trivium("variant", "promote", FEATURE, "edge-v2")


def show(figures: dict[str, Any], messages: Messages) -> None:
    """The tables of the guide, in Markdown."""
    before, after = figures["before"], figures["after"]
    (difference,) = [one for one in after["differences"] if one["metric"] == "accuracy"]
    console.print(
        f"\n{len(messages.base)} messages to train on first, {len(messages.traffic)} sent, "
        f"{len(messages.golden)} to judge by; held back: {', '.join(messages.held_back)}"
    )
    for name in ("traffic", "dataset"):
        console.print(f"{name}: {json.dumps(figures[name])}", markup=False, highlight=False)
    console.print("\n| accuracy (95 %) | before | after |\n| --- | --- | --- |", markup=False)
    for part in before["slices"]:
        cells = " | ".join(_estimate(one["slices"][part]) for one in (before, after))
        console.print(f"| {part} | {cells} |", markup=False)
    console.print(f"| all | {_estimate(before['accuracy'])} | {_estimate(after['accuracy'])} |", markup=False)
    gain = difference["candidate"] - difference["baseline"]
    between = f"{difference['low']:+.3f} to {difference['high']:+.3f}"
    told = f"{difference['test']}: p = {difference['p']:.2g}; {figures['seconds']} s"
    console.print(f"\ndifference {gain:+.3f} ({between}), {told}")


def _short(report: Path) -> dict[str, Any]:
    """Of an evaluation what is shown."""
    found = json.loads(report.read_text())
    return {
        "accuracy": found["metrics"]["accuracy"],
        "slices": {one["value"]: one["metrics"]["accuracy"] for one in found["slices"]},
        "passed": found["passed"],
        "differences": (found["comparison"] or {}).get("differences", []),
    }


def _estimate(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f}), n {found['n']}"


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    typer.run(main)
