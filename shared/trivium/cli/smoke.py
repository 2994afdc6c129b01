"""`trivium smoke`: asks every feature its own example, as a product would."""

import asyncio
import os
import time
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer
from rich.console import Console

from trivium.errors import ConfigurationError
from trivium.features import load_catalogue
from trivium.settings import Settings

if TYPE_CHECKING:
    import aiohttp

KEY = "TRIVIUM_API_KEY"
SUBJECT = "smoke-test"
SPARE_S = 5.0


def smoke(
    url: Annotated[str, typer.Option(help="The gateway.")] = "http://127.0.0.1:8080",
    strict: Annotated[bool, typer.Option(help="A degraded answer fails too.")] = False,
    attempts: Annotated[int, typer.Option(min=1, help="Tries of each, a second between them.")] = 5,
) -> None:
    """Calls each feature with its manifest's example and the key in TRIVIUM_API_KEY; exits 1 if one fails."""
    key = os.environ.get(KEY, "")
    if not key:
        raise ConfigurationError(f"{KEY} is not set; it takes a key with the scope infer")
    bodies = {
        feature.name: (
            feature.manifest.example.model_dump(exclude_none=True, exclude_defaults=True),
            feature.manifest.deadline_ms / 1000,
        )
        for feature in load_catalogue(Settings().features_dir)
    }
    failed = asyncio.run(_ask_all(url.rstrip("/"), key, bodies, strict, attempts))
    raise typer.Exit(int(failed))


async def _ask_all(
    url: str, key: str, bodies: dict[str, tuple[dict[str, Any], float]], strict: bool, attempts: int
) -> bool:
    import aiohttp

    console, failed = Console(highlight=False, soft_wrap=True), False
    headers = {"Authorization": f"Bearer {key}", "X-Request-Id": f"smoke-{uuid4()}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for feature, (body, deadline_s) in bodies.items():
            asked = {**body, "subject": {"id": SUBJECT}}
            path = f"{url}/v1/features/{feature}/infer"
            for left in range(attempts - 1, -1, -1):
                began = time.monotonic()
                fault, told = await _ask(session, path, asked, deadline_s + SPARE_S, strict)
                if not fault or not left:
                    break
                await asyncio.sleep(1)
            took_ms = (time.monotonic() - began) * 1000
            mark = "[red]✗[/]" if fault else "[green]✓[/]"
            console.print(f"{mark} {feature}: ", end="")
            console.print(f"{fault or told} ({took_ms:.0f} ms)", markup=False)
            failed = failed or bool(fault)
    return failed


async def _ask(
    session: "aiohttp.ClientSession", url: str, body: dict[str, Any], seconds: float, strict: bool
) -> tuple[str | None, str]:
    """What is wrong with an answer, if anything, and who gave it."""
    import aiohttp

    try:
        limits = aiohttp.ClientTimeout(total=seconds)
        async with session.post(url, json=body, timeout=limits) as response:
            answer = await response.json(content_type=None)
            if response.status not in (200, 202):
                told = answer.get("detail") if isinstance(answer, dict) else answer
                return f"{response.status}: {told}", ""
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        return f"no answer: {str(error) or type(error).__name__}", ""
    if not isinstance(answer, dict) or not answer.keys() & {"served_by", "placeholder"}:
        return f"no answer of a gateway: {str(answer)[:200]}", ""
    if response.status == 202:
        return None, "is being generated"
    served = answer["served_by"]
    by = f"{served['step']} ({served['pattern']}, {served['model'] or served['version'] or 'no model'})"
    if answer["degraded"]:
        reason = f"degraded, {answer['fallback_reason']}: {by}"
        return (reason, "") if strict else (None, reason)
    return None, f"{answer['arm']} by {by}"
