"""Batch norm over the whole global batch, whatever number of devices it lies on.

On CUDA it is torch's SyncBatchNorm. That has no CPU path, so a small layer does the same there: one packed
collective a layer and direction. Every device carries as many pixels as the others, so a mean of means is
the mean, and variances are combined as Chan, Golub and LeVeque do (1979).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.group import Group
from bench.mailbox import Array


def synchronise(model: nn.Module, group: Group, device: torch.device) -> nn.Module:
    """`model` with its batch norms sharing their statistics over the group; the same parameters."""
    if group.devices == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        for layer in model.modules():
            if isinstance(layer, nn.SyncBatchNorm):  # what is compiled leaves it as it is
                layer.forward = torch.compiler.disable(layer.forward)  # type: ignore[method-assign]
        return model
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and not isinstance(child, SyncBatchNorm):
                setattr(parent, name, SyncBatchNorm.like(child, group))
    return model


class SyncBatchNorm(nn.BatchNorm2d):
    """(N, C, H, W) -> the same, normalised by the statistics of all devices while training."""

    group: Group

    @classmethod
    def like(cls, layer: nn.BatchNorm2d, group: Group) -> SyncBatchNorm:
        """A layer with the parameters and buffers of `layer`."""
        made = cls(layer.num_features, layer.eps, layer.momentum)
        made.weight, made.bias = layer.weight, layer.bias
        made.running_mean, made.running_var = layer.running_mean, layer.running_var
        made.num_batches_tracked = layer.num_batches_tracked
        made.group = group
        return made.train(layer.training)

    @torch.compiler.disable  # it talks to other processes, and numpy computes a part
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        out: Tensor
        out, mean, spread = _Normalise.apply(x, self.weight, self.bias, self.eps, self.group)
        count = x.numel() // x.shape[1] * self.group.devices
        self._follow(mean, (spread - self.eps) * (count / (count - 1)))
        return out

    def _follow(self, mean: Array, variance: Array) -> None:
        """Move the running statistics towards those of a batch."""
        layer: Any = self  # torch's types allow one without
        layer.num_batches_tracked += 1
        for running, now in ((layer.running_mean, mean), (layer.running_var, variance)):
            values = running.numpy()  # the same memory
            values += layer.momentum * (now - values)


class _Normalise(torch.autograd.Function):
    """y = (x - mean) / sqrt(spread) * weight + bias over all devices, where spread is variance + eps.

    With g the gradient of y and h = (x - mean) / sqrt(spread), means over all pixels of all devices:
    dx = weight / sqrt(spread) * (g - mean(g) - h mean(g h))  (Ioffe & Szegedy, 2015).
    What has one value a channel is numpy's, which takes a fraction of the time of torch for so little.
    """

    @staticmethod
    @np.errstate(all="ignore")  # what leaves the numbers ends the run, as everywhere, by its loss
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, group: Group
    ) -> tuple[Tensor, Array, Array]:
        # mean and 1 / sqrt(spread) of this device's pixels, several times as fast as torch.var_mean
        _, mean, inverse = torch.native_batch_norm(x, None, None, None, None, True, 0.0, eps)
        said = group.collect(np.array([mean.numpy(), inverse.numpy()]))
        means, inverses = said[:, 0], said[:, 1]
        mean = means.sum(0) / group.devices
        spread = ((means - mean) ** 2 + 1 / inverses**2).sum(0) / group.devices
        ctx.save_for_backward(x, weight)
        ctx.mean, ctx.spread, ctx.group = mean, spread, group
        statistics = torch.from_numpy(mean), torch.from_numpy(spread)
        return F.batch_norm(x, *statistics, weight, bias, False, 0.0, 0.0), mean, spread

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        inverse = 1 / np.sqrt(ctx.spread)
        mean, spread, scale = (torch.from_numpy(each) for each in (ctx.mean, ctx.spread, inverse))
        # slope g, and the sums of g h and of g over this device's pixels, in one pass
        out, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward.default(
            grad, x, weight, mean, spread, mean, scale, False, 0.0, [True, True, True]
        )
        sums = ctx.group.collect(np.array([grad_bias.numpy(), grad_weight.numpy()])).sum(0)
        # dx = slope g + tilt x + shift, a channel each
        count = x.numel() // x.shape[1] * ctx.group.devices
        shift, tilt = sums * (inverse * weight.detach().numpy() / -count)
        tilt *= inverse
        shift -= tilt * ctx.mean
        shift, tilt = (torch.from_numpy(each).view(1, -1, 1, 1) for each in (shift, tilt))
        return out.add_(shift).addcmul_(x, tilt), grad_weight, grad_bias, None, None
