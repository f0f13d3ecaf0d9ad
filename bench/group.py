"""The devices that share a step: who carries which replicas, and what they exchange.

A process a device. Each holds an equal, contiguous part of the global batch, whole replicas of it; rank 0
carries the first and keeps the record. Nothing here knows what is trained: alone, a group exchanges nothing.
GPUs talk through NCCL, processors of one machine through a mailbox, those of several through gloo.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench import meeting
from bench.mailbox import ROOM, Array, Mailbox
from bench.seat import Seat


@dataclass(frozen=True)
class Group:
    """Process number `rank` of `devices`."""

    rank: int = 0
    devices: int = 1
    side: Any = None  # a gloo group, for what processors tell each other
    mailbox: Mailbox | None = None  # where all devices are processors of one machine

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
        return self.add_up(value.clone()) if self.devices > 1 else value

    @np.errstate(all="ignore")  # what leaves the numbers ends the run by its loss, as on one device
    def add_up(self, value: Tensor) -> Tensor:
        """`value`, which is contiguous, with what the other devices have added to it in place."""
        if self.mailbox is None:
            dist.all_reduce(value)
            return value
        flat = value.view(-1)
        for piece in flat.split(ROOM // value.itemsize):
            own = piece.numpy()
            reduce(partial(np.add, out=own), self.mailbox.swap(self.rank, own))  # by ranks: all get the same
        return value

    def collect(self, packet: Array) -> Array:
        """(devices, *shape): what each processor has for `packet`, small and contiguous, in the order of
        ranks; to be read before the next."""
        if self.mailbox is not None:
            return self.mailbox.swap(self.rank, packet)
        everywhere = np.empty((self.devices, *packet.shape), packet.dtype)
        dist.all_gather(list(torch.from_numpy(everywhere).unbind()), torch.from_numpy(packet))
        return everywhere

    def gather(self, what: Any) -> list[Any]:
        """What each device says, in the order of ranks; the processors talk, no GPU waits."""
        if self.devices == 1:
            return [what]
        if self.mailbox is not None:
            said = np.frombuffer(pickle.dumps(what), np.uint8)
            longest = int(self.mailbox.swap(self.rank, np.array([len(said)])).max())
            everybodys = self.mailbox.swap(self.rank, np.pad(said, (0, longest - len(said))))
            return [pickle.loads(each.tobytes()) for each in everybodys]
        answers: list[Any] = [None] * self.devices
        dist.all_gather_object(answers, what, self.side)
        return answers

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model`, its gradients averaged over the devices while the backward pass goes on, in buckets.

        Over a mailbox it stays as it is, and `Gradients.average` does that afterwards: there, who would carry
        a bucket is who computes the next.
        """
        if self.devices == 1 or self.mailbox is not None:
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
        if self.devices == 1:
            return
        buffers = list(model.buffers())
        packed = torch.cat([_bytes(buffer) for buffer in buffers])
        if self.mailbox is None:
            dist.broadcast(packed, src=0)
        else:
            for piece in packed.split(ROOM):
                piece.copy_(torch.from_numpy(self.mailbox.swap(self.rank, piece.numpy())[0]))
        parts = packed.split([buffer.nbytes for buffer in buffers])
        for buffer, part in zip(buffers, parts, strict=True):
            buffer.copy_(part.clone().view(buffer.dtype).view_as(buffer))


class Gradients:
    """What a step of each device of `group` gave: its loss, and the gradients of `model`, every parameter of
    which takes part."""

    def __init__(self, model: nn.Module, group: Group) -> None:
        self._group, self._parameters = group, list(model.parameters())
        if group.mailbox is None:
            return
        sizes = [each.numel() for each in self._parameters]
        self._packed = torch.zeros(sum(sizes) + 1, dtype=self._parameters[0].dtype)
        *pieces, last = self._packed.split([*sizes, 1])
        self._places = [  # of each in it, lying as its parameter does
            piece.as_strided(each.shape, each.stride())
            for piece, each in zip(pieces, self._parameters, strict=True)
        ]
        self._loss = last[0]

    def average(self, loss: Tensor) -> Tensor:
        """Average the gradients over the devices, where a step from `group.wrap` has not done so; the mean of
        the scalar `loss`."""
        if self._group.mailbox is None:
            return self._group.mean(loss)
        grads: Any = [each.grad for each in self._parameters]
        torch._foreach_copy_([*self._places, self._loss], [*grads, loss])
        self._group.add_up(self._packed).div_(self._group.devices)
        for parameter, place in zip(self._parameters, self._places, strict=True):
            parameter.grad = place  # until the next step has gradients of its own
        return self._loss.clone()


def _bytes(tensor: Tensor) -> Tensor:
    """(bytes,) uint8: what `tensor` holds, in its order of indices."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


ALONE = Group()


@contextmanager
def joined(seat: Seat, device: torch.device) -> Iterator[Group]:
    """The group of all processes that meet where `seat` says."""
    if seat.devices == 1:
        yield ALONE
        return
    if seat.mailbox is not None:
        yield Group(seat.rank, seat.devices, mailbox=seat.mailbox)
        return
    with connected(seat, device) as group:
        yield group


@contextmanager
def connected(seat: Seat, device: torch.device) -> Iterator[Group]:
    """The group of processes that talk through NCCL or gloo."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=meeting.enter(seat), rank=seat.rank, world_size=seat.devices, timeout=meeting.TIMEOUT
    )
    try:
        side = dist.new_group(backend="gloo") if backend == "nccl" else None
        yield Group(seat.rank, seat.devices, side)
    finally:
        dist.destroy_process_group()
