"""Quantization-aware distillation: adapt the weights so that the quantized network reproduces the float one, without any label.

The network runs with its rounding simulated (fake quantization, straight-through gradient: Jacob et al. 2018, "Quantization and
training of neural networks for efficient integer-arithmetic-only inference") and learns to give the outputs that it gives in float
(knowledge distillation onto the quantized self: Mishra and Marr 2018, "Apprentice"). What comes out are float weights again, which
are exported and quantized by the same post-training quantization as before: no fake quantization ever reaches a file.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from edgekit.data.images import spread_rows
from edgekit.progress import Advance
from edgekit.quantize.qdq import Scheme

STEPS = 150
BATCH = 64
LEARNING_RATE = 5e-5  # of Adam, falling to zero along a cosine
TEMPERATURE = 2.0
_RANGED = 256  # images that give the ranges of the activations
_PERCENTILE = 0.9999
_SAMPLED = 1 << 20  # values of one tensor and batch that the percentiles are computed from


def recover(
    model: nn.Module,
    images: NDArray[np.uint8],
    scheme: Scheme,
    *,
    categorical: bool = True,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    advance: Advance,
) -> nn.Module:
    """Return a copy of a model whose weights were adapted to quantization.

    Weights are simulated symmetric, one scale an output channel, recomputed at every step; what Conv2d and Linear read is simulated
    as uint8, or as int8 around 0, with one range a tensor, found once on the images before the first step. The layer that makes the
    main output stays in float, as it does in the file. BatchNorm keeps its statistics. The loss is KL(float || quantized) at T = 2, times T^2;
    where the main output holds no logits of one choice, the power of the difference over that of the output.

    Args:
        model: uint8 images (n, h, w, 3) -> its main output, float32 (n, …), or a tuple that begins with it, on the CPU; it is not changed.
        images: unlabeled, uint8 (n, h, w, 3).
        scheme: how weights and activations will be rounded.
        categorical: whether the main output holds logits of one choice among its axis 1.
        steps: of `BATCH` images each (fewer where there are fewer).
        learning_rate: the first; it falls to zero along a cosine.
        advance: called after each step.
    """
    student = copy.deepcopy(model).eval().requires_grad_(True)
    distance = divergence if categorical else relative_error
    targets = _outputs(copy.deepcopy(model).eval(), images)
    layers = quantized_layers(student, images[:2])
    quantizers = [_Activation(scheme.symmetric) for _ in layers]
    handles = [layer.register_forward_pre_hook(quantizer) for layer, quantizer in zip(layers, quantizers, strict=True)]
    _outputs(student, images[spread_rows(len(images), _RANGED)])
    for quantizer in quantizers:
        quantizer.freeze()
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _Weight(scheme.bits))
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    generator = np.random.default_rng(0)
    with torch.enable_grad():
        for rows in _draws(len(images), steps, generator):
            answers = _main(student(torch.from_numpy(images[rows])))
            loss = distance(answers, targets[torch.from_numpy(rows)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(note=f"loss {loss.item():.4f}")
    for handle in handles:
        handle.remove()
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    return student.requires_grad_(False)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over n, for logits (n, classes)."""
    answer, target = (functional.log_softmax(logits.float() / TEMPERATURE, dim=1) for logits in (student, teacher))
    return functional.kl_div(answer, target, reduction="batchmean", log_target=True) * TEMPERATURE**2


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """The sum of (student - teacher)^2 over that of teacher^2: the noise for one of signal."""
    return (student.float() - teacher).square().sum() / teacher.float().square().sum().clamp_min(1e-12)


def quantized_layers(model: nn.Module, images: NDArray[np.uint8]) -> list[nn.Conv2d | nn.Linear]:
    """The Conv2d and Linear modules that a model runs, in that order, without the last, which makes the main output."""
    seen: dict[nn.Conv2d | nn.Linear, None] = {}

    def note(module: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.pop(module, None)
        seen[module] = None

    hooks = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    _outputs(model, images)
    for hook in hooks:
        hook.remove()
    return list(seen)[:-1]


class _Weight(nn.Module):
    """Fake quantization of a weight (out, …): symmetric, one scale per output channel."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.top = 2 ** (bits - 1) - 1

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-12) / self.top
        zero = torch.zeros(len(scale), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -self.top, self.top)


class _Activation:
    """Fake quantization of a layer's input, with one range per tensor. It observes values until it is frozen.

    Args:
        symmetric: int8 around 0, without -128; otherwise uint8.
    """

    def __init__(self, symmetric: bool) -> None:
        self.symmetric = symmetric
        self.low, self.high = 0.0, 0.0  # zero is always represented exactly
        self.frozen: tuple[float, int] | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = inputs[0]
        if self.frozen is not None:
            reach = (-127, 127) if self.symmetric else (0, 255)
            return torch.fake_quantize_per_tensor_affine(values, *self.frozen, *reach), *inputs[1:]
        flat = values.detach().flatten()
        flat = flat[:: max(1, len(flat) // _SAMPLED)][:_SAMPLED]
        low, high = torch.quantile(flat, torch.tensor([1 - _PERCENTILE, _PERCENTILE])).tolist()
        self.low, self.high = min(self.low, low), max(self.high, high)
        return inputs

    def freeze(self) -> None:
        if self.symmetric:
            self.frozen = max(-self.low, self.high, 1e-12) / 127, 0
            return
        scale = max(self.high - self.low, 1e-12) / 255
        self.frozen = scale, min(255, max(0, round(-self.low / scale)))


def _outputs(model: nn.Module, images: NDArray[np.uint8]) -> Tensor:
    """The main output for all images."""
    with torch.no_grad():
        parts = [
            _main(model(torch.from_numpy(np.array(images[start : start + BATCH]))))
            for start in range(0, len(images), BATCH)
        ]
    return torch.cat(parts)


def _main(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _draws(count: int, steps: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """Rows of the images for each step: every image once before any comes again."""
    size = min(BATCH, count)
    order = np.concatenate([generator.permutation(count) for _ in range(-(-steps * size // count))])
    return [order[i * size : (i + 1) * size] for i in range(steps)]
