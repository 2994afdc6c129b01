import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trivium.errors import Unavailable
from trivium.store.journal import SEGMENT_BYTES, Journal, Record, read_segment

CHILD = textwrap.dedent("""
    import itertools, sys
    from pathlib import Path
    from trivium.store.journal import Journal

    journal = Journal(Path(sys.argv[1]))
    pad = "x" * int(sys.argv[2])
    for number in itertools.count():
        if number == int(sys.argv[3]):
            sys.stdin.read()  # lives until it is killed
        journal.append({"number": number, "pad": pad})
        print(number, flush=True)
""")


@contextmanager
def _child(root: Path, pad: int = 0, stop_at: int = -1) -> Iterator["subprocess.Popen[str]"]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), str(pad), str(stop_at)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


@contextmanager
def _disk_full_after(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size`; the write that would is cut short."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def _append(journal: Journal, record: Record, *, durable: bool = False) -> bool:
    """Whether a record was taken; a full disk may say so by an error."""
    try:
        return journal.append(record, durable=durable)
    except Unavailable:
        return False


def _records(journal: Journal) -> list[Record]:
    return [record for segment in journal.closed_segments() for record in read_segment(segment)]


def test_records_are_read_back_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    records: list[Record] = [{"n": n, "text": "ü🙂\n\u2028", "none": None} for n in range(100)]
    assert all(journal.append(record, durable=n % 10 == 0) for n, record in enumerate(records))
    assert journal.waiting == 100
    assert _records(journal) == records
    journal.close()


def test_what_is_forgotten_does_not_come_again_and_new_records_do(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.closed_segments() == []
    journal.append({"n": 1})
    (first,) = journal.closed_segments()
    journal.append({"n": 2})
    journal.forget(first)
    assert _records(journal) == [{"n": 2}]
    assert _records(journal) == [{"n": 2}]
    journal.close()


def test_segments_rotate_at_their_size_and_keep_their_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    size = SEGMENT_BYTES // 8
    for n in range(20):
        assert journal.append({"n": n, "pad": "x" * size})
    segments = journal.closed_segments()
    assert len(segments) == 3
    assert all(segment.stat().st_size < SEGMENT_BYTES + 2 * size for segment in segments)
    assert [record["n"] for segment in segments for record in read_segment(segment)] == list(range(20))
    journal.close()


def test_more_segments_than_a_digit_counts_keep_their_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for n in range(12):
        journal.append({"n": n})
        journal.closed_segments()
    assert [record["n"] for record in _records(journal)] == list(range(12))
    journal.close()


def test_the_limit_refuses_ordinary_records_and_takes_durable_ones(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_bytes=1_000)
    taken = 0
    while journal.append({"n": taken, "pad": "x" * 80}):
        taken += 1
    assert 5 < taken <= 11
    assert journal.waiting == taken
    assert journal.append({"n": "durable", "pad": "x" * 5_000}, durable=True)
    assert not journal.append({"n": "more"})
    segments = journal.closed_segments()
    assert not journal.append({"n": "more"})  # ending a segment frees nothing
    assert [r["n"] for s in segments for r in read_segment(s)] == [*range(taken), "durable"]
    for segment in segments:
        journal.forget(segment)
    assert journal.append({"n": "room again"})
    journal.close()


def test_a_killed_process_loses_nothing_that_it_appended(tmp_path: Path) -> None:
    with _child(tmp_path) as child:
        assert child.stdout
        for line in child.stdout:
            if int(line) >= 2_000:
                break
        child.send_signal(signal.SIGKILL)
        said = [2_000, *map(int, child.stdout.read().split())]
        assert child.wait() == -signal.SIGKILL
    journal = Journal(tmp_path)
    found = [record["number"] for record in _records(journal)]
    assert found == list(range(len(found)))
    assert len(found) > said[-1]
    for segment in journal.closed_segments():
        journal.forget(segment)
    assert journal.closed_segments() == []
    assert [folder for folder in tmp_path.iterdir() if folder.name.startswith(f"{child.pid}-")] == []
    journal.close()


def test_all_segments_of_a_killed_process_are_found_in_order(tmp_path: Path) -> None:
    with _child(tmp_path, pad=1_000_000, stop_at=10) as child:
        assert child.stdout
        assert [int(child.stdout.readline()) for _ in range(10)] == list(range(10))
    journal = Journal(tmp_path)
    assert len(journal.closed_segments()) == 3
    assert [record["number"] for record in _records(journal)] == list(range(10))
    journal.close()


def test_the_folder_of_a_process_that_lives_is_left_alone(tmp_path: Path) -> None:
    with _child(tmp_path, stop_at=3) as child:
        assert child.stdout
        assert [int(child.stdout.readline()) for _ in range(3)] == [0, 1, 2]
        journal = Journal(tmp_path)
        assert _records(journal) == []
        assert list(tmp_path.glob(f"{child.pid}-*/*.jsonl"))
        child.kill()
        child.wait()
    assert [record["number"] for record in _records(journal)] == [0, 1, 2]
    journal.close()


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    with _child(tmp_path, stop_at=3) as child:
        assert child.stdout
        assert [int(child.stdout.readline()) for _ in range(3)] == [0, 1, 2]
    (segment,) = tmp_path.glob("*/*.jsonl")
    whole = segment.read_bytes()
    journal = Journal(tmp_path)
    line = b'{"number":3,"pad":""}\n'
    for length in range(len(line)):
        segment.write_bytes(whole + line[:length])
        assert [record["number"] for record in _records(journal)] == [0, 1, 2]
    segment.write_bytes(whole + line)
    assert [record["number"] for record in _records(journal)] == [0, 1, 2, 3]
    journal.close()


def test_a_record_that_a_full_disk_cut_short_is_held_and_spoils_none_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trivium.store.journal.MAX_HELD", 5)
    journal = Journal(tmp_path)
    taken = []
    with _disk_full_after(1_000):
        for n in range(30):
            if _append(journal, {"n": n, "pad": "x" * 50}):
                taken.append(n)
    assert taken == list(range(len(taken)))
    assert 10 < len(taken) < 25
    assert journal.append({"n": 99})
    assert journal.waiting == len(taken) + 1
    held = [record["n"] for record in journal.take_held()]
    assert held == taken[-5:]
    assert [record["n"] for record in _records(journal)] == [*taken[:-5], 99]
    journal.close()


def test_a_durable_record_that_a_full_disk_cut_short_is_not_said_to_be_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with _disk_full_after(100):
        assert not _append(journal, {"pad": "x" * 500}, durable=True)
    assert journal.append({"n": 1}, durable=True)
    assert _records(journal) == [{"n": 1}]
    journal.close()


def test_two_that_find_the_same_orphan_do_not_hinder_each_other(tmp_path: Path) -> None:
    with _child(tmp_path, stop_at=3) as child:
        assert child.stdout
        assert [int(child.stdout.readline()) for _ in range(3)] == [0, 1, 2]
    one, two = Journal(tmp_path), Journal(tmp_path)
    first, second = one.closed_segments(), two.closed_segments()
    assert first or second
    carried = []
    for journal, segments in ((one, first), (two, second)):
        for segment in segments:
            carried += [record["number"] for record in read_segment(segment)]
            journal.forget(segment)
    assert set(carried) == {0, 1, 2}
    assert one.closed_segments() == two.closed_segments() == []
    one.close()
    two.close()


def test_journals_that_begin_and_end_do_not_disturb_one_that_looks_for_orphans(tmp_path: Path) -> None:
    looking = Journal(tmp_path)
    faults: list[BaseException] = []
    ended = threading.Event()

    def begin_and_end() -> None:
        try:
            for n in range(150):
                journal = Journal(tmp_path)
                assert journal.append({"n": n})
                for segment in journal.closed_segments():
                    if segment.exists():
                        journal.forget(segment)
                journal.close()
        except BaseException as error:  # noqa: BLE001 - is asserted on below
            faults.append(error)
        ended.set()

    thread = threading.Thread(target=begin_and_end)
    thread.start()
    try:
        while not ended.is_set():
            looking.closed_segments()
    finally:
        thread.join()
    assert faults == []
    looking.close()


def test_a_journal_that_ends_empty_leaves_no_folder_and_one_that_does_not_leaves_it(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    assert list(tmp_path.iterdir()) == []
    journal = Journal(tmp_path)
    journal.append({"n": 1})
    journal.close()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(f"{os.getpid()}-")
    following = Journal(tmp_path)
    assert _records(following) == [{"n": 1}]
    for segment in following.closed_segments():
        following.forget(segment)
    assert following.closed_segments() == []
    following.close()
    assert list(tmp_path.iterdir()) == []
