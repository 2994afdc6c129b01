"""The versions of a feature's dataset: folders that are written once, and checked whenever they are read."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from trivium.datasets import read_records
from trivium.domain.sameness import Side
from trivium.errors import DatasetError, NotFound

CARD = "card.json"
TRAIN, EVAL, LINEAGE = "train.jsonl", "eval.jsonl", "lineage.jsonl"
FILES = (TRAIN, EVAL, LINEAGE)
Row = dict[str, Any]


class FileFacts(BaseModel):
    """What a file must be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    lines: int


class SourceFile(BaseModel):
    """A file that was read for a version; `lines` of it that are in the version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    sha256: str
    lines: int


class Card(BaseModel):
    """`card.json`: what a version is, and what it was made from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    feature: str
    version: int
    parent: int | None
    created_at: str
    content_sha256: str
    files: dict[str, FileFacts]
    counts: dict[str, dict[str, int]]
    left_out: dict[str, int]
    variants: list[str]
    labels: dict[str, int]
    golden: SourceFile
    base: SourceFile | None
    eval_share: float
    min_agree: int
    since: float | None
    text_field: str | None
    label_field: str | None


class Versions:
    """The dataset's versions in a folder `<root>/<feature>/<number>/`."""

    def __init__(self, root: Path, feature: str) -> None:
        self.folder = root / feature
        self.feature = feature

    def numbers(self) -> list[int]:
        """Of the versions that are there, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def path(self, number: int) -> Path:
        """The folder of a version."""
        return self.folder / str(number)

    def load(self, number: int) -> Card:
        """A version's card, once its files have been checked against it.

        Raises:
            NotFound: there is no such version. DatasetError: a file is not as it was written.
        """
        if not self.path(number).is_dir():
            known = ", ".join(map(str, self.numbers())) or "none"
            raise NotFound(
                f"{self.feature} has no dataset version {number} in {self.folder}; there are: {known}"
            )
        return load_version(self.path(number))

    def rows(self, number: int, name: str) -> list[Row]:
        """The lines of a version's file."""
        return list(read_records(self.path(number) / name))

    def sides(self) -> dict[str, Side]:
        """On which side each input of any version stands: that of its first version, for ever."""
        found: dict[str, Side] = {}
        for number in self.numbers():
            self.load(number)
            for row in self.rows(number, LINEAGE):
                found.setdefault(row["input_hash"], row["split"])
        return found

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lets one build at a time write versions of this dataset; what others left half-written goes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            for left in self.folder.glob(".partial-*"):
                shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            os.close(handle)

    def write(self, texts: Mapping[str, str], facts: Mapping[str, Any]) -> Card:
        """Writes the next version, whole or not at all; to be called within `alone`."""
        number = max(self.numbers(), default=0) + 1
        card = Card(
            feature=self.feature,
            version=number,
            content_sha256=content_sha256(texts),
            files={name: _facts(text) for name, text in texts.items()},
            **facts,
        )
        partial = self.folder / f".partial-{os.getpid()}"
        partial.mkdir()
        for name, text in {**texts, CARD: card.model_dump_json(indent=2) + "\n"}.items():
            _write_for_good(partial / name, text)
        partial.rename(self.path(number))
        folder = os.open(self.folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        return card


def load_version(folder: Path) -> Card:
    """The card of a version's folder, once its files have been checked against it.

    Raises:
        DatasetError: the card is none, or a file is not as it was written.
    """
    try:
        card = Card.model_validate_json((folder / CARD).read_text(encoding="utf-8"))
        texts = {name: (folder / name).read_bytes().decode() for name in card.files}
    except OSError as error:
        raise DatasetError(f"{error.filename}: {error.strerror}") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise DatasetError(f"{folder / CARD}: not the card of a dataset version: {error}") from error
    for name, text in texts.items():
        if (found := _facts(text).sha256) != card.files[name].sha256:
            raise DatasetError(
                f"{folder / name}: a version is never changed, but its sha256 is {found}, not "
                f"{card.files[name].sha256} as in {CARD}; put the file back, or build a new version"
            )
    if content_sha256(texts) != card.content_sha256:
        raise DatasetError(f"{folder / CARD}: content_sha256 is not that of the files")
    return card


def content_sha256(texts: Mapping[str, str]) -> str:
    """Of what is trained on and evaluated; where that comes from is not content."""
    both = "".join(hashlib.sha256(texts[name].encode()).hexdigest() for name in (TRAIN, EVAL))
    return hashlib.sha256(both.encode()).hexdigest()


def lines_of(rows: Iterable[Row]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _facts(text: str) -> FileFacts:
    return FileFacts(sha256=hashlib.sha256(text.encode()).hexdigest(), lines=text.count("\n"))


def _write_for_good(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    path.chmod(0o444)
