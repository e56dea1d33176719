"""The losses of distillation: the student learns the predictions of the teachers. All are float32 whatever the autocast (float64 stays)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.train.loop.numerics import precise

_NEVER = -1e9  # logit of a masked class: boolean indexing would make shapes dynamic


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Soft cross-entropy of the student under the teacher's labels, times T^2 (SimCLR v2, equation 2; Hinton et al. 2015).

    Args:
        student: logits (n, k).
        teacher: logits (n, k); no gradient flows into them.
        temperature: T > 0, of both.

    Returns:
        float32 scalar: T^2 * mean over n of -sum_y P_teacher(y; T) log P_student(y; T). Its rounding is absolute, about T^2 2^-24:
        if both are certain of one class, log P is log(1 + e) of a tiny e, and a loss of 1e-5 has few digits. The gradient,
        T (P_student - P_teacher) / n, is not affected.
    """
    targets = F.softmax(precise(teacher.detach()) / temperature, dim=1)
    return F.cross_entropy(precise(student) / temperature, targets) * temperature**2


def decoupled(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """Decoupled knowledge distillation (DKD; Zhao et al. 2022, equation 7), times T^2 as in the authors' code.

    The KL divergence of the student from the teacher has two terms: the confidence in the target class (TCKD), and the distribution over
    the other classes (NCKD), which plain distillation multiplies by 1 - p_teacher(target). Here each has its own
    weight: alpha * TCKD + beta * NCKD. The authors' warm-up of the loss over the first epochs is left out.

    Args:
        student: logits (n, k).
        teacher: logits (n, k); no gradient flows into them.
        target: int64 (n), the label, or the top class of the teacher for an unlabeled image.
        temperature: T > 0, of both.
        alpha: weight of TCKD.
        beta: weight of NCKD.

    Returns:
        float32 scalar, the mean over n.
    """
    mask = target[:, None] == torch.arange(student.shape[1], device=student.device)
    binary, others = [], []
    for logits in (precise(student), precise(teacher.detach())):
        scaled = logits / temperature
        rest = scaled.masked_fill(mask, _NEVER)
        both = torch.stack([scaled.gather(1, target[:, None])[:, 0], rest.logsumexp(1)], dim=1)
        binary.append(both.log_softmax(1))
        others.append(rest.log_softmax(1))
    tckd, nckd = (F.kl_div(s, t, reduction="batchmean", log_target=True) for s, t in (binary, others))
    return (alpha * tckd + beta * nckd) * temperature**2


def regression(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of the projected student's embedding and the teacher's (FitNets, Romero et al. 2015, equation 3).

    FitNets halves the squared norm; here it is the mean over both axes, so that its size does not grow with d.

    Args:
        student: (n, d), the student's embedding after a linear projection to the teacher's width.
        teacher: (n, d); no gradient flows into it.

    Returns:
        float32 scalar.
    """
    return F.mse_loss(precise(student), precise(teacher.detach()))


def ensemble(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """Return logits (n, k) whose softmax at a temperature is the mean of the teachers' softened probabilities; of one teacher, its logits.

    Args:
        logits: of each teacher, (n, k).
        temperature: T > 0.
    """
    if len(logits) == 1:
        return precise(logits[0])
    softened = torch.stack([F.log_softmax(precise(one) / temperature, dim=1) for one in logits])
    return temperature * (softened.logsumexp(0) - np.log(len(logits)))


def mixture(logits: Tensor, others: Tensor, share: Tensor, temperature: float) -> Tensor:
    """Return logits (n, k) whose softmax at a temperature is (1 - share) softmax(logits / T) + share softmax(others / T).

    Args:
        logits: (n, k).
        others: (n, k).
        share: (n,), from 0 to below 1.
        temperature: T > 0.
    """
    first, second = (F.log_softmax(precise(one) / temperature, dim=1) for one in (logits, others))
    part = precise(share)[:, None]
    return temperature * torch.logaddexp(first + torch.log1p(-part), second + part.log())


def binary_mixture(logits: Tensor, others: Tensor, share: Tensor, temperature: float) -> Tensor:
    """`mixture` for sigmoids: the probability of each class is mixed by itself."""
    part = precise(share)[:, None]

    def log_mixed(sign: int) -> Tensor:
        first, second = (F.logsigmoid(sign * precise(one) / temperature) for one in (logits, others))
        return torch.logaddexp(first + torch.log1p(-part), second + part.log())

    return temperature * (log_mixed(1) - log_mixed(-1))


def binary_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Binary cross-entropy of the student under the teacher's probability of each class, times T^2: Hinton et al. 2015 for sigmoids.

    Its gradient is that of the KL divergence of the two Bernoulli distributions of each class, whose entropy is constant.

    Args:
        student: logits (n, k).
        teacher: logits (n, k); no gradient flows into them.
        temperature: T > 0, of both.

    Returns:
        float32 scalar, the mean over n of the sum over k.
    """
    targets = torch.sigmoid(precise(teacher.detach()) / temperature)
    each = F.binary_cross_entropy_with_logits(precise(student) / temperature, targets, reduction="none")
    return each.sum(1).mean() * temperature**2
