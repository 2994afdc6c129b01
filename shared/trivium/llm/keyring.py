"""The keys of a provider: several share its limits, and one that is refused rests."""

import time
from collections.abc import Callable, Sequence

from trivium.errors import RateLimited

REFUSED_S = 60.0
"""How long a key rests that the vendor does not admit."""
_MAX_NOTES = 1_000


class KeyRing:
    """Keys in the order they are used; without any, calls go out without one.

    A limit holds for a key and a model, a refusal for a key. Another key is used only when it must be: a
    vendor's prompt cache belongs to a key's account.
    """

    def __init__(self, secrets: Sequence[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._secrets = list(dict.fromkeys(secrets)) or [""]
        self._resting: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        return len(self._secrets)

    def take(self, model: str = "") -> str:
        """A key that may be used now for a model; empty if there are none at all.

        Raises:
            RateLimited: all rest, with the seconds until the first may be used.
        """
        if not self._resting:
            return self._secrets[0]
        now = self._clock()
        until = {secret: self._until(secret, model) for secret in self._secrets}
        for secret in self._secrets:
            if until[secret] <= now:
                return secret
        wait = min(until.values()) - now
        raise RateLimited(f"asked for too much lately; it said to wait {wait:.1f} s more", retry_after_s=wait)

    def rest(self, secret: str, seconds: float, model: str = "") -> bool:
        """Lays a key aside for a while, for a model or for all; True if another may be used meanwhile."""
        now = self._clock()
        if len(self._resting) >= _MAX_NOTES:
            self._resting = {note: until for note, until in self._resting.items() if until > now}
        self._resting[secret, model] = now + seconds
        return any(self._until(other, model) <= now for other in self._secrets)

    def redacted(self, text: str) -> str:
        """The text without any of the keys."""
        for secret in self._secrets:
            if secret:
                text = text.replace(secret, "[key]")
        return text

    def _until(self, secret: str, model: str) -> float:
        return max(self._resting.get((secret, model), 0.0), self._resting.get((secret, ""), 0.0))
