"""The model card: what an artefact is, where it comes from, and the checksums of its files."""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

ARTEFACTS = ("model.onnx", "tokenizer.json")


class Provenance(BaseModel):
    """Data, base model and recipe."""

    model_config = ConfigDict(extra="forbid")

    base_model: str
    data: str
    train_examples: int
    held_out_examples: int
    recipe: dict[str, float | int]


class Card(BaseModel):
    """`model.json` of one version."""

    model_config = ConfigDict(extra="forbid")

    name: str
    version: str
    labels: list[str]
    max_tokens: int = Field(gt=2)
    hidden_size: int = Field(gt=0)
    temperature: float = Field(gt=0, description="Already divided into the head's weights.")
    provenance: Provenance
    metrics: dict[str, float]
    sha256: dict[str, str] = Field(default_factory=dict)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_card(folder: Path, card: Card) -> None:
    """Writes `model.json` beside the artefacts, with their checksums."""
    card = card.model_copy(update={"sha256": {f: sha256_of(folder / f) for f in ARTEFACTS}})
    (folder / "model.json").write_text(card.model_dump_json(indent=2) + "\n")
