"""Sets a feature's flag to a stage: in Unleash by its admin API, without a server in the flags file.

A stage is a gradual rollout, sticky by the subject's id within one group, so that whoever is in at 10 % stays
in at 25 %. Beside it stand those who always get the AI: the staging subjects, from `limited` on the cohort.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp
from pydantic import Field, SecretStr

from trivium.domain.manifest import Rollout
from trivium.domain.rollout import Stage
from trivium.errors import ConfigurationError, Conflict, Forbidden, Unavailable
from trivium.flags import FlagSettings, read_flags

Strategy = dict[str, Any]
GRADUAL = "flexibleRollout"
SUBJECT = "userId"
"""What Unleash calls the subject."""
TIMEOUT_S = 5.0


class FlagAdminSettings(FlagSettings):
    """Where flags come from, and what it takes to set them."""

    unleash_admin_token: SecretStr | None = Field(
        None, description="An admin token of Unleash; `trivium rollout` and the guard set flags with it."
    )
    unleash_project: str = Field("default", description="Unleash's project in which flags are made.")
    unleash_environment: str | None = Field(
        None, description="Unleash's environment; by default it is called as TRIVIUM_ENVIRONMENT."
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """What a flag is to be: the percentage, and who gets the AI besides."""

    flag: str
    percent: int
    always: tuple[str, ...] = ()
    cohort: tuple[str, tuple[str, ...]] | None = None

    @classmethod
    def of(cls, rollout: Rollout, stage: Stage) -> "Plan":
        """The plan of a stage. In `limited` the cohort takes the percentage's place, and stays in after."""
        cohort = rollout.limited_cohort
        percent = stage.percent(rollout.limited_percent)
        if stage is Stage.LIMITED and cohort:
            percent = 0
        chosen = (cohort.property, tuple(cohort.values)) if cohort and stage is not Stage.STAGING else None
        return cls(rollout.flag, percent, tuple(rollout.staging_subjects), chosen)

    @property
    def enabled(self) -> bool:
        """Whether anybody gets the AI; a flag that is on without a strategy would be on for everybody."""
        return bool(self.percent or self.always or self.cohort)

    def strategies(self) -> list[Strategy]:
        """In the form that the flags file and Unleash share."""
        found = [_gradual(self.flag, self.percent)] if self.percent else []
        if self.always:
            found.append(_for(self.flag, SUBJECT, self.always))
        if self.cohort:
            found.append(_for(self.flag, *self.cohort))
        return found


class FlagAdmin(Protocol):
    """Sets flags, and tells how they are."""

    async def percent(self, flag: str) -> int | None:
        """The percentage of the subjects for whom a flag is on; None if it is not known.

        Raises:
            Unavailable: the server is away.
        """
        ...

    async def apply(self, plan: Plan) -> None:
        """Makes a flag what the plan says; to repeat it changes nothing.

        Raises:
            Unavailable: the server is away. ConfigurationError: it takes no token of ours, or the file
            cannot be written. Conflict: the flag has a strategy that somebody else made.
        """
        ...


def make_flag_admin(settings: FlagAdminSettings, session: aiohttp.ClientSession) -> FlagAdmin:
    """Unleash's, if there is a server, else the file's."""
    if settings.unleash_url:
        return UnleashAdmin(settings, session)
    return FileAdmin(settings.flags_file)


def percent_of(flag: Mapping[str, Any]) -> int:
    """The percentage for whom a flag is on by its gradual strategies without constraints."""
    if not flag.get("enabled"):
        return 0
    strategies = flag.get("strategies") or [{"name": "default"}]
    shares = [_share(one) for one in strategies if not one.get("constraints")]
    return max(shares, default=0)


def _share(strategy: Strategy) -> int:
    match strategy.get("name"):
        case "default":
            return 100
        case "flexibleRollout":
            return int(float((strategy.get("parameters") or {}).get("rollout", 0)))
        case _:
            return 0


def _gradual(flag: str, percent: int) -> Strategy:
    parameters = {"rollout": str(percent), "stickiness": SUBJECT, "groupId": flag}
    return {"name": GRADUAL, "parameters": parameters}


def _for(flag: str, name: str, values: Sequence[str]) -> Strategy:
    """For everybody in whose context a field has one of the values."""
    wanted = {"contextName": name, "operator": "IN", "values": list(values)}
    return {**_gradual(flag, 100), "constraints": [wanted]}


