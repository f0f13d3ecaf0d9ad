"""Noise: in the shape of real batches, the same for the same address, apart from the run's own streams."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from bench import noise
from bench.batches import Batch, Batches
from bench.dataset import IGNORE, Dataset
from tests import small

CPU = torch.device("cpu")


def made(step: int = 0, seed: int = 0, count: int = 4) -> Batch:
    return noise.batch(count, 16, 3, (seed, 4, step), CPU)


def test_a_batch_has_the_shape_of_a_real_one(tmp_path: Path) -> None:
    real = Batches(Dataset(small.pair(tmp_path), "training", "abc", False), 16, 4, 0).make(0)
    assert isinstance(real, Batch)
    for field in dataclasses.fields(Batch):
        one, two = getattr(real, field.name), getattr(made(), field.name)
        assert (one.shape, one.dtype) == (two.shape, two.dtype)
    assert real.images.stride() == made().images.stride()


def test_its_pixels_are_of_every_value_and_its_labels_of_every_class() -> None:
    batch = made(count=16)
    assert len(batch.images.unique()) == 256
    assert set(batch.labels.unique().tolist()) == {0, 1, 2, IGNORE}
    assert batch.on(CPU)[0].isfinite().all()


@pytest.mark.parametrize("other", [{"step": 1}, {"seed": 1}])
def test_equal_addresses_give_equal_batches_and_others_do_not(other: dict[str, int]) -> None:
    for field in dataclasses.fields(Batch):
        one, two = getattr(made(), field.name), getattr(made(), field.name)
        assert torch.equal(one, two)
        assert field.name == "places" or not torch.equal(one, getattr(made(**other), field.name))


def test_the_batch_of_a_step_does_not_depend_on_those_before_it() -> None:
    straight = list(noise.batches(2, 16, 3, 5, range(6), CPU, range(3)))
    later = list(noise.batches(2, 16, 3, 5, range(4, 6), CPU, range(3)))
    assert [torch.equal(a.images, b.images) for a, b in zip(straight[4:], later, strict=True)] == [True] * 2


def test_devices_have_the_parts_of_one_batch_of_their_own() -> None:
    [whole] = noise.batches(2, 16, 3, 5, range(7, 8), CPU, range(4))
    parts = [next(noise.batches(2, 16, 3, 5, range(7, 8), CPU, some)) for some in (range(2), range(2, 4))]
    for field in dataclasses.fields(Batch):
        together = torch.cat([getattr(part, field.name) for part in parts])
        assert torch.equal(together, getattr(whole, field.name))


def test_the_global_stream_is_left_alone() -> None:
    before = torch.get_rng_state()
    made()
    list(noise.Validation(3, 16, 3, 2, CPU))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("devices", [2, 4])
def test_devices_share_the_validation_set_and_have_each_picture_once(devices: int) -> None:
    whole = [images for images, _ in noise.Validation(5, 16, 3, 2, CPU)]
    parts = [
        [images for images, _ in noise.Validation(5, 16, 3, 2, CPU, rank, devices)] for rank in range(devices)
    ]
    for number, images in enumerate(whole):
        assert torch.equal(parts[number % devices][number // devices], images)
    assert sum(map(len, parts)) == len(whole)


def test_a_validation_set_has_as_many_pictures_as_it_says_and_is_the_same_each_time() -> None:
    validation = noise.Validation(5, 16, 3, 2, CPU)
    first, again = list(validation), list(validation)
    assert [len(images) for images, _ in first] == [2, 2, 1]
    assert sum(len(labels) for _, labels in first) == len(validation) == 5
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], first[1][0])
