"""Rewrite a trained network, without changing what it computes, so that its exported graph is short and static."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_linear_bn_eval

from edgekit.errors import ExportError, typed_reason_of
from edgekit.sizes import ImageSize, SizeLike

_FUSED_WITHIN = 1e-3  # of the largest logit: float32 rounding gives about 1e-6, a wrong fusion much more


def exportable(model: nn.Module, image_size: SizeLike) -> nn.Module:
    """Return a copy of a model on the CPU, in evaluation mode, with equivalent modules in place of those that export badly.

    - `AdaptiveAvgPool2d(1)` becomes a mean: torch 2.15 exports the pooling as `as_strided`. For a larger output it becomes
      two constant matrices, because ONNX has no operator for it.
    - timm's SAME convolutions (as in TensorFlow) get constant padding for this image size: otherwise it is computed from
      the input's shape, in about forty nodes per convolution.
    - A BatchNorm1d right after a Linear is folded into it; those after convolutions are folded by the exporter.
    - The branches of a reparameterizable network become one equivalent convolution (see `fused`).

    Args:
        model: takes uint8 images (n, h, w, 3).
        image_size: h and w, in pixels.
    """
    from timm.layers.conv2d_same import Conv2dSame

    model = fused(copied(model).requires_grad_(False), image_size)
    sizes = _input_sizes(model, image_size, (Conv2dSame, nn.AdaptiveAvgPool2d))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d):
                one = child.output_size in (1, (1, 1))
                setattr(parent, name, GlobalMean() if one else MatrixPool(sizes[child], child.output_size))
            elif isinstance(child, Conv2dSame):
                setattr(parent, name, PaddedConv2d(child, sizes[child]))
        if isinstance(parent, nn.Sequential):
            _fold_linear_batch_norm(parent)
    return model


def copied(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in float32 and evaluation mode.

    Raises:
        ExportError: the model holds an object that cannot be copied.
    """
    try:
        return copy.deepcopy(model).cpu().float().eval()
    except Exception as error:  # a user's attribute cannot be copied: an open file, a lock, a tensor with a history
        reason = typed_reason_of(error)
        raise ExportError(
            f"the network cannot be copied: {reason}",
            "remove attributes that are not weights, such as open files or locks",
        ) from error


def fused(model: nn.Module, image_size: SizeLike) -> nn.Module:
    """Return a network with its parallel branches fused, if it can do so: MobileOne, RepVGG, FastViT, RepViT, …

    Such networks train with several convolutions and BatchNorms in parallel, whose sum is one convolution in evaluation mode (Ding et al.
    2021, RepVGG, section 3.3). Fuse before quantizing: the weights of the branches have other ranges than their sum.

    The network's own code fuses it. It may fail, also on a network that is already fused (FastViT's does), or compute something else;
    so both networks are run on a few images, and if they differ the network is returned unchanged.

    Args:
        model: takes uint8 images (n, h, w, 3); in evaluation mode. It is not changed.
        image_size: h and w, in pixels.
    """
    from timm.utils.model import reparameterize_model

    fuses = ("fuse", "reparameterize", "switch_to_deploy")
    if not any(callable(getattr(type(module), name, None)) for module in model.modules() for name in fuses):
        return model
    try:
        candidate = reparameterize_model(model).eval()
        same = _computes_the_same(model, candidate, image_size)
    except Exception:  # the code of the network's author may raise anything
        same = False
    return candidate if same else model


def _computes_the_same(model: nn.Module, other: nn.Module, image_size: SizeLike) -> bool:
    """Whether two models give the same outputs for a few random images, up to float32 rounding."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, *ImageSize.of(image_size), 3), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        expected, found = model(images), other(images)
    return bool(
        expected.shape == found.shape and (found - expected).abs().max() <= _FUSED_WITHIN * expected.abs().max()
    )


class GlobalMean(nn.Module):
    """The mean over height and width, kept as axes of size 1: (n, c, h, w) -> (n, c, 1, 1)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3), keepdim=True)


