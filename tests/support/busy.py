"""A platform whose every metric moves: features of all kinds, routes that break, and traffic for them."""

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.platform import ROOT, RunningPlatform, free_offset

TEXT = "I ordered a new card two weeks ago and it still has not turned up. Where is it?"
ODD = "What is the tallest mountain of the moon, and who sang about it?"
LABELS = ("thumbs_up", "thumbs_down", "dismissed", "shown", "accepted")
SHADOW = "shadow: {variant: edge-v2, share: 1, monthly_usd: 1}\nfallback: ["
STORED = "  stored-v1: {pattern: precomputed, archive: inbox, compute: {variants: [edge-v1]}}\n"
CLOSED = "openai, base_url: 'http://127.0.0.1:9/v1', api_key_env: A_KEY, retries: 0"


@contextmanager
def busy_platform(folder: Path) -> Iterator[RunningPlatform]:
    """Starts it with five features and four routes of its own, at a price."""
    offset = free_offset()
    features = folder / "features"
    shutil.copytree(ROOT / "features", features)
    _write_features(features)
    _write_routes(features / "routes.yaml", 8083 + offset)
    env = {
        "TRIVIUM_FEATURES_DIR": str(features),
        "TRIVIUM_LOCAL_USD_PER_MILLION_TOKENS": "1",
        "A_KEY": "a-key",
    }
    running = RunningPlatform(folder / "state", offset, env=env)
    try:
        yield running.start()
    finally:
        running.stop()


def send_traffic(platform: RunningPlatform) -> None:
    """Each pattern, each kind of answer and of feedback, chats, refusals, and a run.

    The worker is started anew in between, since it counts some things once in minutes, and at its start.
    """
    for n in range(12):
        made = platform.infer("ticket-triage", input={"text": TEXT}, subject={"id": f"s-{n}"})
        event = {"inference_id": made["inference_id"], "kind": LABELS[n % len(LABELS)]}
        assert platform.call("/v1/feedback", event).status == 201
    platform.infer("ticket-triage", input={"text": ODD}, subject={"id": "tester"})
    for text in (ODD, TEXT):
        platform.infer("ticket-cascade", input={"text": text})
    platform.infer("similar-tickets", entity_key="T-0001")
    for route in ("chat", "chat", "unpriced", "rescued", *["broken"] * 5):
        _chat(platform, route)
    platform.call("/v1/features", key="trv_wrong")
    platform.call("/v2/models/ticket-triage/infer", {"inputs": []}, service="edge")
    platform.child("gateway").send_signal(signal.SIGHUP)
    back = platform.output.read_text().count("is back")
    platform.child("worker").terminate()
    platform.wait_for("is back", count=back + 1)
    _ask_for_stored(platform)


def _ask_for_stored(platform: RunningPlatform) -> None:
    """A run, then asked for what is not stored, and for what was computed from another input."""
    path = "/v1/features/ticket-queue/infer"
    body: dict[str, Any] = {"input": {"text": TEXT}, "subject": {"id": "tester"}}
    lines = "\n".join(json.dumps({"id": f"M-{n}", "text": TEXT}) for n in range(3)).encode()
    run = platform.call(
        "/v1/features/ticket-queue/precompute", raw=lines, headers={"Content-Type": "application/x-ndjson"}
    )
    assert run.status == 202, run
    platform.call(path, {**body, "entity_key": "M-none"})
    end = time.monotonic() + 30
    while platform.call("/v1/features/ticket-queue/results/M-1").status != 200:
        assert time.monotonic() < end, platform.shown()
        time.sleep(0.1)
    stale = platform.call(path, {**body, "entity_key": "M-1", "input": {"text": "How do I change my PIN?"}})
    assert stale.body["stale"], stale


def _chat(platform: RunningPlatform, route: str) -> None:
    """A question whose answer is short and whole, so that it may be kept."""
    schema = {"type": "object", "required": ["ok"], "properties": {"ok": {"type": "boolean"}}}
    wanted = {"name": "ok", "strict": True, "schema": {**schema, "additionalProperties": False}}
    body = {
        "model": f"route/{route}",
        "messages": [{"role": "user", "content": "Is it?"}],
        "response_format": {"type": "json_schema", "json_schema": wanted},
        "max_tokens": 32,
    }
    platform.call("/v1/chat/completions", body)


def _write_features(features: Path) -> None:
    """Beside the shipped ones: one that is served from stored results, and one that cascades."""
    own = features / "ticket-triage" / "feature.yaml"
    # Beside other tests the models may take their time.
    _rewrite(own, ("deadline_ms: 2000", "deadline_ms: 25000"), ("timeout_ms: 250", "timeout_ms: 5000"))
    for name in ("ticket-queue", "ticket-cascade"):
        shutil.copytree(own.parent, features / name)
        _rewrite(
            features / name / "feature.yaml",
            ("feature: ticket-triage", f"feature: {name}"),
            ("flag: ticket-triage", f"flag: {name}"),
        )
    text = own.read_text()
    candidate = text[text.index("  edge-v1:") : text.index("  llm-v1:")].replace("edge-v1", "edge-v2")
    _rewrite(own, ("variants:\n", f"variants:\n{candidate}"), ("fallback: [llm-v1, ", SHADOW))
    _rewrite(
        features / "ticket-queue" / "feature.yaml",
        ("variants:\n", f"variants:\n{STORED}"),
        ("serve: edge-v1\nfallback: [llm-v1, ", "serve: stored-v1\nfallback: ["),
        ("example:\n", "example:\n  entity_key: M-1\n"),
    )
    _rewrite(
        features / "ticket-cascade" / "feature.yaml",
        ("timeout_ms: 5000}", "timeout_ms: 5000, cascade: true}"),
    )
    _write_flags(features / "flags.json")


def _write_flags(path: Path) -> None:
    """Half of one feature's subjects are in control."""
    flags = json.loads(path.read_text())
    (triage,) = (one for one in flags["features"] if one["name"] == "ticket-triage")
    for name in ("ticket-queue", "ticket-cascade"):
        flags["features"].append(json.loads(json.dumps(triage).replace("ticket-triage", name)))
    triage["strategies"][0]["parameters"]["rollout"] = "50"
    path.write_text(json.dumps(flags))


def _write_routes(path: Path, llm_port: int) -> None:
    here = f"openai, model: smollm2, base_url: 'http://127.0.0.1:{llm_port}/v1', api_key_env: A_KEY"
    routes = {
        "chat": ["local, model: smollm2"],
        "unpriced": [here],
        "rescued": [f"{CLOSED}, model: one", "local, model: smollm2"],
        "broken": [f"{CLOSED}, model: other"],
    }
    lines = ["routes:"]
    for name, targets in routes.items():
        lines += [f"  route/{name}:", "    targets:", *(f"      - {{provider: {one}}}" for one in targets)]
    lines.insert(2, "    cache_s: 60")
    path.write_text("\n".join(lines) + "\n")


def _rewrite(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for before, after in changes:
        assert before in text, f"{path}: no {before!r}"
        text = text.replace(before, after, 1)
    path.write_text(text)
