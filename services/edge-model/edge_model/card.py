"""The model card: what an artefact is, where it comes from, and the checksums of its files."""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

ARTEFACTS = ("model.onnx", "tokenizer.json")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Provenance(_Strict):
    """Data, base model and recipe."""

    base_model: str = Field(description="The encoder that was fine-tuned, with its licence.")
    data: str = Field(description="Source and licence of the messages.")
    train_examples: int = Field(gt=0, description="Messages that the weights were fitted to.")
    validation_examples: int = Field(
        gt=0, description="Messages that the temperature and the scope threshold were fitted to."
    )
    held_out_examples: int = Field(gt=0, description="Messages that nothing was fitted to.")
    seed: int = Field(description="Of the split, the shuffling and the dropout.")
    recipe: dict[str, float | int] = Field(description="Hyper-parameters of the training.")
    seconds: float = Field(ge=0, description="What the training took, without the measuring.")


class Calibration(_Strict):
    """What the confidence, the largest probability, is worth; measured on the held-out messages."""

    temperature: float = Field(gt=0, description="Fitted on validation data; already in the graph.")
    ece: float = Field(ge=0, le=1, description="Expected calibration error, 15 bins of equal width.")
    confidence_at_98_precision: float = Field(
        ge=0, le=1, description="From this confidence on, 98 % of the validation messages were right."
    )
    coverage_at_98_precision: float = Field(
        ge=0, le=1, description="Share of the held-out messages with at least that confidence."
    )
    precision_there: float = Field(ge=0, le=1, description="Share of those that were right.")


class Separation(_Strict):
    """Area under the ROC curve of held-out messages against messages out of scope, by three scores."""

    examples: int = Field(gt=0, description="Messages out of scope.")
    mahalanobis: float = Field(ge=0, le=1, description="By the distance behind `in_scope`.")
    energy: float = Field(ge=0, le=1, description="By the log of the sum of the exponentiated logits.")
    softmax: float = Field(ge=0, le=1, description="By the confidence.")
    refused: float = Field(ge=0, le=1, description="Share of them whose `in_scope` is under 0.5.")


class Scope(_Strict):
    """The score `in_scope`: the Mahalanobis distance to the nearest label, mapped to 0 to 1."""

    threshold: float = Field(0.5, description="At and above it a message counts as in scope.")
    distance_at_threshold: float = Field(gt=0, description="The distance that is mapped to 0.5.")
    slope: float = Field(gt=0, description="Of the logistic map, per unit of distance.")
    target_kept: float = Field(
        gt=0, lt=1, description="Share of the validation messages that the threshold was set to keep."
    )
    kept: float = Field(ge=0, le=1, description="Share of the held-out messages that it keeps.")
    far: Separation | None = Field(None, description="Against messages about other things altogether.")
    near: Separation | None = Field(None, description="Against messages about neighbouring things.")


class Environment(_Strict):
    """Where the artefact was made and measured."""

    torch: str
    transformers: str
    onnxruntime: str
    vnni: bool = Field(description="The CPU multiplies int8 without saturating on the way.")
    reduce_range: bool = Field(description="Weights have 7 bits, for a CPU without VNNI.")
    threads: int = Field(gt=0, description="Of the training.")


class Card(_Strict):
    """`model.json` of one version."""

    name: str
    version: str
    labels: list[str] = Field(description="In the order of `probabilities`.")
    max_tokens: int = Field(gt=2, description="Longer messages are cut there.")
    hidden_size: int = Field(gt=0, description="Length of `embedding`.")
    provenance: Provenance
    metrics: dict[str, float] = Field(description="Figures on the held-out messages, gated ones first.")
    calibration: Calibration
    scope: Scope
    environment: Environment
    sha256: dict[str, str] = Field(default_factory=dict, description="Of the files beside the card.")


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_card(folder: Path, card: Card) -> None:
    """Writes `model.json` beside the artefacts, with their checksums."""
    card = card.model_copy(update={"sha256": {f: sha256_of(folder / f) for f in ARTEFACTS}})
    (folder / "model.json").write_text(card.model_dump_json(indent=2) + "\n")
