"""Random pixels in the shapes of a data set, made on the device: training without the cost of data.

What is trained on noise scores nothing worth knowing; its speed is that of the steps alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.batches import Batch
from bench.dataset import IGNORE
from bench.streams import NOISE, stream


def batch(count: int, crop: int, classes: int, address: tuple[int, int, int], device: torch.device) -> Batch:
    """A batch of `count` samples; equal addresses (of `streams.stream`) give equal batches on one device."""
    images, labels = _pixels(count, crop, classes, address, device)
    draws = stream(*address).random((count, 9), "float32")
    places = torch.tensor([[0, crop, 0]]).expand(count, 3)
    return Batch(images, labels, torch.from_numpy(draws), places)


def batches(
    count: int, crop: int, classes: int, seed: int, steps: range, device: torch.device, replicas: range
) -> Iterator[Batch]:
    """The part of each step's batch that these replicas have, `count` samples each; any step alone gives the
    same one, on any number of devices of a kind."""
    for step in steps:
        parts = [
            batch(count, crop, classes, (seed, NOISE, step * 2**20 + replica), device) for replica in replicas
        ]
        yield Batch(
            *(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True))
        )


class Validation:
    """So many pictures of noise as `evaluate` takes them: (N, 3, S, S) and (N, S, S) uint8 on the device."""

    def __init__(
        self,
        images: int,
        crop: int,
        classes: int,
        batch_size: int,
        device: torch.device,
        rank: int = 0,
        devices: int = 1,
    ) -> None:
        self.images, self.crop, self.classes = images, crop, classes
        self.batch_size, self.device = batch_size, device
        self.rank, self.devices = rank, devices

    def __len__(self) -> int:
        return self.images

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, self.images, self.batch_size)[self.rank :: self.devices]:
            count = min(self.batch_size, self.images - first)
            images, labels = _pixels(count, self.crop, self.classes, (0, NOISE, 2**62 + first), self.device)
            yield images[..., :3].permute(0, 3, 1, 2), labels


def _pixels(
    count: int, crop: int, classes: int, address: tuple[int, int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pictures (count, crop, crop, 4) and labels (count, crop, crop), uint8; the first row is ignored."""
    own = torch.Generator(device)  # the global stream belongs to the run
    own.manual_seed(int(stream(*address).integers(2**62)))
    images = torch.randint(256, (count, crop, crop, 4), dtype=torch.uint8, device=device, generator=own)
    labels = torch.randint(classes, (count, crop, crop), dtype=torch.uint8, device=device, generator=own)
    labels[:, 0] = IGNORE
    return images, labels
