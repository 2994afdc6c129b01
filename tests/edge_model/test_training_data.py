from pathlib import Path

import pytest

from edge_model.training.data import read_examples, stratified_split
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
        (["hello,a", "hi,a", "bye,b"], "1 messages of 'b'"),
        (["hello,a", "HELLO,a", "bye,b", "so long,b"], "1 messages of 'a'"),
    ],
)
def test_too_little_to_train_on_is_told(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read_examples(_file(tmp_path, *lines), "text", "label")


def test_what_is_held_out_is_never_trained_on_and_the_seed_decides_it(tmp_path: Path) -> None:
    lines = [f"{label} message {n},{label}" for label in "abc" for n in range(20)]
    examples = read_examples(_file(tmp_path, *lines), "text", "label")
    split = stratified_split(examples, 0.1, seed=1)
    assert {e.text for e in split.train}.isdisjoint(e.text for e in split.held_out)
    assert sorted(e.label for e in split.held_out) == ["a", "a", "b", "b", "c", "c"]
    assert stratified_split(examples, 0.1, seed=1) == split
    assert stratified_split(examples, 0.1, seed=2) != split
