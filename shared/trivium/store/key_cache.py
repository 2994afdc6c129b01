"""Keys in memory, so that authentication neither waits for the database nor ends with it."""

import time
from collections import OrderedDict

import structlog

from trivium.errors import TooManyGuesses, Unauthenticated, Unavailable
from trivium.guesses import Guesses
from trivium.metrics import AUTH_REFUSED
from trivium.store.keys import Key, KeyRepository, sha256_of

log = structlog.get_logger()
NOTE_S = 60.0
"""When keys were last used is written so often."""
_MISSES_A_SECOND = 20
_MOST_UNKNOWN = 10_000


class KeyCache:
    """The keys that there are, in memory.

    The whole set is read anew every five seconds, which is also how long a revoked key works on. A
    key that is not in it is looked up once (a bounded number of times a second), so that a new key
    works at once; unless too many wrong ones came from its address. What is in the set passes whatever else
    comes from there, so that nobody locks out a neighbour behind the same address.
    """

    def __init__(self, repository: KeyRepository, guesses: Guesses | None = None) -> None:
        self._repository = repository
        self._guesses = Guesses(0) if guesses is None else guesses
        self._keys: dict[str, Key] = {}
        self._unknown: OrderedDict[str, None] = OrderedDict()
        self._misses: list[float] = []
        self._used: dict[str, float] = {}
        self._noted = time.monotonic()
        self.loaded = False

    async def refresh(self) -> None:
        """Reads the keys; keeps the old ones if the database is away."""
        try:
            self._keys = await self._repository.valid()
            self.loaded = True
        except Unavailable:
            log.warning("keys_not_refreshed", cached=len(self._keys))

    async def authenticate(self, secret: str, address: str = "") -> Key:
        """The key of a secret that came from an address.

        Raises:
            Unauthenticated: it is unknown, revoked or expired.
            TooManyGuesses: it is not cached, and too many wrong ones came from there.
            Unavailable: it is not cached, and the database is away.
        """
        hashed = sha256_of(secret)
        key = self._keys.get(hashed) or await self._look_up(hashed, address)
        now = time.time()
        if key.expires_at is not None and key.expires_at < now:
            AUTH_REFUSED.labels("expired").inc()
            raise Unauthenticated("The API key has expired")
        self._used[key.own_id] = now
        return key

    async def note_use(self, *, now: bool = False) -> None:
        """Writes when keys were last used, at most once a minute or `now`; of a lost write the next makes up.

        Raises:
            Unavailable: the database is away.
        """
        if not self._used or (not now and time.monotonic() < self._noted + NOTE_S):
            return
        self._noted = time.monotonic()
        used, self._used = self._used, {}
        try:
            await self._repository.note_use(used)
        except BaseException:
            self._used = used | self._used
            raise

    async def _look_up(self, hashed: str, address: str) -> Key:
        try:
            self._guesses.check(address)
        except TooManyGuesses:
            AUTH_REFUSED.labels("guessing").inc()
            raise
        key = await self._found(hashed)
        if key is None:
            self._guesses.count(address)
            AUTH_REFUSED.labels("unknown").inc()
            raise Unauthenticated("The API key is unknown or revoked")
        return key

    async def _found(self, hashed: str) -> Key | None:
        if hashed in self._unknown:  # a secret that is random does not become a key later
            self._unknown.move_to_end(hashed)
            return None
        now = time.monotonic()
        self._misses = [at for at in self._misses if at > now - 1]
        if len(self._misses) >= _MISSES_A_SECOND:
            return None
        self._misses.append(now)
        found = await self._repository.valid(hashed)
        self._keys |= found
        if not found:
            self._unknown[hashed] = None
            if len(self._unknown) > _MOST_UNKNOWN:
                self._unknown.popitem(last=False)
        return found.get(hashed)
