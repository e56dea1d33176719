"""One step of each method on the GPU beside the same step on the CPU, both against float64.

The bound. Rounding errors of a step are, to first order, a linear function of the unit roundoff u: 2^-24 for float32, 2^-8 for bfloat16.
Which kernels sum in which order changes the realization of that error, not its size: the norm of the error of a gradient with 10^5
components varies little around its expectation. The CPU's own error against float64, measured on the same step, is therefore the yardstick:
the GPU's may be `FACTOR` times as large, and never counts as too large below `FLOOR` units of roundoff. TF32 in place of float32 (2^-11)
would be 8,192 times as large; a wrong sign, a lost term or other draws are errors of the order of 1.

That holds for smooth networks. A ReLU's derivative jumps: of the 5 million units of such a step a few lie nearer to zero than rounding, and
each that falls on the other side changes the gradient by a thousandth, whatever the precision. So every ReLU is a SiLU here; convolutions,
BatchNorm, matrix products, losses and optimizers are the product's own.

Where a step is not continuous for another reason (the closest crop, the hardest negative: two candidates may be nearer than rounding), a choice may
fall otherwise; such a method is given three seeds and must hold on one: a fault shows on all of them.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from edgekit import recipe as recipes
from edgekit.data.augment import Augment
from edgekit.recipe import METHODS as CONFIGS
from edgekit.recipe import Augmentation
from edgekit.train.loop.devices import full_float32
from edgekit.train.loop.optim import build_optimizer
from edgekit.train.pretrain import METHODS, build_method
from edgekit.train.pretrain.method import Method, Views

FACTOR, FLOOR = 8.0, 4.0
ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8}
DISCONTINUOUS = {"triplet", "byol+gsg", "simsiam+gsg"}
SIZE, BATCH, POOL = 32, 32, 128
SMALL: dict[str, dict[str, Any]] = {
    "moco": {"queue": 256}, "instdisc": {"negatives": 256}, "byol": {"predictor": {"hidden": 128}},
    "byol+gsg": {"predictor": {"hidden": 128}}, "simsiam": {"predictor": {"hidden": 64}}, "simsiam+gsg": {"predictor": {"hidden": 64}},
}  # fmt: skip


def settings(name: str) -> Any:
    """A method's part of the recipe: its own defaults on a small network; SimCLR steps with LARS, the others with SGD."""
    lars = name == "simclr"
    return recipes.parse(
        {
            "pretrain": {
                "method": name,
                "encoder": {"name": "resnet10", "width": 0.25, "stem": "cifar"},
                "projection": {"layers": CONFIGS[name]().projection.layers, "hidden": 128, "output": 64},
                "batch_size": BATCH,
                "optimizer": {
                    "name": "lars" if lars else "sgd",
                    "lr": 0.5 if lars else 0.05,
                    "warmup_epochs": 0,
                    "weight_decay": 1e-4,
                },
                **SMALL.get(name, {}),
            }
        }
    ).pretrain


def compare(name: str, dtype: str, device: torch.device) -> dict[str, Any]:
    """Errors of loss, gradient and changed state of one method's step on the CPU and on `device`, against float64."""
    seeds = (0, 1, 2) if name in DISCONTINUOUS else (0,)
    found = [_compare(name, dtype, device, seed) for seed in seeds]
    best = min(found, key=lambda one: one["worst_ratio"])
    return {"passed": best["worst_ratio"] <= FACTOR, "factor": FACTOR, "dtype": dtype, **best}


def _compare(name: str, dtype: str, device: torch.device, seed: int) -> dict[str, Any]:
    config = settings(name)
    images = _views(METHODS[name].views, seed)
    truth = _truth(name, seed)
    low = dtype == "bfloat16"
    outcomes = {
        "cpu": _step(_method(name, seed), config, images, seed, _autocast("cpu", low)),
        "device": _on_device(_method(name, seed), config, images, seed, low, device),
    }
    floor = FLOOR * ROUNDOFF[dtype]
    errors = {who: {what: _error(value, truth[what]) for what, value in got.items()} for who, got in outcomes.items()}
    # A number alone may be near by luck: the loss is held against the error of the gradient, which is made of the same roundings.
    yardstick = {**errors["cpu"], "loss": errors["cpu"]["gradient"]}
    ratios = {what: errors["device"][what] / max(yardstick[what], floor) for what in truth}
    return {"seed": seed, "errors": errors, "ratios": ratios, "worst_ratio": max(ratios.values())}


