"""The devices that share a step: who carries which replicas, and what they exchange.

A process a device. Each holds an equal, contiguous part of the global batch, whole replicas of it; rank 0
carries the first and keeps the record. Nothing here knows what is trained: alone, a group exchanges nothing.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.seat import Seat

TIMEOUT = timedelta(minutes=10)  # of a collective: an evaluation of rank 0 alone is never that long


@dataclass(frozen=True)
class Group:
    """Process number `rank` of `devices`."""

    rank: int = 0
    devices: int = 1
    side: Any = None  # a gloo group, for what processors tell each other

    @property
    def leads(self) -> bool:
        """Whether this process keeps the record and carries replica 0."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """The part of `count` things in a row that is this device's; `devices` divides `count`."""
        each = count // self.devices
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of `value` over the devices, the same on each."""
        return self.total(value) / self.devices if self.devices > 1 else value

    def total(self, value: Tensor) -> Tensor:
        """The sum of `value` over the devices, the same on each."""
        if self.devices == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value

    def gather(self, what: Any) -> list[Any]:
        """What each device says, in the order of ranks; the processors talk, no GPU waits."""
        if self.devices == 1:
            return [what]
        answers: list[Any] = [None] * self.devices
        dist.all_gather_object(answers, what, self.side)
        return answers

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model`, its gradients averaged over the devices while the backward pass goes on, in buckets."""
        if self.devices == 1:
            return model
        # running statistics are handed on when somebody asks for them; the option's name changed in 2026
        known = inspect.signature(DistributedDataParallel).parameters
        keep_buffers: dict[str, Any] = {
            "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
        }
        devices = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(model, devices, gradient_as_bucket_view=True, **keep_buffers)

    def hand_on_statistics(self, model: nn.Module) -> None:
        """Give every device the buffers of the first: running statistics are replica 0's."""
        if self.devices > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


ALONE = Group()


@contextmanager
def joined(seat: Seat, device: torch.device) -> Iterator[Group]:
    """The group of all processes that meet where `seat` says."""
    if seat.devices == 1:
        yield ALONE
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=_store(seat), rank=seat.rank, world_size=seat.devices, timeout=TIMEOUT
    )
    try:
        side = dist.new_group(backend="gloo") if backend == "nccl" else None
        yield Group(seat.rank, seat.devices, side)
    finally:
        dist.destroy_process_group()


def _store(seat: Seat) -> Any:
    """Where the processes find each other."""
    stores: Any = dist  # torch exports them without saying so
    if not seat.launched:
        return stores.FileStore(seat.meeting, seat.devices)
    address, _, key = seat.meeting.partition("/")
    host, _, port = address.rpartition(":")
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun itself
    leads = seat.rank == 0 and not hosted
    return stores.PrefixStore(key, stores.TCPStore(host, int(port), seat.devices, leads, timeout=TIMEOUT))
