"""Batch norm over the whole global batch, whatever number of devices it lies on.

On CUDA it is torch's SyncBatchNorm. That has no CPU path, so a small layer does the same there: one packed
collective a layer and direction. Every device carries as many pixels as the others, so a mean of means is
the mean, and variances are combined as Chan, Golub and LeVeque do (1979).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from bench.group import Group


def synchronise(model: nn.Module, group: Group, device: torch.device) -> nn.Module:
    """`model` with its batch norms sharing their statistics over the group; the same parameters."""
    if group.devices == 1:
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and not isinstance(child, SyncBatchNorm):
                setattr(parent, name, SyncBatchNorm.like(child, group.devices))
    return model


class SyncBatchNorm(nn.BatchNorm2d):
    """(N, C, H, W) -> the same, normalised by the statistics of all devices while training."""

    devices: int

    @classmethod
    def like(cls, layer: nn.BatchNorm2d, devices: int) -> SyncBatchNorm:
        """A layer with the parameters and buffers of `layer`."""
        made = cls(layer.num_features, layer.eps, layer.momentum)
        made.weight, made.bias = layer.weight, layer.bias
        made.running_mean, made.running_var = layer.running_mean, layer.running_var
        made.num_batches_tracked = layer.num_batches_tracked
        made.devices = devices
        return made.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        y, mean, variance = _Normalise.apply(x, self.weight, self.bias, self.eps, self.devices)
        count = x.numel() // x.shape[1] * self.devices
        running: Any = self  # torch's types allow a layer without statistics
        with torch.no_grad():
            running.num_batches_tracked.add_(1)
            running.running_mean.lerp_(mean, self.momentum)
            running.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        out: Tensor = y
        return out


class _Normalise(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias over all devices.

    With g the gradient of y and h = (x - mean) / sqrt(variance + eps), means over all pixels of all devices:
    dx = weight / sqrt(variance + eps) * (g - mean(g) - h mean(g h))  (Ioffe & Szegedy, 2015).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, devices: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        packed = torch.stack([mean, variance])
        everywhere = [torch.empty_like(packed) for _ in range(devices)]
        dist.all_gather(everywhere, packed)
        means, variances = torch.stack(everywhere).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.devices = eps, devices
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        inverse = torch.rsqrt(variance + ctx.eps)
        # the sums of g h and of g over this device's pixels, in one pass
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, variance, mean, inverse, False, ctx.eps, [False, True, True]
        )
        sums = torch.stack([grad_bias, grad_weight])
        dist.all_reduce(sums)
        count = x.numel() // x.shape[1] * ctx.devices
        mean_grad, mean_product = (sums / count).unbind()
        slope = weight * inverse
        # dx = slope g + tilt x + shift, a channel each
        tilt = -slope * inverse * mean_product
        shift = -slope * mean_grad - tilt * mean
        per_channel = (1, -1, 1, 1)
        out = torch.addcmul(shift.view(per_channel), grad, slope.view(per_channel))
        return out.addcmul_(x, tilt.view(per_channel)), grad_weight, grad_bias, None, None
