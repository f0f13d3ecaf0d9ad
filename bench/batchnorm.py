"""Batch norm over the whole global batch, whatever number of devices it lies on.

On CUDA it is torch's SyncBatchNorm. That has no CPU path, so a small layer does the same there: one packed
collective a layer and direction. Every device carries as many pixels as the others, so a mean of means is
the mean, and variances are combined as Chan, Golub and LeVeque do (1979). What has one value a channel is
numpy's, which takes a fraction of the time of torch for so little.
"""

from __future__ import annotations

from functools import partial
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
    @np.errstate(all="ignore")  # what leaves the numbers ends the run, as everywhere, by its loss
    def forward(self, x: Tensor) -> Tensor:
        """(x - mean) / sqrt(variance + eps) weight + bias, with the mean and variance of all devices."""
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            own = torch.batch_norm_update_stats(x, None, None, 0.0)  # mean and variance, in one pass
        said = self.group.collect(np.array([each.numpy() for each in own]))
        means, devices = said[:, 0], self.group.devices
        mean = means.sum(0) / devices
        variance = ((means - mean) ** 2 + said[:, 1]).sum(0) / devices
        count = x.numel() // x.shape[1] * devices
        self._follow(mean, variance * (count / (count - 1)))
        shared = torch.from_numpy(mean), torch.from_numpy(variance)
        out = F.batch_norm(x, *shared, self.weight, self.bias, False, 0.0, self.eps)
        if out.grad_fn is not None:
            inverse = 1 / np.sqrt(variance + self.eps)
            out.grad_fn.register_hook(partial(self._through_statistics, x.detach(), mean, inverse))
        return out

    def _follow(self, mean: Array, variance: Array) -> None:
        """Move the running statistics towards those of a batch."""
        layer: Any = self  # torch's types allow one without
        layer.num_batches_tracked += 1
        for running, now in ((layer.running_mean, mean), (layer.running_var, variance)):
            values = running.numpy()  # the same memory
            values += layer.momentum * (now - values)

    @np.errstate(all="ignore")
    def _through_statistics(
        self, x: Tensor, mean: Array, inverse: Array, grads: tuple[Tensor, Tensor, Tensor], _: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of x, weight and bias as torch gives them where mean and variance are constants, with
        what comes through these added to the first.

        With g the gradient of y and h = (x - mean) inverse, torch's are weight inverse g, and the sums of g h
        and of g over this device's pixels. With means over all pixels of all devices,
        dx = weight inverse (g - mean(g) - h mean(g h))  (Ioffe & Szegedy, 2015).
        """
        dx, gh, g = grads
        sums = self.group.collect(np.array([g.numpy(), gh.numpy()])).sum(0)
        count = x.numel() // x.shape[1] * self.group.devices
        shift, tilt = sums * (inverse * self.weight.detach().numpy() / -count)
        tilt *= inverse
        shift -= tilt * mean
        shift, tilt = (torch.from_numpy(each).view(1, -1, 1, 1) for each in (shift, tilt))
        return dx.add_(shift).addcmul_(x, tilt), gh, g
