"""Flags are set to a stage: in a file, and in a real Unleash; the real client says who is in."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from support.unleash import Unleash
from trivium.domain.manifest import Cohort, Rollout
from trivium.domain.rollout import Stage
from trivium.errors import ConfigurationError, Conflict, Unavailable
from trivium.flag_admin import FileAdmin, FlagAdminSettings, Plan, make_flag_admin, percent_of
from trivium.flag_client import UnleashFlags

SUBJECTS = [f"subject-{n}" for n in range(2000)]
ROLLOUT = Rollout(flag="rolled-out", staging_subjects=["tester"], limited_percent=8)
COHORT = Rollout(flag="rolled-out", limited_cohort=Cohort(property="beta", values=["yes"]))
OTHER = {"name": "other", "enabled": True, "strategies": [{"name": "default"}], "type": "kill-switch"}


class Clients:
    """Clients of what an admin sets."""

    def __init__(self, settings: FlagAdminSettings) -> None:
        self.settings = settings

    async def who_is_in(self, properties: dict[str, str] | None = None) -> set[str]:
        """Of SUBJECTS and the tester, by a client that starts now."""
        flags = UnleashFlags(self.settings)
        await flags.start()
        try:
            if flags._connecting:
                await flags._connecting
            subjects = ["tester", *SUBJECTS]
            return {one for one in subjects if flags.is_enabled("rolled-out", one, properties or {})}
        finally:
            await flags.stop()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flags.json"
    path.write_text(json.dumps({"version": 1, "features": [OTHER]}))
    return path


async def _walk(admin: Any, clients: Clients) -> None:
    """Through all stages and back: whoever is in stays in, and the shares are those of the stages."""
    inside: set[str] = set()
    for stage in Stage:
        await admin.apply(Plan.of(ROLLOUT, stage))
        found = await clients.who_is_in()
        expected = stage.percent(8)
        assert "tester" in found
        assert abs(len(found - {"tester"}) / 20 - expected) < 2.5, stage
        assert inside <= found
        assert await admin.percent("rolled-out") == expected
        inside = found
    await admin.apply(Plan.of(ROLLOUT, Stage.STAGING))
    assert await clients.who_is_in() == {"tester"}
    await admin.apply(Plan.of(Rollout(flag="rolled-out"), Stage.STAGING))
    assert await clients.who_is_in() == set()


async def _cohort(admin: Any, clients: Clients) -> None:
    await admin.apply(Plan.of(COHORT, Stage.LIMITED))
    assert await clients.who_is_in() == set()
    assert len(await clients.who_is_in({"beta": "yes"})) == 2001
    await admin.apply(Plan.of(COHORT, Stage.EXPAND_25))
    assert 400 < len(await clients.who_is_in()) < 600
    assert len(await clients.who_is_in({"beta": "yes"})) == 2001


async def test_a_file_is_walked_through_the_stages(file: Path, tmp_path: Path) -> None:
    settings = FlagAdminSettings(flags_file=file, state_dir=tmp_path)
    await _walk(FileAdmin(file), Clients(settings))
    assert json.loads(file.read_text())["features"][0] == OTHER


async def test_a_file_keeps_what_is_not_ours_and_stays_a_link(file: Path, tmp_path: Path) -> None:
    other = {**OTHER, "description": "naïve 🙂"}
    file.write_text(json.dumps({"version": 1, "features": [other]}))
    link = tmp_path / "elsewhere" / "flags.json"
    link.parent.mkdir()
    link.symlink_to(file)
    plan = Plan.of(ROLLOUT, Stage.LIMITED)
    await FileAdmin(link).apply(plan)
    first = file.read_bytes()
    assert link.is_symlink()
    assert json.loads(first)["features"][0] == other
    assert "naïve 🙂" in first.decode()
    await FileAdmin(link).apply(plan)
    assert file.read_bytes() == first
    assert [one.name for one in tmp_path.rglob("*.partial")] == []


def test_two_who_change_a_file_at_once_both_do(file: Path) -> None:
    names = {f"flag-{n}" for n in range(40)}

    def add(name: str) -> None:
        asyncio.run(FileAdmin(file).apply(Plan.of(Rollout(flag=name), Stage.GA)))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, names))
    assert {one["name"] for one in json.loads(file.read_text())["features"]} == {"other", *names}


async def test_a_files_cohort_is_in_and_stays_in(file: Path, tmp_path: Path) -> None:
    await _cohort(FileAdmin(file), Clients(FlagAdminSettings(flags_file=file, state_dir=tmp_path)))


async def test_what_cannot_be_set_is_told(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    plan = Plan.of(ROLLOUT, Stage.LIMITED)
    with pytest.raises(ConfigurationError, match="TRIVIUM_FLAGS_FILE"):
        await FileAdmin(None).apply(plan)
    with pytest.raises(ConfigurationError, match=r"nowhere\.json"):
        await FileAdmin(tmp_path / "nowhere.json").apply(plan)
    bare = FlagAdminSettings(unleash_url="http://127.0.0.1:9/api")
    assert await make_flag_admin(bare, session).percent("rolled-out") is None
    with pytest.raises(ConfigurationError, match="TRIVIUM_UNLEASH_ADMIN_TOKEN"):
        await make_flag_admin(bare, session).apply(plan)
    away = FlagAdminSettings(unleash_url="http://127.0.0.1:9/api", unleash_admin_token=SecretStr("x"))
    with pytest.raises(Unavailable):
        await make_flag_admin(away, session).apply(plan)


@pytest.mark.parametrize(
    ("flag", "percent"),
    [
        ({"enabled": True, "strategies": []}, 100),
        ({"enabled": False, "strategies": [{"name": "default"}]}, 0),
        ({"enabled": True, "strategies": [{"name": "userWithId", "parameters": {"userIds": "a"}}]}, 0),
        ({"enabled": True, "strategies": [{"name": "default", "constraints": [{}]}]}, 0),
        ({"enabled": True, "strategies": [{"name": "default", "segments": [1]}]}, 0),
        ({"enabled": True, "strategies": [{"name": "default", "disabled": True}]}, 0),
    ],
)
def test_the_percentage_of_a_flag_is_that_of_everybody(flag: dict[str, Any], percent: int) -> None:
    assert percent_of(flag) == percent


@pytest.fixture
def settings(unleash: Unleash, tmp_path: Path) -> FlagAdminSettings:
    return FlagAdminSettings(
        unleash_url=unleash.url,
        unleash_token=SecretStr(Unleash.token),
        unleash_admin_token=SecretStr(Unleash.admin_token),
        state_dir=tmp_path,
    )


async def _seen(clients: Clients, count: int) -> None:
    """Unleash itself looks for changes once a second."""
    until = time.monotonic() + 10
    while len(await clients.who_is_in()) != count:
        assert time.monotonic() < until
        await asyncio.sleep(0.2)


@pytest.mark.unleash
async def test_unleash_is_walked_through_the_stages_and_minds_what_others_made(
    unleash: Unleash, settings: FlagAdminSettings, session: aiohttp.ClientSession
) -> None:
    admin, clients = make_flag_admin(settings, session), Clients(settings)
    assert await admin.percent("rolled-out") == 0  # not made yet
    inside: set[str] = set()
    for stage in (Stage.STAGING, Stage.LIMITED, Stage.EXPAND_25):
        await admin.apply(Plan.of(ROLLOUT, stage))
        await admin.apply(Plan.of(ROLLOUT, stage))  # to repeat it changes nothing
        assert await admin.percent("rolled-out") == stage.percent(8)
        until = time.monotonic() + 10
        found = await clients.who_is_in()
        while abs(len(found - {"tester"}) / 20 - stage.percent(8)) >= 2.5:
            assert time.monotonic() < until
            found = await clients.who_is_in()
        assert inside <= found
        inside = found
    reader = settings.model_copy(update={"unleash_admin_token": None})
    assert await make_flag_admin(reader, session).percent("rolled-out") == 25
    assert await make_flag_admin(reader, session).percent("not made") == 0
    strategies = "/rolled-out/environments/development/strategies"
    again = unleash._admin("GET", strategies)
    (gradual,) = [one for one in again if not one["constraints"]]
    unleash._admin("POST", strategies, {key: gradual[key] for key in ("name", "parameters")})
    await admin.apply(Plan.of(ROLLOUT, Stage.LIMITED))
    assert len(unleash._admin("GET", strategies)) == len(again)  # a second one of ours is one too many
    assert await admin.percent("rolled-out") == 8
    unleash._admin("POST", strategies, {"name": "default", "parameters": {}})
    with pytest.raises(Conflict, match="default"):
        await admin.apply(Plan.of(ROLLOUT, Stage.EXPAND_50))
    await admin.apply(Plan.of(ROLLOUT, Stage.STAGING))  # a way back is never refused
    assert await admin.percent("rolled-out") == 0
    await _seen(clients, 0)
    unleash.switch("rolled-out", on=True)
    await _seen(clients, 2001)
    await admin.apply(Plan.of(Rollout(flag="rolled-out"), Stage.STAGING))  # off is off, whatever stands there
    await _seen(clients, 0)
    wrong = settings.model_copy(update={"unleash_admin_token": SecretStr("*:*.wrong")})
    with pytest.raises(ConfigurationError, match="TRIVIUM_UNLEASH_ADMIN_TOKEN is not accepted"):
        await make_flag_admin(wrong, session).apply(Plan.of(ROLLOUT, Stage.GA))
    cloaked = settings.model_copy(update={"unleash_url": unleash.root})
    with pytest.raises(ConfigurationError, match="TRIVIUM_UNLEASH_URL"):
        await make_flag_admin(cloaked, session).apply(Plan.of(ROLLOUT, Stage.GA))
    nowhere = settings.model_copy(update={"unleash_project": "nowhere"})
    with pytest.raises(ConfigurationError, match="TRIVIUM_UNLEASH_PROJECT"):
        await make_flag_admin(nowhere, session).apply(Plan.of(Rollout(flag="another"), Stage.GA))
