"""What the closed loop is shown with: real messages in three parts, and users who correct answers."""

import asyncio
import csv
import random
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from trivium.domain.sameness import input_hash
from trivium.telemetry import new_id

Message = tuple[str, str]
"""Text and intent."""
AT_ONCE = 4


@dataclass(frozen=True)
class Messages:
    """Messages of some intents: to train on first, to send as traffic, and to judge by; no text twice."""

    base: list[Message]
    traffic: list[Message]
    golden: list[Message]
    held_back: list[str]


@dataclass(frozen=True)
class Users:
    """How users behave: who notices what, and how often they are wrong about what is right."""

    wrong: float = 0.05
    asked_again: float = 0.25
    """Share of the messages that another user sends too, spelt otherwise."""
    disagrees: float = 0.15
    """Share of those who then call something else right."""


@dataclass
class Said:
    """What was sent and said, and the truth of every input, by which the dataset is judged."""

    asked: int = 0
    abstained: int = 0
    kinds: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    truth: dict[str, str] = field(default_factory=dict)


def read_messages(file: Path, intents: int, held_back: int, each: int, judged: int, seed: int) -> Messages:
    """Draws intents that have enough messages, and of each so many messages for each part."""
    by_intent: dict[str, dict[str, str]] = defaultdict(dict)
    seen: set[str] = set()
    with file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            hashed = input_hash({"text": row["text"]})
            if hashed not in seen:
                by_intent[row["category"]][hashed] = row["text"]
                seen.add(hashed)
    rng = random.Random(seed)
    known_traffic = each // 6
    enough = sorted(name for name, some in by_intent.items() if len(some) >= each + judged + known_traffic)
    chosen = rng.sample(enough, intents)
    made = Messages([], [], [], sorted(chosen[:held_back]))
    for intent in sorted(chosen):
        texts = sorted(by_intent[intent].values())
        rng.shuffle(texts)
        made.golden.extend((text, intent) for text in texts[:judged])
        rest = [(text, intent) for text in texts[judged:]]
        if intent in made.held_back:
            made.traffic.extend(rest[:each])
        else:
            made.base.extend(rest[:each])
            made.traffic.extend(rest[each : each + known_traffic])
    rng.shuffle(made.traffic)
    return made


async def send(url: str, secret: str, messages: Messages, users: Users, seed: int) -> Said:
    """Sends the traffic, and says what users say of the answers, over HTTP."""
    rng = random.Random(seed)
    labels = sorted({intent for _, intent in messages.golden})
    said = Said(truth={input_hash({"text": text}): intent for text, intent in messages.traffic})
    visits: list[tuple[str, str, str]] = []
    for number, (text, intent) in enumerate(messages.traffic):
        visits.append((f"user-{number}", text, _right(intent, labels, users.wrong, rng)))
        if rng.random() < users.asked_again:
            spelt = rng.choice([text.upper(), f"  {text} ", text.replace(" ", "  ")])
            visits.append((f"other-{number}", spelt, _right(intent, labels, users.disagrees, rng)))
    rng.shuffle(visits)
    limit = asyncio.Semaphore(AT_ONCE)
    headers = {"Authorization": f"Bearer {secret}"}
    async with aiohttp.ClientSession(url, headers=headers) as session:

        async def visit(subject: str, text: str, right: str) -> None:
            async with limit:
                await _visit(session, subject, text, right, said)

        await asyncio.gather(*(visit(*one) for one in visits))
    return said


def _right(intent: str, labels: list[str], wrong: float, rng: random.Random) -> str:
    return rng.choice([one for one in labels if one != intent]) if rng.random() < wrong else intent


async def _visit(session: aiohttp.ClientSession, subject: str, text: str, right: str, said: Said) -> None:
    question = {"input": {"text": text}, "subject": {"id": subject}}
    async with session.post("/v1/features/ticket-triage/infer", json=question) as response:
        response.raise_for_status()
        answer = await response.json()
    said.asked += 1
    said.abstained += answer["degraded"]
    body: dict[str, Any] = {"inference_id": answer["inference_id"], "kind": "accepted"}
    if answer["output"]["label"] != right:
        body |= {"kind": "correction", "value": {"label": right}}
    said.kinds[body["kind"]] += 1
    headers = {"Idempotency-Key": new_id()}
    for _ in range(2):  # a client that repeats itself
        async with session.post("/v1/feedback", json=body, headers=headers) as response:
            response.raise_for_status()
