"""Where artefacts come from: a directory, or any URL that fsspec opens; checked by SHA-256."""

import hashlib
from dataclasses import dataclass
from typing import Any

import fsspec
from pydantic import ValidationError

from edge_model.card import ARTEFACTS, Card
from trivium.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Found:
    """A version in the registry; `fingerprint` changes when any of its files does."""

    name: str
    version: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class Artefact:
    """A version's card, also as it was written, and its files, which have the checksums on the card."""

    where: str
    card: Card
    files: dict[str, bytes]
    written: bytes = b""


class Source:
    """A registry `<name>/<version>/{model.json, model.onnx, tokenizer.json}`.

    The files are read once, checked and handed on in memory, so nothing can change between the check
    and the use. A cache on disk is fsspec's own: `simplecache::s3://bucket/models`.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def list(self) -> list[Found]:
        """Every version there is; one without a card does not count, for it may still be written.

        Raises:
            ConfigurationError: the place cannot be read.
        """
        try:
            files, root = self._open()
            cards = files.glob(f"{root}/*/*/model.json")
            found = [self._found(files, card.removesuffix("/model.json")) for card in sorted(cards)]
            # A name with a dot before it is of a version that is still being written.
            return [version for version in found if not version.version.startswith(".")]
        except FileNotFoundError:
            return []
        except Exception as error:  # each kind of storage has errors of its own
            raise ConfigurationError(f"{self.url}: the models cannot be listed: {error}") from error

    def fetch(self, found: Found) -> Artefact:
        """Reads one version.

        Raises:
            ConfigurationError: a file is missing, or is not what the card says.
        """
        files, root = self._open()
        folder = f"{root}/{found.name}/{found.version}"
        try:
            written = _bytes_of(files, f"{folder}/model.json")
            card = Card.model_validate_json(written)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors())
            raise ConfigurationError(f"{folder}/model.json: {faults}") from error
        if (card.name, card.version) != (found.name, found.version):
            raise ConfigurationError(f"{folder}: the card says {card.name}/{card.version}")
        return Artefact(folder, card, {n: _read(files, folder, n, card) for n in ARTEFACTS}, written)

    def _open(self) -> tuple[Any, str]:
        files, root = fsspec.core.url_to_fs(self.url)
        files.invalidate_cache()
        return files, root.rstrip("/")

    def _found(self, files: Any, folder: str) -> Found:
        told = [repr(_identity(files, f"{folder}/{name}")).encode() for name in ARTEFACTS]
        told.append(files.cat_file(f"{folder}/model.json"))
        fingerprint = hashlib.sha256(b"\0".join(told)).hexdigest()
        _, name, version = folder.rsplit("/", 2)
        return Found(name, version, fingerprint)


def _identity(files: Any, path: str) -> Any:
    try:
        told = files.info(path)
    except FileNotFoundError:
        return None
    return [told.get(key) for key in ("size", "mtime", "ETag", "etag", "LastModified", "last_modified")]


def _read(files: Any, folder: str, name: str, card: Card) -> bytes:
    data = _bytes_of(files, f"{folder}/{name}")
    if hashlib.sha256(data).hexdigest() != card.sha256.get(name):
        raise ConfigurationError(f"{folder}/{name}: its SHA-256 is not the one on the card")
    return data


def _bytes_of(files: Any, path: str) -> bytes:
    try:
        data: bytes = files.cat_file(path)
    except Exception as error:  # each kind of storage has errors of its own
        raise ConfigurationError(f"{path} is missing or cannot be read: {error}") from error
    return data
