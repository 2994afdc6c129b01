"""`python -m edge_model.training`: labelled messages in, a versioned artefact out."""

import logging
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from edge_model.training.cpu import has_vnni
from edge_model.training.data import read_examples, read_texts
from edge_model.training.gates import GateFailed, Limits
from edge_model.training.plot import plot_reliability
from edge_model.training.recipe import Recipe
from edge_model.training.registry_folder import next_version, refuse_taken
from edge_model.training.watching import ProgressWatcher
from trivium.errors import TriviumError

RECIPE, LIMITS, SEED = Recipe(), Limits(), 20260
console = Console(stderr=True, soft_wrap=True)

Data = Annotated[Path, typer.Argument(help="CSV or JSONL of labelled messages.")]
Name = Annotated[str, typer.Option(help="Model name: the folder under --models.")]
Models = Annotated[Path, typer.Option(help="Model registry.")]
Version = Annotated[str, typer.Option(help="By default one more than the highest.")]
TextField = Annotated[str, typer.Option(help="Column of the text.")]
LabelField = Annotated[str, typer.Option(help="Column of the label.")]
Credit = Annotated[str, typer.Option(help="Source and licence of the data, for the card.")]
Far = Annotated[Path | None, typer.Option(help="Texts about other things, to measure on.")]
Near = Annotated[Path | None, typer.Option(help="Texts about neighbouring things, to measure on.")]
Plot = Annotated[Path | None, typer.Option(help="Write the reliability plot, .png or .svg.")]
MinAccuracy = Annotated[float, typer.Option(min=0, max=1, help="Gate on the accuracy and on macro-F1.")]
MaxEce = Annotated[float, typer.Option(min=0, max=1, help="Gate on the calibration error.")]
MaxP99 = Annotated[float, typer.Option(min=0, help="Gate on the P99 of a bare run, in milliseconds.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the data.")]
Members = Annotated[int, typer.Option(min=1, help="Trainings that are averaged.")]
HeldOut = Annotated[float, typer.Option(min=0.01, max=0.5, help="Share that nothing is fitted to.")]
Validation = Annotated[float, typer.Option(min=0.01, max=0.5, help="Share that calibrates.")]
Seed = Annotated[int, typer.Option(help="Of the split and the training.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0: as many as PyTorch thinks.")]
ReduceRange = Annotated[
    bool | None,
    typer.Option("--reduce-range/--full-range", help="7-bit weights; by default where the CPU has no VNNI."),
]


def train(
    data: Data,
    name: Name,
    models: Models,
    version: Version = "",
    text_field: TextField = "text",
    label_field: LabelField = "label",
    credit: Credit = "",
    out_of_scope: Far = None,
    near_misses: Near = None,
    plot: Plot = None,
    min_accuracy: MinAccuracy = LIMITS.accuracy,
    max_ece: MaxEce = LIMITS.ece,
    max_p99_ms: MaxP99 = LIMITS.p99_ms,
    epochs: Epochs = RECIPE.epochs,
    members: Members = RECIPE.members,
    held_out: HeldOut = RECIPE.held_out_share,
    validation: Validation = RECIPE.validation_share,
    seed: Seed = SEED,
    threads: Threads = 0,
    reduce_range: ReduceRange = None,
) -> None:
    """Fine-tunes, exports, quantises, calibrates and gates; a failed gate writes no version."""
    version = version or next_version(models, name)
    refuse_taken(models, name, version)
    examples = read_examples(data, text_field, label_field)
    far = read_texts(out_of_scope, text_field) if out_of_scope else []
    near = read_texts(near_misses, text_field) if near_misses else []
    _start_torch(threads)
    # Only now, for they take seconds to import, and wrong input is to be told at once.
    from edge_model.training.job import Job
    from edge_model.training.pipeline import train_version

    job = Job(
        name=name,
        version=version,
        models=models,
        credit=credit or data.name,
        seed=seed,
        reduce_range=not has_vnni() if reduce_range is None else reduce_range,
        recipe=Recipe(members=members, epochs=epochs, held_out_share=held_out, validation_share=validation),
        limits=Limits(accuracy=min_accuracy, macro_f1=min_accuracy, ece=max_ece, p99_ms=max_p99_ms),
        far=far,
        near=near,
    )
    with ProgressWatcher(console) as watcher:
        written, measured = train_version(examples, job, watcher)
    if plot:
        plot_reliability(measured.bins, measured.calibration.ece, f"{name}/{version}, held out", plot)
    console.print(f"[green]wrote[/] {written}", highlight=False)


def main() -> None:
    """Entry point; what is foreseen is a line, not a trace.

    Exits 1 if a gate failed, 2 for wrong input, 130 after Ctrl-C and 143 after SIGTERM.
    """
    signal.signal(signal.SIGTERM, _end)
    try:
        typer.run(train)
    except GateFailed as error:
        for gate in error.failed:
            console.print(f"[red]gate[/] {gate}; no version was written", highlight=False)
        sys.exit(1)
    except TriviumError as error:
        console.print(f"[red]{escape(error.detail)}")
        sys.exit(2)


def _start_torch(threads: int) -> None:
    import torch
    import transformers

    if threads:
        torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)


def _end(number: int, frame: FrameType | None) -> None:
    # As an exception, so that the scratch folder goes.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
