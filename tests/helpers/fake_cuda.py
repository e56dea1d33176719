"""The CUDA path on a machine without a GPU: tensors that have a device, a shape and a type, and no values.

Inside `fake_cuda()`, tensors with `device="cuda"` can be made and computed with, without a driver. What would fail on a GPU raises, and
so does what would make the host wait for it. Only forward passes run: PyTorch's backward pass asks for a real stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)


class HostWaits(RuntimeError):
    """A step would make the host wait for the GPU."""


class _NoWaiting(TorchDispatchMode):
    """Refuses the copies that wait: every one to the host, and those to the GPU that are not asked to be asynchronous.

    Reading a value (`.item()`, `bool()`, indexing with a mask) raises in PyTorch's own fake mode.
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is torch.ops.aten.is_pinned.default:
            return False
        if func is torch.ops.aten._pin_memory.default:  # has no fake kernel; the values stay where they are
            return args[0].clone()
        source, target, waits = None, None, True
        if func is torch.ops.aten._to_copy.default:
            source, target = args[0].device, torch.device(named.get("device") or args[0].device)
            waits = not named.get("non_blocking", False)
        elif func is torch.ops.aten.copy_.default:
            source, target = args[1].device, args[0].device
            waits = not (args[2] if len(args) > 2 else named.get("non_blocking", False))
        if source is not None and target is not None and source.type != target.type:
            if target.type == "cpu":
                raise HostWaits(f"a copy of {tuple(args[0].shape)} from {source} to the host")
            if waits:
                raise HostWaits(f"a copy to {target} that is not asynchronous")
        return func(*args, **named)


@contextmanager
def fake_cuda(*, bf16: bool = False) -> Iterator[None]:
    """Fake tensors on "cuda"; with `bf16`, under bfloat16 autocast.

    Random draws on the CPU have values that decide shapes (which images are blurred), so augmentation makes them outside the mode.
    """
    from edgekit.data.augment import transform

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(transform, "draw", _really(transform.draw)))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_NoWaiting())
        if bf16:  # torch.autocast("cuda") switches itself off where there is no driver
            before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
            torch.set_autocast_enabled("cuda", True)
            torch.set_autocast_dtype("cuda", torch.bfloat16)
            stack.callback(torch.set_autocast_enabled, "cuda", before[0])
            stack.callback(torch.set_autocast_dtype, "cuda", before[1])
        yield


def _really(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with tensors that have values."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    return call


def on_cuda(module: nn.Module) -> nn.Module:
    """The module with its parameters and buffers on the GPU; called inside `fake_cuda()`, before what may not wait."""
    with unset_fake_temporarily():
        tensors = {name: (t.shape, t.dtype, t.stride(), t.requires_grad) for name, t in _tensors(module)}
    for name, (shape, dtype, strides, trains) in tensors.items():
        owner, _, key = name.rpartition(".")
        made: Any = torch.empty_strided(shape, strides, dtype=dtype, device=CUDA)
        slot = module.get_submodule(owner)
        if key in slot._parameters:
            slot._parameters[key] = nn.Parameter(made, requires_grad=trains)
        else:
            slot._buffers[key] = made
    return module


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
