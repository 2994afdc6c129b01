"""Wrong keys, counted by the address that they came from: who guesses is soon refused unread."""

import ipaddress
import time
from collections import OrderedDict, deque
from math import ceil

from trivium.errors import TooManyGuesses

WINDOW_S = 60.0
MOST_NAMES = 10_000
"""Names that are remembered; of more, those that were counted longest ago are forgotten."""
_IPV6_BITS = 64


class Recent:
    """What was counted of each name in the last 60 s, up to a limit; memory is bounded. 0 is no limit."""

    def __init__(self, limit: int, most_names: int = MOST_NAMES) -> None:
        self.limit = limit
        self._most = most_names
        self._counted: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        """Names that are remembered."""
        return len(self._counted)

    def full_s(self, name: str) -> float:
        """Seconds until a name is under its limit; 0 if it is."""
        counted = self._counted.get(name)
        if counted is None or len(counted) < self.limit:
            return 0.0
        return max(0.0, counted[0] + WINDOW_S - time.monotonic())

    def count(self, name: str) -> None:
        """Counts one more; over the limit the oldest is forgotten."""
        if not self.limit:
            return
        counted = self._counted.setdefault(name, deque(maxlen=self.limit))
        counted.append(time.monotonic())
        self._counted.move_to_end(name)
        if len(self._counted) > self._most:
            self._counted.popitem(last=False)


class Guesses:
    """At most `per_minute` wrong keys an address in any 60 s; 0 sets no limit."""

    def __init__(self, per_minute: int, most_addresses: int = MOST_NAMES) -> None:
        self._made = Recent(per_minute, most_addresses)

    def __len__(self) -> int:
        """Addresses that are remembered."""
        return len(self._made)

    def check(self, address: str) -> None:
        """Lets an address guess on.

        Raises:
            TooManyGuesses: its guesses are used up; `retry_after_s` says until when.
        """
        if left_s := self._made.full_s(network_of(address)):
            told = f"{self._made.limit} wrong API keys came from this address within a minute"
            raise TooManyGuesses(f"{told}; try again in {ceil(left_s)} s", retry_after_s=left_s)

    def count(self, address: str) -> None:
        """Counts a wrong key."""
        self._made.count(network_of(address))


def network_of(address: str) -> str:
    """What counts as one: an IPv4 address; of IPv6 the /64, of which one host has every address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address  # a unix socket has none
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), _IPV6_BITS), strict=False).network_address)
