"""The hyper-parameters of a training."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyper-parameters; the defaults are what the shipped model was made with."""

    members: int = 2
    """Trainings from the same start whose weights are averaged."""
    epochs: int = 5
    batch_size: int = 32
    encoder_lr: float = 1.5e-4
    head_lr: float = 5e-3
    label_smoothing: float = 0.05
    dropout: float = 0.1
    contrast: float = 0.2
    """Weight of the supervised contrastive loss."""
    consistency: float = 1.0
    """Weight of the divergence of two passes under dropout; with 0 there is one pass."""
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    max_tokens: int = 64
    most_frequent_tokens: int = 10_500
    """Size of the trimmed vocabulary, before the tokens that the training messages use."""
    validation_share: float = 0.05
    held_out_share: float = 0.05

    def as_dict(self) -> dict[str, float | int]:
        """The recipe as it stands on the model card."""
        return asdict(self)
