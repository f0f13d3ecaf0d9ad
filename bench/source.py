"""Where a run's pictures come from: a data set in a folder, or noise made on the device.

Both give the same three things: how many training pictures there are, batches of any steps, and a validation
set to be scored on.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from bench import evaluate, noise
from bench.batches import Batch, Batches, train_loader
from bench.cache import Cache
from bench.dataset import Dataset, fingerprint
from bench.group import Group
from bench.recipe import Recipe
from bench.workload import Workload


class Source(Protocol):
    """`fingerprint` tells one data set from another; None: there is none. What it gives is this device's
    part: of each batch, and of the validation set."""

    fingerprint: str | None
    train_images: int

    @property
    def validation(self) -> evaluate.Validation | noise.Validation: ...

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps `first` to `last` - 1, in order. BenchError: a picture cannot be used."""


class Pictures:
    """A data set in the layout of ADE20K, decoded already where there is a `cache`. BenchError: one of them
    cannot be read."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        work: Workload,
        seed: int,
        device: torch.device,
        group: Group,
        cache: Path | None,
    ) -> None:
        data, evaluation, settings = (work.values[name] for name in ("data", "evaluation", "train"))
        self.fingerprint: str | None = fingerprint(folder)
        opened = None if cache is None else Cache(cache, folder)
        training, validation = (
            Dataset(
                folder,
                split,
                data["classes"],
                data["in_memory"],
                data["leave_out"],
                decoded=None if opened is None else partial(opened.pair, split),
            )
            for split in ("training", "validation")
        )
        crop = settings["crop"]
        self.train_images = len(training)
        self.validation = evaluate.Validation(
            validation, evaluation["protocol"], crop, evaluation["batch_size"], group.rank, group.devices
        )
        self._workers, self._device = -(-settings["data_workers"] // group.devices), device
        batch_size = recipe.values["optim"]["batch_size"]
        self._batches = Batches(training, crop, batch_size, seed, group.share(batch_size))

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps `first` to `last` - 1; the call starts the workers that make them."""
        return train_loader(self._batches, first, last, self._workers, self._device)


class Noise:
    """Random pixels, as many as the workload says."""

    def __init__(self, recipe: Recipe, work: Workload, seed: int, device: torch.device, group: Group) -> None:
        data, evaluation = work.values["data"], work.values["evaluation"]
        self._crop, self._classes = work.values["train"]["crop"], len(data["classes"])
        self.fingerprint: str | None = None
        self.train_images = data["train_images"]
        self.validation = noise.Validation(
            data["val_images"],
            self._crop,
            self._classes,
            evaluation["batch_size"],
            device,
            group.rank,
            group.devices,
        )
        replicas = work.values["train"]["replicas"]
        self._replicas = range(replicas)[group.share(replicas)]
        self._count = recipe.values["optim"]["batch_size"] // replicas  # of each
        self._seed, self._device = seed, device

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps `first` to `last` - 1, each made when it is asked for."""
        return noise.batches(
            self._count,
            self._crop,
            self._classes,
            self._seed,
            range(first, last),
            self._device,
            self._replicas,
        )


def find(
    folder: Path | None,
    recipe: Recipe,
    work: Workload,
    seed: int,
    device: torch.device,
    group: Group,
    cache: Path | None = None,
) -> Source:
    """What the workload names, this device's part of it; `folder`: where its pictures are, None for noise;
    `cache`: the same, decoded."""
    if work.values["data"]["source"] == "noise":
        return Noise(recipe, work, seed, device, group)
    assert folder is not None, "the runner finds the data"
    return Pictures(folder, recipe, work, seed, device, group, cache)
