"""Fine-tuning: one schedule, one seed; the weights of several members are averaged."""

import math
import random
from collections.abc import Callable
from copy import deepcopy

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from edge_model.training.losses import disagreement, supervised_contrast
from edge_model.training.network import TextClassifier, encode
from edge_model.training.recipe import Recipe

Tick = Callable[[float], None]
"""Called after every step with its loss."""


def steps_of(recipe: Recipe, messages: int) -> int:
    """Steps of a whole training, all members together."""
    return recipe.members * recipe.epochs * math.ceil(messages / recipe.batch_size)


def fit(
    network: TextClassifier,
    tokenizer: Tokenizer,
    texts: list[str],
    targets: Tensor,
    recipe: Recipe,
    seed: int,
    tick: Tick,
) -> None:
    """Fine-tunes `network` in place: the mean of the weights of all members.

    The members start from the same weights and differ by the order of the messages and by dropout, so
    they end in one basin, and their mean is about as good as their ensemble, at the price of one:
    Wortsman et al., "Model soups" (2022).
    """
    network.start_head_from_centroids(embed(network, tokenizer, texts), targets)
    first = deepcopy(network.state_dict())
    total: dict[str, Tensor] = {}
    for member in range(recipe.members):
        network.load_state_dict(first)
        _fit_member(network, tokenizer, texts, targets, recipe, seed + member, tick)
        for name, value in network.state_dict().items():
            total[name] = total[name] + value if name in total else value.clone()
    network.load_state_dict({name: value / recipe.members for name, value in total.items()})
    network.eval()


@torch.no_grad()
def embed(network: TextClassifier, tokenizer: Tokenizer, texts: list[str], batch_size: int = 64) -> Tensor:
    """Returns float32 embeddings [n, hidden], computed in bfloat16, dropout off."""
    network.eval()
    parts = []
    for start in range(0, len(texts), batch_size):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts.append(network.embed(*encode(tokenizer, texts[start : start + batch_size])).float())
    return torch.cat(parts)


@torch.no_grad()
def predict(network: TextClassifier, tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """Returns float32 logits [n, labels], one message a pass, dropout off."""
    network.eval()
    return torch.cat([network(*encode(tokenizer, [text]))[0] for text in texts])


def _fit_member(
    network: TextClassifier,
    tokenizer: Tokenizer,
    texts: list[str],
    targets: Tensor,
    recipe: Recipe,
    seed: int,
    tick: Tick,
) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    optimizer = _optimizer(network, recipe)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    steps = steps_of(recipe, len(texts)) // recipe.members
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _warmup_then_cosine(step, steps, recipe.warmup_share)
    )
    network.train()
    for _ in range(recipe.epochs):
        for batch in _batches(texts, recipe.batch_size, rng):
            inputs = encode(tokenizer, [texts[row] for row in batch])
            loss = _loss(network, inputs, targets[batch], recipe)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            tick(loss.item())


def _loss(network: TextClassifier, inputs: tuple[Tensor, Tensor], targets: Tensor, recipe: Recipe) -> Tensor:
    def one_pass() -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, embedding = network(*inputs)
        logits = logits.float()
        loss = nn.functional.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
        if recipe.contrast:
            loss = loss + recipe.contrast * supervised_contrast(embedding, targets)
        return loss, logits

    loss, logits = one_pass()
    if not recipe.consistency:
        return loss
    again, other = one_pass()
    return (loss + again) / 2 + recipe.consistency * disagreement(logits, other)


def _optimizer(network: TextClassifier, recipe: Recipe) -> torch.optim.Optimizer:
    encoder = [p for p in network.encoder.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": encoder, "lr": recipe.encoder_lr, "weight_decay": recipe.weight_decay},
            {"params": list(network.head.parameters()), "lr": recipe.head_lr, "weight_decay": 0.0},
        ],
        fused=True,
    )


def _warmup_then_cosine(step: int, steps: int, warmup_share: float) -> float:
    warmup = max(1, int(steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _batches(texts: list[str], size: int, rng: random.Random) -> list[list[int]]:
    """Shuffled batches of like lengths: sorted within pools of 16 batches, so little is padding."""
    order = list(range(len(texts)))
    rng.shuffle(order)
    pool = size * 16
    batches: list[list[int]] = []
    for start in range(0, len(order), pool):
        part = sorted(order[start : start + pool], key=lambda row: len(texts[row]))
        batches += [part[at : at + size] for at in range(0, len(part), size)]
    rng.shuffle(batches)
    return batches
