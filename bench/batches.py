"""Batches: which samples a step consists of, and their assembly in this process or in workers.

The samples of a run are one endless stream, a fresh permutation of the training set an epoch; step t takes
positions t*B to (t+1)*B. Every batch therefore can be made on its own, by any worker, in any order, and no
batch size sees fewer images than another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bench import BenchError
from bench.dataset import Dataset
from bench.streams import AUGMENT, ORDER, stream
from bench.transform import DRAWS, color, crop_sample


@dataclass(frozen=True)
class Batch:
    """Images (N, 3, S, S) and labels (N, S, S), uint8; draws (N, 9) and places (N, 2) for `color`."""

    images: Tensor
    labels: Tensor
    uniforms: Tensor
    places: Tensor

    def pin_memory(self) -> Batch:
        """The same with pictures and labels in pinned memory (called by the loader)."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.uniforms, self.places)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """What the model takes: coloured, normalised float32 images and int64 labels, on `device`."""
        images = color(self.images.to(device, non_blocking=True), self.uniforms, self.places)
        return images, self.labels.to(device, non_blocking=True).long()


class Batches(torch.utils.data.Dataset["Batch | BenchError"]):
    """Item t is the batch of step t, or the part of it that `share` names: a device's."""

    def __init__(
        self, dataset: Dataset, crop: int, batch_size: int, seed: int, share: slice | None = None
    ) -> None:
        self.dataset, self.crop, self.batch_size, self.seed = dataset, crop, batch_size, seed
        self.share = range(batch_size)[share or slice(None)]

    def __getitem__(self, step: int) -> Batch | BenchError:
        """The batch, or what is wrong with its data: an error raised in a worker would lose its hint."""
        try:
            return self.make(step)
        except BenchError as error:
            return error

    def make(self, step: int) -> Batch:
        """The batch of a step. BenchError: a picture or label that cannot be used."""
        count, crop = len(self.share), self.crop
        first = step * self.batch_size + self.share.start
        images = np.empty((count, crop, crop, 3), np.uint8)
        labels = np.empty((count, crop, crop), np.uint8)
        uniforms = np.empty((count, DRAWS))
        places = np.empty((count, 2), np.int64)
        for row, (epoch, index) in enumerate(samples(len(self.dataset), first, count, self.seed)):
            image, label = self.dataset.pair(index)
            uniforms[row] = stream(self.seed, AUGMENT, epoch, index).random(DRAWS)
            places[row] = crop_sample(image, label, crop, uniforms[row], images[row], labels[row])
        return Batch(
            torch.from_numpy(images).permute(0, 3, 1, 2),
            torch.from_numpy(labels),
            torch.from_numpy(uniforms[:, -9:].astype(np.float32)),
            torch.from_numpy(places),
        )


def samples(images: int, position: int, count: int, seed: int) -> Iterator[tuple[int, int]]:
    """(epoch, index) of `count` samples of the stream over `images` pictures, from `position` on."""
    for place in range(position, position + count):
        epoch, offset = divmod(place, images)
        yield epoch, int(_order(seed, epoch, images)[offset])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, images: int) -> np.ndarray:
    return stream(seed, ORDER, epoch).permutation(images)


def train_loader(batches: Batches, first: int, last: int, workers: int, pin: bool) -> Iterator[Batch]:
    """The batches of steps `first` to `last` - 1, in order, made by `workers` processes (0: here and now).

    BenchError: a picture or label cannot be used.
    """
    loader: DataLoader[Batch | BenchError] = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin,
        generator=torch.Generator(),  # or the loader would draw from the global stream
        prefetch_factor=2 if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
    return _unpacked(iter(loader))  # which starts the workers


def _unpacked(loader: Iterator[Batch | BenchError]) -> Iterator[Batch]:
    for made in loader:
        if isinstance(made, BenchError):
            raise made
        yield made


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
