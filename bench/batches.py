"""Batches: which samples a step consists of, and their assembly in this process or in workers.

The samples of a run are one endless stream, a fresh permutation of the training set an epoch; step t takes
positions t*B to (t+1)*B. Every batch therefore can be made on its own, by any worker, in any order, and no
batch size sees fewer images than another.

Batches are written where the device can fetch them: the workers share a ring of slots with the process that
trains, in memory that is pinned where there is a GPU, and nothing is copied on the way.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import finalize

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bench import BenchError
from bench.dataset import Dataset
from bench.streams import AUGMENT, ORDER, move, stream
from bench.transform import DRAWS, color, crop_sample, mirror, see

AHEAD = 2  # batches that a worker may be ahead
KEPT = 2  # batches that stay as they are once handed out: the last, and the one before it


@dataclass(frozen=True)
class Batch:
    """Images (N, S, S, 4) and labels (N, S, S), uint8; draws (N, 9) and places (N, 3) for `color`."""

    images: Tensor
    labels: Tensor
    uniforms: Tensor
    places: Tensor

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """What the model takes: coloured, normalised float32 images and int64 labels, on `device`."""
        images = color(self.images.to(device, non_blocking=True), self.uniforms, self.places)
        return images, mirror(self.labels.to(device, non_blocking=True), self.places[:, 2]).long()


class Batches:
    """The batch of any step, or the part of it that `share` names: a device's."""

    def __init__(
        self, dataset: Dataset, crop: int, batch_size: int, seed: int, share: slice | None = None
    ) -> None:
        self.dataset, self.crop, self.batch_size, self.seed = dataset, crop, batch_size, seed
        self.share = range(batch_size)[share or slice(None)]
        self._generator = stream(seed, AUGMENT)
        self.seen = None if dataset.kept is None else [see(*pair) for pair in dataset.kept]

    def make(self, step: int) -> Batch:
        """The batch of a step, in memory of its own. BenchError: a picture or label that cannot be used."""
        batch = _slot(_ring(1, len(self.share), self.crop), 0)
        self.fill(step, batch)
        return batch

    def fill(self, step: int, batch: Batch) -> None:
        """Write the batch of a step over what is in `batch`. BenchError: as `make`."""
        images, labels, uniforms, places = (tensor.numpy() for tensor in vars(batch).values())
        first = step * self.batch_size + self.share.start
        for row, (epoch, index) in enumerate(samples(len(self.dataset), first, len(images), self.seed)):
            picture, label = self.seen[index] if self.seen else see(*self.dataset.pair(index))
            draws = move(self._generator, self.seed, AUGMENT, epoch, index).random(DRAWS)
            uniforms[row] = draws[-9:]
            places[row] = crop_sample(picture, label, self.crop, draws, images[row], labels[row])


class _Filling(torch.utils.data.Dataset["BenchError | None"]):
    """Item t: what went wrong when the batch of step t was written into its slot of the ring."""

    def __init__(self, batches: Batches, ring: Batch) -> None:
        self.batches, self.ring = batches, ring

    def __getitem__(self, step: int) -> BenchError | None:
        try:
            self.batches.fill(step, _slot(self.ring, step))
        except BenchError as error:
            return error  # raised in a worker it would lose its hint
        return None


def _ring(slots: int, images: int, crop: int) -> Batch:
    """A batch of batches without content, in memory that processes forked from this one share."""
    parts: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "images": (torch.uint8, (crop, crop, 4)),
        "labels": (torch.uint8, (crop, crop)),
        "uniforms": (torch.float32, (9,)),
        "places": (torch.int64, (3,)),
    }
    tensors = {}
    for name, (dtype, shape) in parts.items():
        count = slots * images * math.prod(shape)
        memory = mmap.mmap(-1, count * dtype.itemsize)
        tensors[name] = torch.frombuffer(memory, dtype=dtype).view(slots, images, *shape)
    return Batch(**tensors)


