"""The losses, each with its paper and equation. All are computed in float32, whatever the autocast."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.train.distributed import gather, rank, world_size

_MASKED = -1e9  # a large negative fill: boolean indexing would make shapes dynamic and synchronise with the host


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent, the normalised temperature-scaled cross-entropy (SimCLR, Chen et al. 2020, equation 1).

    For each of the 2n projections, cross-entropy over the 2n - 1 others with its sibling view as the target, averaged over
    all 2n (Google's code sums the two directions, which doubles the gradient; LightlySSL averages as we do). With several
    processes, each one's rows are compared with the projections of all.

    Args:
        first: projections (n, d) of the first views.
        second: projections (n, d) of the second views, in the same order.
        temperature: tau > 0.

    Returns:
        float32 scalar.
    """
    n, total, start = len(first), len(first) * world_size(), len(first) * rank()
    with torch.autocast(first.device.type, enabled=False):  # a matrix product would go back to bfloat16
        first, second = (F.normalize(z.float(), dim=1) for z in (first, second))
        columns = torch.cat([gather(first), gather(second)])
        similarities = torch.cat([first, second]) @ columns.T / temperature
    own = torch.arange(start, start + n, device=columns.device)
    selves, siblings = torch.cat([own, own + total]), torch.cat([own + total, own])
    mask = selves[:, None] == torch.arange(2 * total, device=columns.device)
    return F.cross_entropy(similarities.masked_fill(mask, _MASKED), siblings)


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Soft cross-entropy of the student under the teacher's labels, times T^2 (SimCLR v2, equation 2; Hinton et al. 2015).

    Args:
        student: logits (n, k).
        teacher: logits (n, k); no gradient flows into them.
        temperature: T > 0, of both.

    Returns:
        float32 scalar: T^2 * mean over n of -sum_y P_teacher(y; T) log P_student(y; T).
    """
    targets = F.softmax(teacher.detach().float() / temperature, dim=1)
    return F.cross_entropy(student.float() / temperature, targets) * temperature**2
