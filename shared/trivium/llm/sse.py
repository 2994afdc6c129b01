"""Server-sent events, taken apart as their bytes arrive (WHATWG HTML, 9.2.6)."""

from collections.abc import Iterator

MAX_EVENT_BYTES = 8 * 2**20


class TooLong(ValueError):
    """An event has no end."""


class EventParser:
    """Bytes in, `(event, data)` out; comments and other fields are passed over."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """The events that end in these bytes.

        Raises:
            TooLong: one has more than MAX_EVENT_BYTES.
        """
        text = self._rest + data
        if b"\r" in text:
            held = b"\r" if text.endswith(b"\r") else b""
            text = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
        *blocks, self._rest = text.split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise TooLong(f"an event of more than {MAX_EVENT_BYTES} bytes")
        for block in blocks:
            if event := _event(block):
                yield event

    def end(self) -> Iterator[tuple[str, bytes]]:
        """What stood at the end without its blank line."""
        block, self._rest = self._rest.rstrip(b"\r\n"), b""
        if event := _event(block):
            yield event


def _event(block: bytes) -> tuple[str, bytes] | None:
    if block.startswith(b"data:") and b"\n" not in block:
        return "", block[5:].strip()
    name, data = b"", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.strip()
    return (name.decode(errors="replace"), b"\n".join(data)) if data else None
