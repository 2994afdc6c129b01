"""What a step minimises: cross-entropy, a supervised contrast, the agreement of two passes."""

import torch
from torch import Tensor, nn

_CONTRAST_TEMPERATURE = 0.1


def supervised_contrast(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Pulls messages of a label together, pushes the others away; 0 if no label stands twice in a batch.

    Khosla et al., "Supervised Contrastive Learning" (2020), equation 2, over unit-length embeddings
    [batch, hidden] in float32.
    """
    itself = torch.eye(len(targets), dtype=torch.bool)
    similarity = (embeddings @ embeddings.T / _CONTRAST_TEMPERATURE).masked_fill(itself, -1e4)
    log_share = similarity - similarity.logsumexp(dim=1, keepdim=True)
    same = ((targets[:, None] == targets[None]) & ~itself).float()
    partners = same.sum(dim=1)
    if not partners.any():
        return embeddings.new_zeros(())
    return -((same * log_share).sum(dim=1) / partners.clamp(min=1))[partners > 0].mean()


def disagreement(left: Tensor, right: Tensor) -> Tensor:
    """Symmetric Kullback-Leibler divergence of two sets of logits [batch, labels].

    Wu et al., "R-Drop: Regularized Dropout for Neural Networks" (2021), equation 2.
    """
    p, q = left.log_softmax(dim=-1), right.log_softmax(dim=-1)
    kl = nn.functional.kl_div
    return 0.5 * (
        kl(p, q, log_target=True, reduction="batchmean") + kl(q, p, log_target=True, reduction="batchmean")
    )