def _slot(ring: Batch, step: int) -> Batch:
    place = step % len(ring.images)
    return Batch(ring.images[place], ring.labels[place], ring.uniforms[place], ring.places[place])


def samples(images: int, position: int, count: int, seed: int) -> Iterator[tuple[int, int]]:
    """(epoch, index) of `count` samples of the stream over `images` pictures, from `position` on."""
    for place in range(position, position + count):
        epoch, offset = divmod(place, images)
        yield epoch, int(_order(seed, epoch, images)[offset])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, images: int) -> np.ndarray:
    return stream(seed, ORDER, epoch).permutation(images)


def train_loader(
    batches: Batches, first: int, last: int, workers: int, device: torch.device
) -> Iterator[Batch]:
    """The batches of steps `first` to `last` - 1, in order, made by `workers` processes (0: here and now).

    A batch is good until the second one after it is asked for. BenchError: a picture or label cannot be used.
    """
    ring = _ring(workers * AHEAD + KEPT, len(batches.share), batches.crop)
    loader: DataLoader[BenchError | None] = DataLoader(
        _Filling(batches, ring),
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # or the loader would draw from the global stream
        prefetch_factor=AHEAD if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
    filled = _filled(iter(loader), ring, first)  # which starts the workers
    if device.type == "cpu":
        return filled
    side = torch.cuda.Stream(device)
    staged = _staged(filled, device, side)
    finalize(staged, _let_go, _pin((ring.images, ring.labels), device), side)
    return staged


def _pin(tensors: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    """Let the GPU fetch them itself; those that it may. Others stay plain memory: slower, no more."""
    for count, tensor in enumerate(tensors):
        if int(torch.cuda.cudart().cudaHostRegister(tensor.data_ptr(), tensor.nbytes, 0)):
            with suppress(RuntimeError):
                torch.zeros(1, device=device)  # CUDA tells of a failure again, to whoever comes next
            return tensors[:count]
    return tensors


def _let_go(pinned: tuple[Tensor, ...], side: torch.cuda.Stream) -> None:
    """Pin them no longer, before they are freed: CUDA takes what has their addresses next for the memory that
    lay there before, and would fetch that."""
    side.synchronize()
    for tensor in pinned:
        torch.cuda.cudart().cudaHostUnregister(tensor.data_ptr())


def _filled(loader: Iterator[BenchError | None], ring: Batch, first: int) -> Iterator[Batch]:
    for step, error in enumerate(loader, first):
        if error is not None:
            raise error
        yield _slot(ring, step)


def _staged(batches: Iterator[Batch], device: torch.device, side: torch.cuda.Stream) -> Iterator[Batch]:
    """The batches on a GPU, each copied there, on a stream beside, while the one before is worked on."""
    waiting = None
    for batch in batches:
        with torch.cuda.stream(side):
            images, labels = (part.to(device, non_blocking=True) for part in (batch.images, batch.labels))
        staged = Batch(images, labels, batch.uniforms.clone(), batch.places.clone()), side.record_event()
        if waiting is not None:
            yield _arrived(*waiting)
        waiting = staged
    if waiting is not None:
        yield _arrived(*waiting)


def _arrived(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """A staged batch, for the stream that computes. Its slot may be written anew: the copy is done."""
    copied.synchronize()
    for part in (batch.images, batch.labels):
        part.record_stream(torch.cuda.current_stream(part.device))
    return batch


def told(error: BaseException) -> BaseException:
    """The error as it is, or in our words where torch says that a worker has died: it says so by a signal,
    wherever the program then is."""
    if not isinstance(error, RuntimeError) or not str(error).startswith("DataLoader worker"):
        return error
    return BenchError(
        f"a process that prepares batches has died: {error}",
        "free memory, or use a workload with fewer [train] data_workers; the same command goes on",
    )


def _as_it_is(batch: Any) -> Any:
    return batch
