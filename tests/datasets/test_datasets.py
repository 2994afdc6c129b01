from pathlib import Path

import pytest

from trivium.datasets import Record, read_records
from trivium.errors import DatasetError


def _read(path: Path, content: str | bytes, *required: str) -> list[Record]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_records(path, required))


def _fault(path: Path, content: str | bytes, *required: str) -> str:
    with pytest.raises(DatasetError) as caught:
        _read(path, content, *required)
    return caught.value.detail.removeprefix(f"{path}")


def test_both_formats_give_the_same_records_and_skip_blank_lines(tmp_path: Path) -> None:
    records = [{"id": "1", "text": "a, b"}, {"id": "2", "text": "c"}]
    assert _read(tmp_path / "a.csv", 'id,text\n1,"a, b"\n\n2,c\n') == records
    assert _read(tmp_path / "a.jsonl", '{"id": "1", "text": "a, b"}\n\n{"id": "2", "text": "c"}') == records


def test_what_a_spreadsheet_writes_is_read(tmp_path: Path) -> None:
    assert _read(tmp_path / "a.csv", "\ufeffid,text\r\n1,é\r\n") == [{"id": "1", "text": "é"}]


def test_a_value_may_have_several_lines(tmp_path: Path) -> None:
    assert _read(tmp_path / "a.csv", 'id,text\n1,"two\nlines"\n') == [{"id": "1", "text": "two\nlines"}]


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    assert _read(tmp_path / "a.csv", "") == []
    assert _read(tmp_path / "a.csv", "id,text\n") == []
    assert _read(tmp_path / "a.jsonl", "") == []


def test_records_before_a_fault_are_given(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1}\nnot json\n')
    records = read_records(path)
    assert next(records) == {"id": 1}
    with pytest.raises(DatasetError):
        next(records)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.jsonl", '{"id": 1}\n\n{"id": \n', ":3: not JSON: Expecting value"),
        ("a.jsonl", '{"id": 1}\n[1]\n', ":2: a list, not an object"),
        ("a.csv", "id,text\n1,a\n2,b,c\n", ":3: more values than the header has"),
        ("a.csv", 'id,text\n1,"a"b\n', ":2: "),
        ("a.csv", 'id,text\n1,"never closed\n', ":2: "),
    ],
)
def test_a_malformed_line_is_told_by_its_number(tmp_path: Path, name: str, content: str, fault: str) -> None:
    assert _fault(tmp_path / name, content).startswith(fault)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", "id,text\n1,a\n2,\n", 3),
        ("a.csv", "id,text\n1,a\n\n2\n", 4),
        ("a.csv", "id,body\n1,a\n", 2),
        ("a.jsonl", '{"id": 1, "text": "a"}\n{"id": 2, "text": ""}\n', 2),
        ("a.jsonl", '{"id": 1, "text": null}\n', 1),
        ("a.jsonl", '\n{"id": 1}\n', 2),
    ],
)
def test_a_missing_value_is_told_by_line_and_field(
    tmp_path: Path, name: str, content: str, line: int
) -> None:
    assert _fault(tmp_path / name, content, "id", "text").startswith(
        f":{line}: no value for 'text'; it has id"
    )


def test_zero_and_false_are_values(tmp_path: Path) -> None:
    assert _read(tmp_path / "a.jsonl", '{"n": 0, "b": false}', "n", "b") == [{"n": 0, "b": False}]


def test_another_format_is_refused_with_those_there_are(tmp_path: Path) -> None:
    assert ".csv, .jsonl" in _fault(tmp_path / "a.parquet", "")


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"absent\.jsonl: No such file"):
        next(read_records(tmp_path / "absent.jsonl"))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DatasetError, match=r"folder\.jsonl: Is a directory"):
        next(read_records(tmp_path / "folder.jsonl"))


def test_text_that_is_not_utf_8_is_told_by_its_byte_in_the_file(tmp_path: Path) -> None:
    good = b'{"id": 1}\n'
    assert _fault(tmp_path / "small.jsonl", good + b"\xff\n").endswith("not UTF-8 at byte 10")
    assert _fault(tmp_path / "large.jsonl", good * 5_000 + b"\xff\n").endswith("not UTF-8 at byte 50000")


@pytest.mark.parametrize("line", ['{"n": ' + "9" * 5_000 + "}", "[" * 100_000], ids=["digits", "depth"])
def test_json_that_python_cannot_hold_is_a_malformed_line(tmp_path: Path, line: str) -> None:
    assert _fault(tmp_path / "a.jsonl", f'{{"n": 1}}\n{line}\n').startswith(":2: not JSON")


def test_every_dataset_of_the_features_reads(root: Path) -> None:
    for path in sorted(root.glob("features/*/evals/*.jsonl")):
        cases = list(read_records(path, ("id", "expected")))
        assert len({case["id"] for case in cases}) == len(cases) > 0
