"""Batches: every image once an epoch at any batch size, and the same pixels whoever makes them."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bench.batches import Batch, Batches, samples, train_loader
from bench.dataset import IGNORE, Dataset
from bench.streams import AUGMENT, stream
from bench.transform import DRAWS, color

IMAGES, CROP, SEED = 7, 16, 3
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Seven pictures of noise with noisy labels of three classes."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for kind, shape, most in (("images", (20, 24, 3), 256), ("annotations", (20, 24), 4)):
        (root / kind / "training").mkdir(parents=True)
        for index in range(IMAGES):
            pixels = rng.integers(0, most, shape, np.uint8)
            Image.fromarray(pixels).save(root / kind / "training" / f"{index}.png")
    return Dataset(root, "training", ("a", "b", "c"), in_memory=False)


def equal(one: Batch, two: Batch) -> bool:
    return all(
        torch.equal(getattr(one, field.name), getattr(two, field.name)) for field in dataclasses.fields(Batch)
    )


def batches(dataset: Dataset, size: int = 4, seed: int = SEED) -> Batches:
    return Batches(dataset, CROP, size, seed)


# The stream of samples


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 10, 16, 50])
def test_each_image_comes_once_an_epoch_at_any_batch_size(batch_size: int) -> None:
    epochs, steps = 30, 30 * IMAGES // batch_size
    drawn = [
        sample for step in range(steps) for sample in samples(IMAGES, step * batch_size, batch_size, SEED)
    ]
    assert drawn == list(samples(IMAGES, 0, steps * batch_size, SEED))
    full = Counter(drawn[: len(drawn) // IMAGES * IMAGES])
    assert set(full.values()) == {1}
    assert set(full) == set(itertools.product(range(len(drawn) // IMAGES), range(IMAGES)))
    assert epochs * IMAGES - len(drawn) < batch_size


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        tuple(index for _, index in samples(50, epoch * 50, 50, seed))
        for epoch in range(5)
        for seed in range(5)
    }
    assert len(orders) == 25
    assert tuple(range(50)) not in orders


def test_every_place_of_an_epoch_is_likely_for_every_image() -> None:
    counts = np.zeros((4, 4))
    for position, (_, index) in enumerate(samples(4, 0, 4 * 1000, SEED)):
        counts[position % 4, index] += 1
    assert np.abs(counts - 250).max() < 5 * np.sqrt(1000 * 3 / 16)


# Their assembly


def test_a_batch_has_the_shapes_and_types_it_says(dataset: Dataset) -> None:
    batch = batches(dataset).make(0)
    assert (batch.images.shape, batch.images.dtype) == ((4, CROP, CROP, 4), torch.uint8)
    assert (batch.labels.shape, batch.labels.dtype) == ((4, CROP, CROP), torch.uint8)
    assert (batch.uniforms.shape, batch.places.shape) == ((4, 9), (4, 3))
    assert set(batch.labels.unique().tolist()) <= {0, 1, 2, IGNORE}


def test_a_batch_goes_to_a_device_as_the_model_takes_it(dataset: Dataset) -> None:
    batch = batches(dataset).make(0)
    images, labels = batch.on(torch.device("cpu"))
    assert torch.equal(images, color(batch.images, batch.uniforms, batch.places))
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    for row, mirrored in enumerate(batch.places[:, 2].tolist()):
        assert torch.equal(labels[row], batch.labels[row].flip(1 if mirrored else ()).long())
    assert set(batch.places[:, 2].tolist()) == {0, 1}


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_a_sample_is_the_same_in_a_batch_of_any_size(dataset: Dataset, batch_size: int) -> None:
    """It hangs on (seed, epoch, index) alone, over the borders of epochs too."""
    every = batches(dataset, 15).make(0)
    for step in range(15 // batch_size):
        batch = batches(dataset, batch_size).make(step)
        rows = slice(step * batch_size, (step + 1) * batch_size)
        for field in dataclasses.fields(Batch):
            assert torch.equal(getattr(batch, field.name), getattr(every, field.name)[rows])


def test_a_batch_does_not_hang_on_what_was_made_before(dataset: Dataset) -> None:
    forwards = [batches(dataset).make(step) for step in range(6)]
    source = batches(dataset)
    for step in (5, 2, 2, 0, 4):
        assert equal(source.make(step), forwards[step])


def test_an_image_looks_different_in_each_epoch_and_under_each_seed(dataset: Dataset) -> None:
    looks = set()
    for seed in range(3):
        order = list(samples(IMAGES, 0, 3 * IMAGES, seed))
        whole = batches(dataset, 3 * IMAGES, seed).make(0)
        looks |= {
            whole.images[row, ..., :3].numpy().tobytes() for row, (_, index) in enumerate(order) if index == 5
        }
    assert len(looks) == 9


class Copies:
    """A training set that consists of one picture, seven times."""

    kept = None

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.image = rng.integers(0, 256, (70, 90, 4), np.uint8)
        self.label = rng.integers(0, 3, (70, 90), np.uint8)

    def __len__(self) -> int:
        return IMAGES

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.image, self.label


def test_copies_of_one_picture_look_different_under_every_seed_epoch_and_index() -> None:
    looks = set()
    for seed in range(3):
        images, _ = Batches(Copies(), 64, 4 * IMAGES, seed).make(0).on(torch.device("cpu"))
        looks |= {image.numpy().tobytes() for image in images}
    assert len(looks) == 3 * 4 * IMAGES


def test_each_sample_draws_from_its_own_address(dataset: Dataset) -> None:
    """In whatever order the one generator comes by."""
    batch = batches(dataset, 3 * IMAGES, seed=4).make(1)
    for row, (epoch, index) in enumerate(samples(IMAGES, 3 * IMAGES, 3 * IMAGES, 4)):
        drawn = stream(4, AUGMENT, epoch, index).random(DRAWS)
        assert batch.uniforms[row].tolist() == drawn[-9:].astype(np.float32).tolist()


def test_colour_draws_are_not_those_of_the_geometry(dataset: Dataset) -> None:
    batch = batches(dataset, 400).make(0)
    mirrored, step = batch.uniforms[:, 0] < 0.5, batch.places[:, 0] == 0
    assert 0.35 < (mirrored == step).float().mean() < 0.65


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")  # on a machine with fewer cores
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_workers_makes_the_same_batches_in_order(dataset: Dataset, workers: int) -> None:
    source = batches(dataset)
    made = train_loader(source, 2, 7, workers, CPU)
    for step in range(2, 7):
        assert equal(next(made), source.make(step))
    assert next(made, None) is None


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_stays_as_it_is_until_the_second_after_it_is_asked_for(
    dataset: Dataset, workers: int
) -> None:
    """Where the workers are as far ahead as they may be."""
    source, before = batches(dataset), None
    for step, batch in enumerate(train_loader(source, 0, 12, workers, CPU)):
        assert equal(batch, source.make(step))
        assert before is None or equal(before, source.make(step - 1))
        before = batch


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_random_state_neither_matters_nor_moves(dataset: Dataset, workers: int) -> None:
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state(), str(np.random.get_state())
        made.append([copy.deepcopy(batch) for batch in train_loader(batches(dataset), 0, 3, workers, CPU)])
        assert torch.equal(torch.get_rng_state(), before[0])
        assert str(np.random.get_state()) == before[1]
    assert all(equal(one, two) for one, two in zip(*made, strict=True))


REFUSED = {0: "nothing", 5000: "labels", 10**9: "all"}  # bytes below which the fake refuses


class Gpu:
    """Stands in for CUDA: what is copied arrives when it is waited for and no sooner. It refuses to pin less
    than `refused` bytes."""

    def __init__(self, patch: pytest.MonkeyPatch, refused: int) -> None:
        self.copies: list[tuple[torch.Tensor, torch.Tensor]] = []  # where to, where from
        self.refused, self.asked, self.told = refused, 0, 0
        self.pinned: dict[int, int] = {}  # address -> bytes
        runtime = SimpleNamespace(cudaHostRegister=self.register, cudaHostUnregister=self.unregister)
        patch.setattr(torch.cuda, "cudart", lambda: runtime)
        side = SimpleNamespace(record_event=self.record, synchronize=lambda: self.arrive(len(self.copies)))
        patch.setattr(torch.cuda, "Stream", lambda device: side)
        patch.setattr(torch.cuda, "stream", contextlib.nullcontext)
        patch.setattr(torch.cuda, "current_stream", lambda device: None)
        patch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
        patch.setattr(torch.Tensor, "to", lambda tensor, *where, **how: self.copy(tensor, *where, **how))
        patch.setattr(torch, "zeros", self.tell)

    def register(self, address: int, count: int, flags: int) -> int:
        self.asked += 1
        if count < self.refused:
            return 1
        taken = [at for at, size in self.pinned.items() if at < address + count and address < at + size]
        assert not taken, "CUDA would fetch what has lain there before"
        self.pinned[address] = count
        return 0

    def unregister(self, address: int) -> int:
        assert not self.copies or self.copies[-1][0] is self.copies[-1][1], "it is still being fetched"
        del self.pinned[address]
        return 0

    def tell(self, *_: object, **__: object) -> None:
        self.told += 1
        raise RuntimeError("CUDA error: an earlier call failed")

    def copy(self, tensor: torch.Tensor, device: torch.device, non_blocking: bool) -> torch.Tensor:
        assert (device.type, non_blocking) == ("cuda", True)
        self.copies.append((torch.full_like(tensor, 77), tensor))
        return self.copies[-1][0]

    def record(self) -> SimpleNamespace:
        count = len(self.copies)
        return SimpleNamespace(synchronize=lambda: self.arrive(count))

    def arrive(self, count: int) -> None:
        for there, here in self.copies[:count]:
            there.copy_(here)
        self.copies[:count] = [(there, there) for there, _ in self.copies[:count]]


@pytest.mark.parametrize("refused", REFUSED, ids=REFUSED.get)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_gpu_has_each_batch_whole_and_the_next_one_under_way(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, workers: int, refused: int
) -> None:
    """However late copies are, whether it may fetch from the ring itself or not."""
    source, gpu = batches(dataset), Gpu(monkeypatch, refused)
    expected, made = [source.make(step) for step in range(12)], []
    for batch in train_loader(source, 0, 12, workers, torch.device("cuda", 0)):
        made.append(batch)
        assert len(gpu.copies) == 2 * min(len(made) + 1, 12)
    assert all(equal(one, two) for one, two in zip(made, expected, strict=True))
    assert (gpu.asked, gpu.told) == {"nothing": (2, 0), "labels": (2, 1), "all": (1, 1)}[REFUSED[refused]]


@pytest.mark.parametrize("taken", [0, 1, 5, 12])
@pytest.mark.parametrize("refused", REFUSED, ids=REFUSED.get)
def test_what_a_gpu_may_fetch_from_is_taken_back_before_it_is_freed(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, taken: int, refused: int
) -> None:
    """Whoever has the same addresses next would else be read as what lay there before."""
    source, gpu = batches(dataset), Gpu(monkeypatch, refused)
    for _ in range(2):
        loader = train_loader(source, 0, 12, 0, torch.device("cuda", 0))
        assert len(list(itertools.islice(loader, taken))) == taken
        assert len(gpu.pinned) == {"nothing": 2, "labels": 1, "all": 0}[REFUSED[refused]]
        del loader
        assert not gpu.pinned


def test_a_run_that_is_over_has_no_batches(dataset: Dataset) -> None:
    assert list(train_loader(batches(dataset), 5, 5, 0, CPU)) == []
