import json
from pathlib import Path

import pytest

from edge_model.training.data import read_examples, read_texts, stratified_split
from trivium.errors import DatasetError


def _file(folder: Path, *lines: str) -> Path:
    path = folder / "labelled.csv"
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "0 labels in 0 messages"),
        (["hello,a", "hi,a"], "1 labels in 2 messages"),
        (["hello,a", "hi,a", "hey,a", "bye,b"], "1 messages of 'b'"),
        (["hello,a", "HELLO,a", "hi,a", "bye,b", "so long,b", "ciao,b"], "2 messages of 'a'"),
    ],
)
def test_too_little_to_train_on_is_told(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read_examples(_file(tmp_path, *lines), "text", "label")


def test_a_fault_names_line_and_field(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"labelled\.csv:3: no value for 'label'"):
        read_examples(_file(tmp_path, "hello,a", "hi,"), "text", "label")
    with pytest.raises(DatasetError, match=r"labelled\.csv:2: no value for 'intent'; it has text, label"):
        read_examples(_file(tmp_path, "hello,a"), "text", "intent")


def test_the_three_parts_are_disjoint_and_the_seed_decides_them(tmp_path: Path) -> None:
    lines = [f"{label} message {n},{label}" for label in "abc" for n in range(20)]
    examples = read_examples(_file(tmp_path, *lines), "text", "label")
    split = stratified_split(examples, 0.05, 0.1, seed=1)
    parts = [{e.text for e in part} for part in (split.train, split.validation, split.held_out)]
    assert set.union(*parts) == {e.text for e in examples}
    assert sum(map(len, parts)) == len(examples)
    assert sorted(e.label for e in split.validation) == ["a", "b", "c"]
    assert sorted(e.label for e in split.held_out) == ["a", "a", "b", "b", "c", "c"]
    assert stratified_split(examples, 0.05, 0.1, seed=1) == split
    assert stratified_split(examples, 0.05, 0.1, seed=2) != split


@pytest.mark.parametrize("value", [["a", "b"], {"train": [["a", "oos"]], "val": [["b", "oos"]]}])
def test_texts_are_read_from_json(tmp_path: Path, value: object) -> None:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(value))
    assert read_texts(path, "text") == ["a", "b"]


@pytest.mark.parametrize("content", ["[]", "[3]", "3", "{", '{"a": {"b": 1}}'])
def test_a_json_without_texts_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "texts.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=r"texts\.json"):
        read_texts(path, "text")
