"""More than one process: gathering with gradients, and BatchNorm over the whole batch, on any backend.

Every process computes the loss of its own rows against the whole batch's columns; DDP then averages the gradients of the
processes, which is the gradient of the mean loss. That holds only if what is gathered carries its gradient back to the
process that it came from, summed over the processes (several libraries lose a factor of the world size there).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist


def world_size() -> int:
    """Return the number of processes that train together; 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, 0 to world_size() - 1."""
    return dist.get_rank() if world_size() > 1 else 0


def barrier() -> None:
    """Wait for the other processes."""
    if world_size() > 1:
        dist.barrier()


def broadcast(value: Any) -> Any:
    """Return the value of process 0 on every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(rows: Tensor) -> Tensor:
    """Gather the rows of all processes in the order of their ranks, with gradient.

    Args:
        rows: (n, ...), the same shape on every process; integers have no gradient.

    Returns:
        (world size * n, ...). The gradient of each row is the sum of what all processes computed for it.
    """
    return rows if world_size() == 1 else _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous()
        dist.all_reduce(summed)
        return summed.chunk(world_size())[rank()]


class _Standardize(torch.autograd.Function):
    """Values (n, c, ...) less the whole batch's mean, divided by its standard deviation; one exchange each way, as SyncBatchNorm."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        axes = [0, *range(2, values.ndim)]
        variance, mean = torch.var_mean(values, axes, correction=0)
        # Of equal shares, the variance is the mean of the variances plus the variance of the means (Chan et al. 1979).
        means, variances = gather(torch.stack([mean, variance])[None]).unbind(1)
        variance, mean = torch.var_mean(means, 0, correction=0)
        variance += variances.mean(0)
        shape = [1, -1] + [1] * (values.ndim - 2)
        scale = torch.rsqrt(variance + eps).view(shape)
        standardized = (values - mean.view(shape)) * scale
        ctx.save_for_backward(standardized, scale)
        ctx.mark_non_differentiable(mean, variance)
        return standardized, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *statistics: Any) -> tuple[Tensor, None]:
        standardized, scale = ctx.saved_tensors
        axes = [0, *range(2, gradient.ndim)]
        means = torch.stack([gradient.mean(axes), (gradient * standardized).mean(axes)])
        dist.all_reduce(means)
        of_gradient, of_product = (means / world_size()).view(2, *scale.shape)
        return (gradient - of_gradient - standardized * of_product) * scale, None


class WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the batches of all processes, on backends where PyTorch's SyncBatchNorm has no kernel (the CPU's).

    Same parameters, buffers and results as one BatchNorm that sees the whole batch; (n, c) or (n, c, h, w), the same shape on
    every process. Statistics of 16-bit input are computed in float32.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (n, c, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalized images or features, of the input's type; in evaluation mode, PyTorch's own."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        normalized, mean, variance = _Standardize.apply(values, self.eps)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            count = input.numel() // input.shape[1] * world_size()  # the same number of rows on every process
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * count / (count - 1), share)
        if self.affine:
            shape = [1, -1] + [1] * (input.ndim - 2)
            normalized = normalized * self.weight.view(shape) + self.bias.view(shape)
        return normalized.to(input.dtype)


def synchronize_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm by one that sees the batches of all processes, keeping parameters, buffers and their names."""
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, WholeBatchNorm):
            replacement = WholeBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            # The same tensors, which others may hold, with their type.
            replacement.weight, replacement.bias = child.weight, child.bias
            for buffer in child._buffers:
                setattr(replacement, buffer, getattr(child, buffer))
            replacement.train(child.training)
            setattr(module, name, replacement)
        else:
            synchronize_batchnorm(child, device)
    return module


def is_synchronized(module: nn.Module) -> bool:
    """Return whether every BatchNorm of a module normalizes over the batches of all processes."""
    synchronized = (nn.SyncBatchNorm, WholeBatchNorm)
    return all(isinstance(m, synchronized) for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
