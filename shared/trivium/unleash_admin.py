"""Unleash's admin API: makes a flag what a stage says, and leaves what others made."""

import json
from typing import Any, get_args

import aiohttp
import structlog

from trivium.errors import ConfigurationError, Conflict, Forbidden, Unavailable
from trivium.flag_plan import GRADUAL, SUBJECT, FlagAdminSettings, Part, Plan, Strategy, percent_of

log = structlog.get_logger()
TITLE = "trivium: "
"""Before the part's name: by their titles our strategies are known again."""
TIMEOUT_S = 5.0


class UnleashAdmin:
    """Sets flags in one project and one environment of Unleash."""

    def __init__(self, settings: FlagAdminSettings, session: aiohttp.ClientSession) -> None:
        assert settings.unleash_url
        self._url = settings.unleash_url.rstrip("/")
        self._features = f"/admin/projects/{settings.unleash_project}/features"
        self._environment = settings.unleash_environment or settings.environment
        self._admin_token = _secret(settings.unleash_admin_token)
        self._client_token = _secret(settings.unleash_token)
        self._session = session

    async def percent(self, flag: str) -> int | None:
        """As the protocol has it: with the admin token, or with that which clients read flags with."""
        if self._admin_token is not None:
            path = f"{self._features}/{flag}/environments/{self._environment}"
            found = await self._call("GET", path, missing_ok=True)
        elif self._client_token is not None:
            found = await self._call("GET", f"/client/features/{flag}", missing_ok=True, admin=False)
        else:
            return None
        return percent_of(found) if isinstance(found, dict) else 0

    async def apply(self, plan: Plan) -> None:
        """As the protocol has it. What is taken away goes first, so that nobody is let in on the way."""
        flag = f"{self._features}/{plan.flag}"
        if await self._call("GET", flag, missing_ok=True) is None:
            await self._call("POST", self._features, {"name": plan.flag, "type": "release"})
        here = f"{flag}/environments/{self._environment}"
        if not plan.enabled:
            await self._call("POST", f"{here}/off")
        present: list[Strategy] = await self._call("GET", f"{here}/strategies") or []
        foreign = [one["name"] for one in present if _part_of(one, plan.flag) is None]
        if foreign and plan.enabled:
            await self._stands_beside(plan, here, ", ".join(foreign))
        await self._converge(plan, f"{here}/strategies", present)
        if plan.enabled and not foreign:
            await self._call("POST", f"{here}/on")

    async def _stands_beside(self, plan: Plan, here: str, foreign: str) -> None:
        """A way back must not fail for what another made: then nobody gets the AI, testers included."""
        if not plan.closed:
            raise Conflict(
                f"the flag {plan.flag} has a strategy of another's in {self._environment} "
                f"({foreign}); take it away in Unleash, or it decides beside the stage"
            )
        await self._call("POST", f"{here}/off")
        log.warning("flag_off_for_all", flag=plan.flag, strategies_of_others=foreign)

    async def _converge(self, plan: Plan, path: str, present: list[Strategy]) -> None:
        wanted = plan.parts()
        known: dict[Part, Strategy] = {}
        for one in present:
            part = _part_of(one, plan.flag)
            if part is None:
                continue
            if part in wanted and part not in known:
                known[part] = one
            else:  # a second one of a part, too, would decide beside the stage
                await self._call("DELETE", f"{path}/{one['id']}")
        for part, strategy in wanted.items():
            body = {"constraints": [], "segments": [], "disabled": False, "title": TITLE + part, **strategy}
            if part not in known:
                await self._call("POST", path, body)
            elif any(not _same(known[part].get(name), value) for name, value in body.items()):
                await self._call("PUT", f"{path}/{known[part]['id']}", body)

    async def _call(
        self, method: str, path: str, body: Any = None, *, missing_ok: bool = False, admin: bool = True
    ) -> Any:
        token = self._admin_token if admin else self._client_token
        if token is None:
            raise ConfigurationError("TRIVIUM_UNLEASH_ADMIN_TOKEN is not set; flags cannot be set without it")
        try:
            # A redirect would carry a change over as a GET, and the token to another.
            async with self._session.request(
                method,
                self._url + path,
                json=body,
                headers={"Authorization": token},
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                allow_redirects=False,
            ) as response:
                if response.status == 404 and missing_ok:
                    return None
                raw = await response.text(errors="replace")
        except (aiohttp.ClientError, TimeoutError) as error:
            told = str(error) or type(error).__name__
            raise Unavailable(f"Unleash did not answer: {told}", retry_after_s=5) from error
        setting = "TRIVIUM_UNLEASH_ADMIN_TOKEN" if admin else "TRIVIUM_UNLEASH_TOKEN"
        _refuse(response.status, f"{method} {path}", raw, setting)
        return _object(raw)


def _secret(token: Any) -> str | None:
    return token.get_secret_value().strip() if token else None


def _part_of(strategy: Strategy, flag: str) -> Part | None:
    """Which of ours a strategy is; None for another's. A gradual one of the same group is as good as ours."""
    title = strategy.get("title") or ""
    for part in get_args(Part):
        if title == TITLE + part:
            found: Part = part
            return found
    parameters = strategy.get("parameters") or {}
    alike = parameters.get("groupId") == flag and parameters.get("stickiness") == SUBJECT
    plain = not strategy.get("constraints") and not strategy.get("segments")
    return "gradual" if strategy["name"] == GRADUAL and alike and plain else None


def _same(known: Any, wanted: Any) -> bool:
    """Whether what Unleash has is what is wanted; it adds defaults of its own."""
    if isinstance(wanted, dict):
        return isinstance(known, dict) and all(_same(known.get(name), wanted[name]) for name in wanted)
    if isinstance(wanted, list):
        if not isinstance(known, list) or len(known) != len(wanted):
            return False
        return all(_same(*pair) for pair in zip(known, wanted, strict=True))
    return bool((known or False) == (wanted or False))


def _object(raw: str) -> Any:
    if not raw.strip():
        return None
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        told = f"what answers is not Unleash's API: {raw[:80]!r}"
        raise ConfigurationError(f"TRIVIUM_UNLEASH_URL: {told}") from error


def _refuse(status: int, what: str, raw: str, setting: str) -> None:
    if status < 300:
        return
    told = f"Unleash answered {status} to {what}: {raw[:200]}"
    if status == 401:
        raise ConfigurationError(f"{setting} is not accepted: {told}")
    if status == 403:
        raise Forbidden(f"{setting} may not do that: {told}")
    if status < 400:
        raise ConfigurationError(f"TRIVIUM_UNLEASH_URL is not where Unleash is: {told}")
    if status in (404, 400, 409):
        raise ConfigurationError(f"TRIVIUM_UNLEASH_PROJECT or TRIVIUM_UNLEASH_ENVIRONMENT: {told}")
    raise Unavailable(told, retry_after_s=5)