class MatrixPool(nn.Module):
    """`AdaptiveAvgPool2d` for one input size: (n, c, h, w) -> (n, c, h', w'), each output is a mean over a window.

    Args:
        size: h and w.
        output_size: the pooling's own argument.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, size: tuple[int, int], output_size: Any) -> None:
        super().__init__()
        height, width = output_size if isinstance(output_size, Sequence) else (output_size, output_size)
        self.register_buffer("rows", window_means(size[0], size[0] if height is None else height))
        self.register_buffer("columns", window_means(size[1], size[1] if width is None else width).T.contiguous())

    def forward(self, features: Tensor) -> Tensor:
        return self.rows @ features @ self.columns


def window_means(size: int, count: int) -> Tensor:
    """A matrix (count, size), each row the mean over a window of adaptive pooling: from floor(i size / count) to ceil((i + 1) size / count)."""
    rows = np.zeros((count, size), np.float32)
    for i in range(count):
        begin, end = i * size // count, -(-(i + 1) * size // count)
        rows[i, begin:end] = 1 / (end - begin)
    return torch.from_numpy(rows)


@contextmanager
def pooling_by_matrices() -> Iterator[None]:
    """Trace calls of `functional.adaptive_avg_pool2d` in the same form that `exportable` gives its module."""
    original = functional.adaptive_avg_pool2d

    def pool(features: Tensor, output_size: Any) -> Tensor:
        if output_size in (1, (1, 1), [1, 1]):
            return features.mean((-2, -1), keepdim=True)
        matrices: Tensor = MatrixPool((int(features.shape[-2]), int(features.shape[-1])), output_size)(features)
        return matrices

    functional.adaptive_avg_pool2d = pool  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.adaptive_avg_pool2d = original


class PaddedConv2d(nn.Module):
    """A SAME convolution for one input size. Its padding, which may differ between sides, is an attribute of the ONNX Conv.

    Args:
        same: the convolution.
        size: height and width of its input.
    """

    def __init__(self, same: nn.Conv2d, size: tuple[int, int]) -> None:
        super().__init__()
        from timm.layers.padding import get_same_padding

        self.weight, self.bias = same.weight, same.bias
        self.stride, self.dilation, self.groups = tuple(same.stride), tuple(same.dilation), same.groups
        total = [
            int(get_same_padding(size[i], same.kernel_size[i], self.stride[i], self.dilation[i])) for i in range(2)
        ]
        self.begins = [t // 2 for t in total]
        self.ends = [t - t // 2 for t in total]

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = _PaddedConvolution.apply(
            features, self.weight, self.bias, self.stride, self.dilation, self.groups, self.begins, self.ends
        )
        return result


class _PaddedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        begins: Sequence[int],
        ends: Sequence[int],
    ) -> Tensor:
        padded = functional.pad(features, (begins[1], ends[1], begins[0], ends[0]))
        return functional.conv2d(padded, weight, bias, tuple(stride), 0, tuple(dilation), groups)

    @staticmethod
    def symbolic(
        g: Any,
        features: Any,
        weight: Any,
        bias: Any,
        stride: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        begins: Sequence[int],
        ends: Sequence[int],
    ) -> Any:
        inputs = [features, weight] if bias is None or bias.node().mustBeNone() else [features, weight, bias]
        return g.op(
            "Conv", *inputs, strides_i=stride, dilations_i=dilation, group_i=groups, pads_i=[*begins, *ends],
            kernel_shape_i=weight.type().sizes()[2:],
        )  # fmt: skip


def _input_sizes(
    model: nn.Module, image_size: SizeLike, kinds: tuple[type[nn.Module], ...]
) -> dict[nn.Module, tuple[int, int]]:
    """Height and width of the input of every module of these kinds, found by running the model on one blank image."""
    sizes: dict[nn.Module, tuple[int, int]] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[module] = (inputs[0].shape[2], inputs[0].shape[3])

    hooks = [m.register_forward_pre_hook(record) for m in model.modules() if isinstance(m, kinds)]
    if hooks:
        with torch.no_grad():
            model(torch.zeros(1, *ImageSize.of(image_size), 3, dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    return sizes


def _fold_linear_batch_norm(layers: nn.Sequential) -> None:
    for i in range(len(layers) - 1):
        first, second = layers[i], layers[i + 1]
        if isinstance(first, nn.Linear) and isinstance(second, nn.BatchNorm1d):
            layers[i], layers[i + 1] = fuse_linear_bn_eval(first, second), nn.Identity()