@functools.cache
def _truth(name: str, seed: int) -> dict[str, Tensor]:
    """The step in float64, the same for both precisions."""
    images = [view.double() for view in _views(METHODS[name].views, seed)]
    return _step(_method(name, seed).double(), settings(name), images, seed, nullcontext())


def _method(name: str, seed: int) -> Method:
    torch.manual_seed(seed)
    method = build_method(settings(name), SIZE, POOL).train()
    for (
        module
    ) in method.modules():  # blocks that start as the identity would hide half of the network from the gradient
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    _smooth(method)
    if hasattr(method, "target"):
        method.target.module.load_state_dict(method.model.state_dict())
    if hasattr(method, "key_encoder"):
        method.key_encoder.module.load_state_dict(method.model.state_dict())
    return method


def _smooth(module: nn.Module) -> None:
    """SiLU in place of every ReLU."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.SiLU())
        else:
            _smooth(child)


def _on_device(
    method: Method, config: Any, images: list[Tensor], seed: int, low: bool, device: torch.device
) -> dict[str, Tensor]:
    if device.type == "cuda":
        with full_float32():
            return _step(method.to(device), config, [v.to(device) for v in images], seed, _autocast("cuda", low))
    # A rehearsal: other kernels (PyTorch's own instead of oneDNN's), so that there is something to compare.
    with torch.backends.mkldnn.flags(enabled=False):
        return _step(method, config, images, seed, _autocast("cpu", low))


def _autocast(device: str, low: bool) -> AbstractContextManager[Any]:
    return torch.autocast(device, torch.bfloat16) if low else nullcontext()


def _views(count: int, seed: int) -> list[Tensor]:
    """Augmented views of smooth random images (noise alone has no two images that look alike)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(BATCH, 3, 6, 6, generator=generator)
    pixels = nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)
    augment = Augment(Augmentation(), SIZE, 0.5, 0.25)
    return list(augment(pixels.permute(0, 2, 3, 1).contiguous(), generator, count).chunk(count))


def _step(
    method: Method, config: Any, images: list[Tensor], seed: int, autocast: AbstractContextManager[Any]
) -> dict[str, Tensor]:
    """Forward, backward, optimizer and what the method does after it: loss, gradient and how far the state has moved, in float64."""
    device = images[0].device
    optimizer = build_optimizer(config.optimizer, method, BATCH, method.constant_lr())
    before = _state(method)
    index = torch.randperm(POOL, generator=torch.Generator().manual_seed(seed))[:BATCH].to(device)
    with autocast:
        loss = method(Views(images, index, torch.Generator().manual_seed(seed))).value
    loss.backward()
    gradient = torch.cat([p.grad.detach().double().cpu().flatten() for p in method.parameters() if p.grad is not None])
    optimizer.step()
    method.after_step(0.5)
    return {"loss": loss.detach().double().cpu(), "gradient": gradient, "update": _state(method) - before}


def _state(method: Method) -> Tensor:
    """Every floating-point parameter and buffer: weights, averages, queues, banks, BatchNorm's statistics."""
    values = [t.detach().double().cpu().flatten() for t in method.state_dict().values() if t.is_floating_point()]
    return torch.nan_to_num(torch.cat(values))


def _error(value: Tensor, truth: Tensor) -> float:
    """Relative to the truth; of a single number (the loss, which may be near zero), to 1 at least."""
    return float((value - truth).norm() / truth.norm().clamp(min=1.0 if truth.ndim == 0 else 1e-300))


def names() -> list[str]:
    """All methods."""
    return list(METHODS)