@dataclass(frozen=True, slots=True)
class FileAdmin:
    """The flags of a file; the other flags in it stay as they are."""

    path: Path | None

    async def percent(self, flag: str) -> int | None:
        """As the protocol has it; a flag that is not in the file is off."""
        return next((percent_of(one) for one in self._read()["features"] if one.get("name") == flag), 0)

    async def apply(self, plan: Plan) -> None:
        """As the protocol has it; written beside and moved into place."""
        path = self._path()
        state = self._read()
        made = {"name": plan.flag, "enabled": plan.enabled, "strategies": plan.strategies()}
        features = state["features"]
        known = [place for place, one in enumerate(features) if one.get("name") == plan.flag]
        for place in known:
            features[place] = {**features[place], **made}
        if not known:
            features.append(made)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            partial.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise ConfigurationError(f"TRIVIUM_FLAGS_FILE: {path}: {error.strerror}") from error

    def _read(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(read_flags(self._path()))
        return state

    def _path(self) -> Path:
        if self.path is None:
            raise ConfigurationError(
                "there is neither TRIVIUM_UNLEASH_URL nor TRIVIUM_FLAGS_FILE, so there is no flag to set"
            )
        return self.path


class UnleashAdmin:
    """Unleash's admin API; strategies are ours by their name and their group."""

    def __init__(self, settings: FlagAdminSettings, session: aiohttp.ClientSession) -> None:
        assert settings.unleash_url
        self._base = f"{settings.unleash_url.rstrip('/')}/admin/projects/{settings.unleash_project}/features"
        self._environment = settings.unleash_environment or settings.environment
        token = settings.unleash_admin_token
        self._token = token.get_secret_value().strip() if token else None
        self._session = session

    async def percent(self, flag: str) -> int | None:
        """As the protocol has it; None without a token."""
        if self._token is None:
            return None
        found = await self._call("GET", f"/{flag}/environments/{self._environment}", missing_ok=True)
        return percent_of(found) if found else 0

    async def apply(self, plan: Plan) -> None:
        """As the protocol has it. What is taken away goes first, so that nobody is let in on the way."""
        if await self._call("GET", f"/{plan.flag}", missing_ok=True) is None:
            await self._call("POST", "", {"name": plan.flag, "type": "release", "impressionData": False})
        here = f"/{plan.flag}/environments/{self._environment}"
        if not plan.enabled:
            await self._call("POST", f"{here}/off")
        present: list[Strategy] = await self._call("GET", f"{here}/strategies") or []
        foreign = [one["name"] for one in present if _kind_of(one, plan.flag) is None]
        if foreign and plan.enabled:
            raise Conflict(
                f"the flag {plan.flag} has a strategy of another's in {self._environment} "
                f"({', '.join(foreign)}); take it away in Unleash, or it decides beside the stage"
            )
        await self._converge(plan, here, present)
        if plan.enabled:
            await self._call("POST", f"{here}/on")

    async def _converge(self, plan: Plan, here: str, present: list[Strategy]) -> None:
        ours = {_kind_of(one, plan.flag): one for one in present}
        wanted = {_kind_of(one, plan.flag): one for one in plan.strategies()}
        for kind, one in ours.items():
            if kind is not None and kind not in wanted:
                await self._call("DELETE", f"{here}/strategies/{one['id']}")
        for kind, one in wanted.items():
            body = {"constraints": [], **one}
            known = ours.get(kind)
            if known is None:
                await self._call("POST", f"{here}/strategies", body)
            elif any(known.get(name) != value for name, value in body.items()):
                await self._call("PUT", f"{here}/strategies/{known['id']}", body)

    async def _call(self, method: str, path: str, body: Any = None, *, missing_ok: bool = False) -> Any:
        if self._token is None:
            raise ConfigurationError("TRIVIUM_UNLEASH_ADMIN_TOKEN is not set; flags cannot be set without it")
        headers = {"Authorization": self._token}
        limits = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with self._session.request(
                method, self._base + path, json=body, headers=headers, timeout=limits
            ) as response:
                if response.status == 404 and missing_ok:
                    return None
                raw = await response.text()
                _refuse(response.status, f"{method} {path}", raw)
                return json.loads(raw) if raw.startswith(("{", "[")) else None
        except (aiohttp.ClientError, TimeoutError) as error:
            told = str(error) or type(error).__name__
            raise Unavailable(f"Unleash did not answer: {told}", retry_after_s=5) from error


def _kind_of(strategy: Strategy, flag: str) -> str | None:
    """Which of ours a strategy is; None for another's."""
    if strategy["name"] != GRADUAL or (strategy.get("parameters") or {}).get("groupId") != flag:
        return None
    constraints = strategy.get("constraints")
    if not constraints:
        return "gradual"
    return "always" if constraints[0]["contextName"] == SUBJECT else "cohort"


def _refuse(status: int, what: str, raw: str) -> None:
    if status < 300:
        return
    told = f"Unleash answered {status} to {what}: {raw[:200]}"
    if status == 401:
        raise ConfigurationError(f"TRIVIUM_UNLEASH_ADMIN_TOKEN is not accepted: {told}")
    if status == 403:
        raise Forbidden(f"TRIVIUM_UNLEASH_ADMIN_TOKEN may not do that: {told}")
    if status in (404, 400, 409):
        raise ConfigurationError(f"TRIVIUM_UNLEASH_PROJECT or TRIVIUM_UNLEASH_ENVIRONMENT: {told}")
    raise Unavailable(told, retry_after_s=5)
