"""What an administrative command leaves in the audit log, whether it was done, refused or failed."""

import asyncio
import contextvars
import functools
import getpass
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from trivium.cli.screen import Console
from trivium.errors import TriviumError, Unavailable
from trivium.settings import StoreSettings

if TYPE_CHECKING:
    from trivium.store.audit import Outcome

notes = Console(stderr=True, soft_wrap=True, highlight=False)
Given = Mapping[str, Any]
Command = TypeVar("Command", bound=Callable[..., Any])
_MOST_WHY = 300
MARK = "audit_actions"
"""The attribute of an audited command: the actions that it may enter."""


@dataclass(slots=True)
class Act:
    """An act that is under way."""

    action: str
    target: str
    detail: dict[str, Any] = field(default_factory=dict)
    entered: bool = False

    async def enter(self, outcome: "Outcome") -> None:
        """Enters what became of it; says so where that cannot be, for the act itself was made."""
        if self.entered:
            return
        self.entered = True
        if why := await _entered(self, outcome):
            notes.print(f"not in the audit log: {self.action} {self.target}: {why}", markup=False)


_current: contextvars.ContextVar[Act | None] = contextvars.ContextVar("act", default=None)


def audited(
    *actions: str,
    target: str = "name",
    which: Callable[[Given], str | None] | None = None,
    detail: tuple[str, ...] = (),
) -> Callable[[Command], Command]:
    """Enters every call of a command into the audit log.

    Args:
        actions: What it may do; the first is it, unless `which` says otherwise.
        which: Says by the command's arguments which it is; None where they only ask.
        target: The name of the argument that says to what.
        detail: Names of arguments that are entered too, where they were given.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command)

        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            action = which(given) if which else actions[0]
            if action is None:
                return command(*args, **kwargs)
            about = {name: _plain(given[name]) for name in detail if given.get(name) not in (None, False, "")}
            with acting(action, str(given.get(target) or "all"), **about):
                return command(*args, **kwargs)

        setattr(run, MARK, actions)
        return run  # type: ignore[return-value]

    return decorate


@contextmanager
def acting(action: str, target: str, **detail: Any) -> Iterator[Act]:
    """Enters an act that is made in the block; not to be used within an event loop."""
    act = Act(action, target, dict(detail))
    token = _current.set(act)
    try:
        yield act
    except BaseException as error:
        outcome = _outcome(error)
        if outcome != "done":
            act.detail.setdefault("why", _told(error))
        if not isinstance(error, Unavailable):  # where the database is away, the act was not made
            asyncio.run(act.enter(outcome))
        raise
    else:
        asyncio.run(act.enter("done"))
    finally:
        _current.reset(token)


def note(**detail: Any) -> None:
    """Adds to what is entered of the act that is under way; never a secret."""
    if act := _current.get():
        act.detail.update(detail)


async def made(**detail: Any) -> None:
    """Enters the act that is under way as done, before the command waits for what comes of it."""
    if act := _current.get():
        act.detail.update(detail)
        await act.enter("done")


def actor() -> str:
    """Who types: `cli:<user of the system>`."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):  # of a container that runs as an unnamed user
        return f"cli:uid-{os.getuid()}"


async def _entered(act: Act, outcome: "Outcome") -> str | None:
    """Enters it; or says why it could not."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    from trivium.store.audit import AuditRepository
    from trivium.store.engine import Database

    try:
        url = make_url(StoreSettings().resolved_database_url)
        file = url.database if url.drivername.startswith("sqlite") else None
        if file and not Path(file).exists():
            return f"there is no database {file}"
        database = Database(StoreSettings().resolved_database_url)
    except (TriviumError, ValueError, SQLAlchemyError) as error:
        return getattr(error, "detail", "TRIVIUM_DATABASE_URL is not a database URL")
    try:
        await AuditRepository(database).record(actor(), act.action, act.target, outcome, act.detail)
    except TriviumError as error:
        return error.detail
    except SQLAlchemyError:
        return "the database has no audit log; `trivium db upgrade` makes it"
    finally:
        await database.close()
    return None


def _outcome(error: BaseException) -> "Outcome":
    if isinstance(error, typer.Exit):
        return "refused" if error.exit_code else "done"
    if isinstance(error, typer.BadParameter):
        return "refused"
    if isinstance(error, TriviumError):
        return "refused" if error.status < 500 else "failed"
    return "failed"


def _told(error: BaseException) -> str:
    if isinstance(error, TriviumError):
        return error.detail[:_MOST_WHY]
    if isinstance(error, typer.BadParameter):
        return error.format_message()[:_MOST_WHY]
    if isinstance(error, typer.Exit):
        return f"exit {error.exit_code}"
    return type(error).__name__


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | bool | str) else str(getattr(value, "value", value))
