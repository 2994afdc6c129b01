"""`python -m edge_model.fetch --from URL --to FOLDER NAME/VERSION@sha256:DIGEST …`: checked models.

The digest is that of a version's card (`model.json`), which has those of the other files: so one line in a
reviewed file says what may run, wherever it was kept in between.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_model.artefacts import Artefact, Found, Source
from trivium.errors import ConfigurationError

_PART = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_WANTED = re.compile(rf"(?P<name>{_PART})/(?P<version>{_PART})@sha256:(?P<sha256>[0-9a-f]{{64}})")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A version, and the SHA-256 of its card in hex."""

    name: str
    version: str
    sha256: str


def parse_wanted(text: str) -> Wanted:
    """Reads NAME/VERSION@sha256:DIGEST.

    Raises:
        ConfigurationError: it is something else.
    """
    found = _WANTED.fullmatch(text)
    if not found:
        raise ConfigurationError(f"{text!r} is not NAME/VERSION@sha256:DIGEST with 64 hex digits")
    return Wanted(found["name"], found["version"], found["sha256"])


def fetch(source: Source, wanted: Wanted, folder: Path) -> Path:
    """Puts a version's files into `folder`/name/version, all of them or none; returns that folder.

    Raises:
        ConfigurationError: it is not there, or is not what was wanted.
    """
    artefact = source.fetch(Found(wanted.name, wanted.version, ""))
    given = hashlib.sha256(artefact.written).hexdigest()
    if given != wanted.sha256:
        raise ConfigurationError(
            f"{artefact.where}/model.json has the SHA-256 {given}, not {wanted.sha256}: it was changed, or "
            "another version was meant"
        )
    return _write(folder / wanted.name / wanted.version, artefact)


def _write(target: Path, artefact: Artefact) -> Path:
    hidden = target.with_name(f".{target.name}")
    hidden.mkdir(parents=True, exist_ok=True)
    for name, data in {**artefact.files, "model.json": artefact.written}.items():
        (hidden / name).write_bytes(data)
    if target.exists():
        for path in target.iterdir():
            path.unlink()
        target.rmdir()
    return hidden.rename(target)


def main(words: Sequence[str] | None = None) -> int:
    """Fetches what the command line names; a line each, 1 at the first that fails."""
    parser = argparse.ArgumentParser("edge_model.fetch", description="Fetches models and checks them.")
    parser.add_argument("--from", dest="url", required=True, help="registry, any URL that fsspec opens")
    parser.add_argument("--to", dest="folder", type=Path, required=True, help="folder that they go into")
    parser.add_argument("models", nargs="+", help="NAME/VERSION@sha256:DIGEST of model.json")
    given = parser.parse_args(words)
    try:
        for wanted in [parse_wanted(text) for text in given.models]:
            where = fetch(Source(given.url), wanted, given.folder)
            sys.stdout.write(f"{wanted.name}/{wanted.version} is in {where}\n")
    except ConfigurationError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
