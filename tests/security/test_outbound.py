"""Nobody names a place that the operator did not: not a caller, not a feature, not a vendor's answer."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from support.attacked import Bait, Running, write_features
from trivium.domain.route import parse_routes
from trivium.edge import EdgeClient
from trivium.errors import ConfigurationError, ManifestError, ProviderError, StepError
from trivium.features import find_feature, load_feature
from trivium.llm.google import GoogleProvider
from trivium.llm.keyring import KeyRing
from trivium.llm.openai import wire
from trivium.llm.provider import Chat, Limits
from trivium.precompute.allowed import below
from trivium.precompute.records import Checker
from trivium.precompute.sources import MAX_LINE, of_url

ALLOWED = [
    "https://allowed.example/exports/",
    "s3://bucket/in",
    "abfs://box@account.example/x",
    "/data/exports",
    "http://127.0.0.1:8000/a",
]
INSIDE = [
    "https://allowed.example/exports/a.jsonl",
    "https://allowed.example:443/exports/deep/a.csv.gz?version=1",
    "https://ALLOWED.example/exports/a.jsonl",
    "s3://bucket/in/a.jsonl",
    "abfs://box@account.example/x/a.jsonl",
    "/data/exports/a.jsonl",
    "file:///data/exports/a.jsonl",
    "http://127.0.0.1:8000/a/b",
]
OUTSIDE = [
    "",
    "a.jsonl",
    "~/a.jsonl",
    "http://allowed.example/exports/a",
    "https://allowed.example.evil.example/exports/a",
    "https://allowed.example./exports/a",
    "https://allowed.example@evil.example/exports/a",
    "https://user:password@allowed.example/exports/a",
    "https://allowed.example:8443/exports/a",
    "https://allowed.example:99999/exports/a",
    "https://allowed\uff0eexample/exports/a",
    "https://allowed.example\\@evil.example/exports/a",
    "https://allowed.example\t/exports/a",
    " https://allowed.example/exports/a",
    "https://allowed.example/exports/a\r\nHost: evil.example",
    "https:/allowed.example/exports/a",
    "https:allowed.example/exports/a",
    "https:///allowed.example/exports/a",
    "//allowed.example/exports/a",
    "https://allowed.example?/exports/a",
    "https://allowed.example#/exports/a",
    "https://allowed.example/exports-of-others/a",
    "https://allowed.example/EXPORTS/a",
    "https://allowed.example/exports/../secret",
    "https://allowed.example/exports/%2e%2e/secret",
    "https://allowed.example/exports/%252e%252e/secret",
    "https://allowed.example/exports/..%2fsecret",
    "https://allowed.example/exports%2f..%2fsecret",
    "https://allowed.example/exports/..%5csecret",
    "https://allowed.example//exports/a",
    "simplecache::https://allowed.example/exports/a",
    "filecache::https://evil.example/a",
    "zip://a::https://allowed.example/exports/a",
    "https://allowed.example/exports/a::https://evil.example/a",
    "s3://bucket/input/a",
    "s3://BUCKET/in/a",
    "s3://bucket/in/../other",
    "s3://bucket/in?/../../other",
    "gs://bucket/in/a",
    "abfs://other@account.example/x/a",
    "/data/exports/../../etc/passwd",
    "/data/exports?/../../etc/passwd",
    "/data/exports2/a",
    "file://evil.example/data/exports/a",
    "file:/data/exports/a",
    "file:///etc/passwd",
    "local:///etc/passwd",
    "http://127.1:8000/a/b",
    "http://2130706433:8000/a/b",
    "http://0x7f000001:8000/a/b",
    "http://[::ffff:127.0.0.1]:8000/a/b",
    "http://169.254.169.254/latest/meta-data",
    "memory://a",
    "data:text/plain,a",
    "reference://",
    "javascript:alert(1)",
    "ftp://allowed.example/exports/a",
    "\0",
]


@pytest.mark.parametrize("url", INSIDE)
def test_what_lies_below_an_allowed_url_is_allowed(url: str) -> None:
    assert below(url, ALLOWED) in ALLOWED


@pytest.mark.parametrize("url", OUTSIDE)
def test_what_only_looks_as_if_it_did_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(has|is|must lie)"):
        below(url, ALLOWED)


def test_without_a_setting_nothing_is_allowed() -> None:
    with pytest.raises(ValueError, match="has none"):
        below("https://allowed.example/exports/a", [])


@pytest.mark.parametrize(
    "path",
    [
        "/secret/a.jsonl",
        "/exports/../secret/a.jsonl",
        "/exports/%2e%2e/secret/a.jsonl",
        "/exports-/a",
        "",
    ],
)
def test_over_http_no_other_url_is_taken(gateway: Running, bait: Bait, path: str) -> None:
    asked = len(bait.asked)
    for url in (bait.url + path, f"simplecache::{bait.url}/exports/a.jsonl", "file:///etc/passwd"):
        status, body = gateway.call("/v1/features/stored/precompute", {"url": url})
        assert (status, body["errors"][0]["field"]) == (422, "url"), body
    assert len(bait.asked) == asked


def _ended(gateway: Running, url: str) -> dict[str, Any]:
    status, run = gateway.call("/v1/features/stored/precompute", {"url": url, "overlap": "queue"})
    assert status == 202, run
    until = time.monotonic() + 30
    while (now := gateway.call(f"/v1/precompute/{run['run_id']}")[1])["finished_at"] is None:
        assert time.monotonic() < until, now
        time.sleep(0.1)
    return dict(now)


def test_a_source_that_sends_on_is_not_followed(gateway: Running, bait: Bait) -> None:
    assert _ended(gateway, f"{bait.url}/exports/a.jsonl")["state"] == "done"
    ended = _ended(gateway, f"{bait.url}/exports/redirect.jsonl")
    assert (ended["state"], ended["total"]) == ("failed", 0)
    assert "/exports/redirect.jsonl" in bait.asked
    assert not [path for path in bait.asked if path.startswith("/secret")]


def test_a_link_in_an_allowed_folder_leads_nowhere_else(gateway: Running) -> None:
    exports, secret = gateway.folder / "exports", gateway.folder / "secret.jsonl"
    secret.write_text('{"id": "S-2", "text": "not yours"}\n')
    (exports / "good.jsonl").write_text('{"id": "G-1", "text": "good"}\n')
    (exports / "link.jsonl").symlink_to(secret)
    assert _ended(gateway, str(exports / "good.jsonl"))["state"] == "done"
    for url in (str(exports / "link.jsonl"), f"file://{exports}/link.jsonl"):
        ended = _ended(gateway, url)
        assert (ended["state"], ended["total"]) == ("failed", 0)
        assert "not below" in ended["error"]
    status, _ = gateway.call("/v1/features/stored/results/S-2")
    assert status == 404


def _feature(folder: Path, change: str) -> Path:
    source = write_features(folder / "features") / "stored" / "feature.yaml"
    text = source.read_text()
    old, new = change.split(" => ")
    assert old in text
    source.write_text(text.replace(old, new))
    return source


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("prompt: prompt.md => prompt: /etc/passwd", "prompt"),
        ("prompt: prompt.md => prompt: ../../secret.md", "prompt"),
        ("prompt: prompt.md => prompt: link.md", "prompt"),
        ("prompt: prompt.md => prompt: prompt.md, response_schema: ../../secret.json", "response_schema"),
        ("dataset: golden.jsonl => dataset: ../../secret.jsonl", "dataset"),
        ("archive: inbox => archive: inbox\n    source: ../../secret.jsonl", "source"),
        ("archive: inbox => archive: inbox\n    source: /etc/passwd", "source"),
    ],
)
def test_a_manifest_names_files_of_its_own_folder_alone(tmp_path: Path, change: str, field: str) -> None:
    for name in ("secret.md", "secret.json", "secret.jsonl"):
        (tmp_path / name).write_text("{}")
    source = _feature(tmp_path, change)
    (source.parent / "link.md").symlink_to(tmp_path / "secret.md")
    with pytest.raises(ManifestError, match=rf"{field}: \S+ leads out of the feature's folder"):
        load_feature(source)


async def test_a_manifests_url_must_be_allowed_too(tmp_path: Path, bait: Bait) -> None:
    from batch_worker.jobs.imports import Imports
    from batch_worker.settings import WorkerSettings

    feature = load_feature(
        _feature(tmp_path, f"archive: inbox => archive: inbox\n    source: {bait.url}/exports/a.jsonl")
    )
    variant = feature.variants["stored-v1"]
    claim: Any = type("Claim", (), {"source": {"kind": "source"}, "cursor": None})
    for allowed, passes in (([], False), ([f"{bait.url}/other/"], False), ([f"{bait.url}/exports"], True)):
        imports = Imports(WorkerSettings(source_urls=allowed), None, None)  # type: ignore[arg-type]
        if not passes:
            with pytest.raises(ConfigurationError, match="TRIVIUM_SOURCE_URLS"):
                imports._portions(claim, feature, variant.spec, {})  # type: ignore[arg-type]
            continue
        (portion,) = [one async for one in imports._portions(claim, feature, variant.spec, {})]  # type: ignore[arg-type]
        assert portion.keys == ["S-1"]


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.csv.gz"])
async def test_a_packed_file_of_one_endless_line_fills_no_memory(tmp_path: Path, name: str) -> None:
    feature = find_feature(write_features(tmp_path / "features"), "stored")
    with gzip.open(tmp_path / name, "wb", compresslevel=1) as bomb:
        for _ in range(MAX_LINE // 2**20 + 8):
            bomb.write(b"a" * 2**20)
    checker = Checker(feature, feature.variants["stored-v1"].spec)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"line is longer|field larger"):
        _ = [one async for one in of_url(str(tmp_path / name), checker, 100)]


def test_a_route_goes_to_http_alone() -> None:
    for url in ("file:///etc/passwd", "gopher://x", "//evil.example", "http:///path", "ftp://x"):
        text = json.dumps(
            {"routes": {"x": {"targets": [{"provider": "openai", "model": "m", "base_url": url}]}}}
        )
        with pytest.raises(ManifestError, match="base_url"):
            parse_routes(text, "routes.yaml")


@pytest.fixture
async def hops() -> AsyncIterator[tuple[str, list[tuple[str, str]]]]:
    """A vendor that sends callers on, to where the query says; (path, authorization) of what it was asked."""
    seen: list[tuple[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers.get("Authorization", "")))
        if to := request.query.get("to"):
            return web.Response(status=307, headers={"Location": to})
        return web.json_response({"choices": [], "from": request.path})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    await runner.cleanup()


async def test_the_edge_client_follows_nobody(hops: tuple[str, list[tuple[str, str]]]) -> None:
    url, seen = hops
    async with aiohttp.ClientSession() as session:
        client = EdgeClient(f"{url}/first?to={url}/second#", "key", session)
        with pytest.raises(ProviderError):
            await client.predict("m", ["x"], ["label"], 5)
    assert [path for path, _ in seen] == ["/first"]


async def test_a_model_is_never_asked_where_a_vendor_sends_us(
    hops: tuple[str, list[tuple[str, str]]],
) -> None:
    url, seen = hops
    async with aiohttp.ClientSession() as session:
        for calls in (
            wire("x", KeyRing(["key"]), session),
            wire("x", KeyRing(["key"]), session, redirects=True),
        ):
            with pytest.raises(StepError):
                await calls.ask("POST", f"{url}/first?to={url}/second", 5, data=b"{}")
    assert {path for path, _ in seen} == {"/first"}


@pytest.mark.parametrize(
    "to",
    [
        "http://localhost:{port}/second",
        "http://169.254.169.254/latest",
        "https://169.254.169.254/latest",
        "https://2852039166/latest",
        "https://[::1]/",
        "https://localhost/",
        "https://user@127.0.0.1:{port}/",
        "file:///etc/passwd",
        "gopher://x/",
        "http://user@127.0.0.1:{port}/second",
    ],
)
async def test_a_file_is_not_fetched_from_another_place_within(
    hops: tuple[str, list[tuple[str, str]]], to: str
) -> None:
    url, seen = hops
    async with aiohttp.ClientSession() as session:
        calls = wire("x", KeyRing(["key"]), session, redirects=True)
        with pytest.raises(ProviderError):
            await calls.ask("GET", f"{url}/first?to={to.format(port=url.rpartition(':')[2])}", 5)
    assert [path for path, _ in seen] == ["/first"]


async def test_a_file_on_the_same_host_is_fetched_and_a_circle_ends(
    hops: tuple[str, list[tuple[str, str]]],
) -> None:
    url, seen = hops
    async with aiohttp.ClientSession() as session:
        calls = wire("x", KeyRing(["key"]), session, redirects=True)
        answer = await calls.ask("GET", f"{url}/first?to=/second", 5)
        assert answer["from"] == "/second"
        assert seen == [("/first", "Bearer key"), ("/second", "Bearer key")]
        with pytest.raises(ProviderError):
            await calls.ask(
                "GET", f"{url}/first?to={url}/first?to=/first%3Fto=/first%253Fto=/first%25253Fto=/x", 5
            )
    assert ("/x", "Bearer key") not in seen


async def test_a_models_name_stays_in_its_part_of_the_path(hops: tuple[str, list[tuple[str, str]]]) -> None:
    url, seen = hops
    async with aiohttp.ClientSession() as session:
        provider = GoogleProvider("google", f"{url}/v1beta", KeyRing(["key"]), session)
        for model in ("../../secret", "a/../../secret", "x?to=http://evil.example", "x#y", "a:b@c"):
            chat = Chat(model, {"messages": [{"role": "user", "content": "x"}]})
            with pytest.raises(StepError):
                await provider.complete(chat, Limits(total_s=5))
    assert seen
    assert all(path.startswith("/v1beta/models/") for path, _ in seen), seen


async def test_an_image_is_passed_on_and_never_fetched(gateway: Running, bait: Bait) -> None:
    asked = len(bait.asked)
    image = {"type": "image_url", "image_url": {"url": f"{bait.url}/exports/pixel.png"}}
    body = {"model": "route/chat", "messages": [{"role": "user", "content": [image]}]}
    status, _ = await asyncio.to_thread(gateway.call, "/v1/chat/completions", body)
    assert status == 200
    assert len(bait.asked) == asked
