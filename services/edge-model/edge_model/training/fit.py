"""Fine-tuning: one schedule, one seed, a progress bar."""

import math
import random
from dataclasses import asdict, dataclass

import torch
from rich.progress import Progress
from tokenizers import Tokenizer
from torch import Tensor, nn

from edge_model.training.data import Example
from edge_model.training.network import TextClassifier, encode


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyper-parameters of one fine-tuning; the defaults are what the shipped model was made with."""

    epochs: int = 5
    batch_size: int = 32
    encoder_lr: float = 1.5e-4
    head_lr: float = 5e-3
    label_smoothing: float = 0.05
    dropout: float = 0.1
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    max_tokens: int = 64
    seed: int = 20260

    def as_dict(self) -> dict[str, float | int]:
        """The recipe as it stands on the model card."""
        return asdict(self)


def fit(
    network: TextClassifier,
    tokenizer: Tokenizer,
    examples: list[Example],
    labels: list[str],
    recipe: Recipe,
    progress: Progress,
) -> None:
    """Fine-tunes `network` in place."""
    index = {label: position for position, label in enumerate(labels)}
    targets = torch.tensor([index[example.label] for example in examples])
    network.start_head_from_centroids(predict(network, tokenizer, [e.text for e in examples])[1], targets)
    head = list(network.head.parameters())
    encoder = [p for p in network.encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": encoder, "lr": recipe.encoder_lr, "weight_decay": recipe.weight_decay},
            {"params": head, "lr": recipe.head_lr, "weight_decay": 0.0},
        ]
    )
    steps = recipe.epochs * math.ceil(len(examples) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _warmup_then_cosine(step, steps, recipe.warmup_share)
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    rng = random.Random(recipe.seed)
    task = progress.add_task("fine-tuning", total=steps)
    network.train()
    for _ in range(recipe.epochs):
        for batch in _batches(examples, tokenizer, recipe.batch_size, rng):
            input_ids, mask = encode(tokenizer, [examples[row].text for row in batch])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits, _ = network(input_ids, mask)
            loss = loss_of(logits.float(), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(encoder + head, 1.0)
            optimizer.step()
            schedule.step()
            progress.update(task, advance=1, description=f"fine-tuning, loss {loss.item():.3f}")
    network.eval()


@torch.no_grad()
def predict(
    network: TextClassifier, tokenizer: Tokenizer, texts: list[str], batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Returns float32 logits [n, labels] and embeddings [n, hidden], dropout off."""
    network.eval()
    parts = [
        network(*encode(tokenizer, texts[start : start + batch_size]))
        for start in range(0, len(texts), batch_size)
    ]
    return torch.cat([logits for logits, _ in parts]), torch.cat([emb for _, emb in parts])


def temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature that minimises the negative log-likelihood of held-out data.

    Guo et al., "On Calibration of Modern Neural Networks" (2017), section 4.2.
    """
    grid = torch.linspace(0.3, 3.0, 271)
    losses = torch.stack([nn.functional.cross_entropy(logits / t, targets) for t in grid])
    return float(grid[int(losses.argmin())])


def _warmup_then_cosine(step: int, steps: int, warmup_share: float) -> float:
    warmup = max(1, int(steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _batches(examples: list[Example], tokenizer: Tokenizer, size: int, rng: random.Random) -> list[list[int]]:
    """Shuffled batches of like lengths: sorted within pools of 16 batches, so little is padding."""
    order = list(range(len(examples)))
    rng.shuffle(order)
    pool = size * 16
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        part = sorted(order[start : start + pool], key=lambda row: len(examples[row].text))
        batches += [part[at : at + size] for at in range(0, len(part), size)]
    rng.shuffle(batches)
    return batches
