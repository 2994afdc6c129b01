"""Server-sent events, by the rules of the standard, wherever the bytes are split."""

import pytest

from support.recordings import RECORDINGS, Recording
from trivium.llm.sse import MAX_EVENT_BYTES, EventParser, TooLong

Event = tuple[str, bytes]


def parsed(*parts: bytes) -> list[Event]:
    parser = EventParser()
    return [event for part in parts for event in parser.feed(part)] + list(parser.end())


CASES: list[tuple[str, bytes, list[Event]]] = [
    ("one", b"data: a\n\n", [("", b"a")]),
    ("two", b"data: a\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
    ("named", b"event: ping\ndata: {}\n\n", [("ping", b"{}")]),
    ("named after", b"data: {}\nevent: ping\n\n", [("ping", b"{}")]),
    ("lines", b"data: a\ndata: b\n\n", [("", b"a\nb")]),
    ("no space", b"data:a\n\n", [("", b"a")]),
    ("comment", b": hello\n\ndata: a\n: there\n\n", [("", b"a")]),
    ("other fields", b"id: 7\nretry: 3\ndata: a\n\n", [("", b"a")]),
    ("a name alone", b"event: ping\n\ndata: a\n\n", [("", b"a")]),
    ("empty lines", b"\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
    ("a line that ends in its field", b"data\ndata: a\n\n", [("", b"\na")]),
    ("no end", b"data: a\n\ndata: b", [("", b"a"), ("", b"b")]),
    ("half an end", b"data: a\n\nevent: e\ndata: b\n", [("", b"a"), ("e", b"b")]),
    ("a colon in the data", b"data: a: b\n\n", [("", b"a: b")]),
    ("not ASCII", "data: Grüße\n\n".encode(), [("", "Grüße".encode())]),
    ("nothing", b"", []),
]


@pytest.mark.parametrize(("raw", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
@pytest.mark.parametrize("line", [b"\n", b"\r\n", b"\r"])
def test_events_are_the_same_wherever_the_bytes_are_split(
    raw: bytes, expected: list[Event], line: bytes
) -> None:
    sent = raw.replace(b"\n", line)
    assert parsed(sent) == expected
    for place in range(len(sent) + 1):
        assert parsed(sent[:place], sent[place:]) == expected
    assert parsed(*(sent[place : place + 1] for place in range(len(sent)))) == expected


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda r: f"{r.vendor}: {r.name}")
@pytest.mark.parametrize("line", [b"\n", b"\r\n"])
def test_the_streams_of_the_vendors_are_the_same_split_at_any_byte(recording: Recording, line: bytes) -> None:
    sent = recording.stream.replace(b"\n", line)
    expected = parsed(recording.stream)
    assert len(expected) == len(recording.events) + (recording.vendor == "openai")
    for place in range(len(sent) + 1):
        assert parsed(sent[:place], sent[place:]) == expected


def test_an_event_is_passed_on_as_soon_as_its_end_has_come() -> None:
    parser = EventParser()
    assert list(parser.feed(b"data: a\n")) == []
    assert list(parser.feed(b"\ndata: b")) == [("", b"a")]
    assert list(parser.feed(b"\r\n\r\n")) == [("", b"b")]


def test_an_event_without_an_end_does_not_fill_the_memory() -> None:
    parser = EventParser()
    for _ in range(MAX_EVENT_BYTES // 2**20):
        assert list(parser.feed(b"x" * 2**20)) == []
    with pytest.raises(TooLong):
        list(parser.feed(b"x"))
