"""Devices that share a step: on 1, 2 and 4 processes a run is the same run."""

from __future__ import annotations

import contextlib
import copy
import functools
import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

from bench import batchnorm, recipe, scenes, source, workload
from bench.batches import Batch
from bench.group import Gradients, Group, joined
from bench.learner import Learner
from bench.mailbox import ROOM, Array, Mailbox
from bench.model import DeepLab
from bench.optim import learning_rate
from bench.seat import Seat, on_this_machine

CPU = torch.device("cpu")
STEPS = 50


def together(devices: int, work: Callable[..., Any], *about: Any, apart: bool = False) -> list[Any]:
    """What `work(group, *about)` gives on each of so many processes, in the order of ranks; `apart`: they
    have no mailbox, as if on several machines."""
    with tempfile.TemporaryDirectory() as folder:
        if devices == 1:
            return [work(Group(), *about)]
        mailbox = None if apart else Mailbox(multiprocessing.get_context("fork"), devices)
        seats = on_this_machine(devices, Path(folder), mailbox)
        torch.multiprocessing.start_processes(
            _member, (seats, folder, work, about), nprocs=devices, start_method="fork"
        )
        return [torch.load(f"{folder}/{rank}", weights_only=False) for rank in range(devices)]


def _member(
    rank: int, seats: list[Seat], folder: str, work: Callable[..., Any], about: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    with joined(seats[rank], CPU) as group:
        torch.save(work(group, *about), f"{folder}/{rank}")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)  # before any fork: a pool of threads does not survive one


# What they say to each other


def _talk(group: Group) -> tuple[Any, ...]:
    mine = torch.tensor([group.rank + 1.0])
    return (
        group.leads,
        list(range(8))[group.share(8)],
        float(group.total(mine)),
        float(group.mean(mine)),
        group.gather(f"device {group.rank}"),
        float(mine),  # is left alone
    )


APART = pytest.mark.parametrize("apart", [False, True], ids=["mailbox", "apart"])


@APART
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_every_device_has_its_part_and_hears_of_all(devices: int, apart: bool) -> None:
    total = devices * (devices + 1) / 2
    for rank, said in enumerate(together(devices, _talk, apart=apart)):
        each = 8 // devices
        assert said == (
            rank == 0,
            list(range(8))[rank * each : (rank + 1) * each],
            total,
            total / devices,
            [f"device {other}" for other in range(devices)],
            rank + 1.0,
        )


def _talk_much(group: Group) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """A matrix, a layer's gradients and its buffers, each too large for a mailbox at once."""
    large = torch.arange(ROOM, dtype=torch.float32).view(2, -1) * (group.rank + 1)
    layer = nn.Conv2d(80, 80, 7, bias=False)
    layer.weight.grad = torch.full_like(layer.weight, group.rank).to(memory_format=torch.channels_last)
    layer.weight.grad[:, 3] += torch.arange(80)[:, None, None]
    layer.register_buffer("big", torch.full((ROOM,), group.rank + 5.0))
    layer.register_buffer("count", torch.tensor(group.rank + 9))
    gradients = Gradients(layer, group)
    loss = gradients.average(torch.tensor(group.rank + 2.0))  # of the gradients where `wrap` does not
    gradients.average(torch.tensor(100.0))  # of the next step, when the loss of this one may not be read yet
    group.hand_on_statistics(layer)
    assert layer.weight.grad is not None
    return group.total(large), layer.weight.grad.clone(), loss, [each.clone() for each in layer.buffers()]


@APART
def test_what_fits_into_no_mailbox_arrives_all_the_same(apart: bool) -> None:
    for rank, (total, grad, loss, buffers) in enumerate(together(3, _talk_much, apart=apart)):
        assert torch.equal(total, torch.arange(ROOM, dtype=torch.float32).view(2, -1) * 6)
        expected = torch.full((80, 80, 7, 7), 1.0 if not apart else float(rank))
        expected[:, 3] += torch.arange(80)[:, None, None]
        torch.testing.assert_close(grad, expected)
        assert loss == 3
        assert torch.equal(buffers[0], torch.full((ROOM,), 5.0))
        assert buffers[1] == 9


def _add_up_much(group: Group) -> Tensor:
    return group.total(torch.tensor([3e38, float("inf") * (-1) ** group.rank]))


@APART
def test_a_sum_beyond_the_numbers_says_nothing_of_it(apart: bool) -> None:
    for total in together(2, _add_up_much, apart=apart):
        assert total[0].isinf()
        assert total[1].isnan()


# Batch norm


def _net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
    ).double()
    for layer, momentum in ((net[1], 0.01), (net[4], 0.1)):  # as a MobileNet and the head over it
        layer.momentum = momentum
        nn.init.uniform_(layer.weight, 0.5, 2)
        nn.init.uniform_(layer.bias)
    return net


@dataclass
class Passed:
    """What one forward and backward pass gave."""

    out: Tensor
    grads: list[Tensor]
    image_grad: Tensor
    statistics: dict[str, Tensor]


def _pass(group: Group, count: int, layout: torch.memory_format, shift: float) -> Passed:
    """Two steps, so that running statistics have a past; of the second what it gave."""
    net = _net()
    shared = group.wrap(batchnorm.synchronise(net, group, CPU), CPU)
    gradients = Gradients(net, group)
    for step in range(2):
        torch.manual_seed(step + 1)
        images = torch.randn(count, 3, 6, 5, dtype=torch.float64) * 3 + shift
        targets = torch.randn(count, 5, 6, 5, dtype=torch.float64)
        mine = group.share(count)
        part = images[mine].contiguous(memory_format=layout).requires_grad_()
        net.zero_grad()
        out = shared(part)
        loss = (out - targets[mine]).square().mean()
        loss.backward()
        gradients.average(loss.detach())
    assert part.grad is not None
    return Passed(
        out.detach(),
        [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None],
        part.grad / group.devices,
        {name: value.double() for name, value in net.named_buffers()},
    )


@pytest.mark.parametrize("shift", [0.0, 1e4], ids=["centred", "far off"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@APART
@pytest.mark.parametrize("devices", [2, 4])
def test_batch_norm_over_devices_equals_one_process_with_the_whole_batch(
    devices: int, layout: torch.memory_format, shift: float, apart: bool
) -> None:
    whole = _pass(Group(), 8, layout, shift)
    parts = together(devices, _pass, 8, layout, shift, apart=apart)
    close: Any = {"rtol": 1e-10, "atol": 1e-10 * max(1.0, shift)}
    torch.testing.assert_close(torch.cat([part.out for part in parts]), whole.out, **close)
    torch.testing.assert_close(torch.cat([part.image_grad for part in parts]), whole.image_grad, **close)
    for part in parts:
        torch.testing.assert_close(part.grads, whole.grads, **close)
        torch.testing.assert_close(part.statistics, whole.statistics, **close)


def _set_apart(net: nn.Sequential, first: int) -> dict[str, Tensor]:
    """The state of `net` with numbers from `first` on in the place of its own, no two alike."""
    state = net.state_dict()
    sizes = [value.numel() for value in state.values()]
    numbers = torch.arange(first, first + sum(sizes)).split(sizes)
    return {
        name: some.view_as(value).to(value.dtype)
        for (name, value), some in zip(state.items(), numbers, strict=True)
    }


def test_synchronised_layers_have_the_names_and_values_of_those_before_and_take_others() -> None:
    net = _net()
    before, others = _set_apart(net, 1), _set_apart(net, 1000)
    net.load_state_dict(before)
    batchnorm.synchronise(net, Group(0, 2), CPU)
    for state in (before, others):
        after = net.state_dict()
        assert state.keys() == after.keys()
        assert all(torch.equal(state[name], after[name]) for name in state)
        net.load_state_dict(others)
    assert batchnorm.synchronise(_net(), Group(), CPU)[1].__class__ is nn.BatchNorm2d


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_layers_are_kept_from_the_compiler_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, kind: str, compiled: bool
) -> None:
    kept = []

    def disable(method: Any) -> Any:
        kept.append(method.__self__)
        return method

    monkeypatch.setattr(torch.compiler, "disable", disable)
    net = batchnorm.synchronise(_net(), Group(0, 2), torch.device(kind), compiled)
    layers = [each for each in kept if isinstance(each, nn.Module)]
    assert layers == ([net[1], net[4]] if compiled else [])


def test_a_net_without_layers_to_synchronise_stays_as_it_is() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    images = torch.randn(2, 3, 4, 4)
    before = net(images)
    assert torch.equal(batchnorm.synchronise(net, Group(0, 2), CPU)(images), before)


def test_a_synchronised_layer_that_evaluates_talks_to_nobody() -> None:
    net = batchnorm.synchronise(_net().eval(), Group(0, 2), CPU)  # there is no group to talk to
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    before = copy.deepcopy(net.state_dict())
    assert torch.equal(net(images), _net().eval()(images))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Twice(Group):
    """Two devices that say the same."""

    def collect(self, packet: Array) -> Array:
        return np.stack([packet, packet])


def test_a_layer_passes_on_what_has_left_the_numbers_and_says_nothing_of_it() -> None:
    layer = batchnorm.synchronise(nn.Sequential(nn.BatchNorm2d(2)), Twice(0, 2), CPU)
    out = layer(torch.tensor([[[[1e30, -1e30]], [[1.0, 3.0]]]], requires_grad=True))
    out.sum().backward()
    assert not (out[0, 0].abs() > 0.9).any()  # a variance beyond float32
    torch.testing.assert_close(out[0, 1], torch.tensor([[-1.0, 1.0]]), atol=1e-4, rtol=0)


class Contrary(Group):
    """Two devices of which the other says the opposite."""

    def collect(self, packet: Array) -> Array:
        return np.stack([packet, -packet])


def test_devices_too_far_apart_for_a_variance_say_nothing_of_it() -> None:
    layer = batchnorm.synchronise(nn.Sequential(nn.BatchNorm2d(1)), Contrary(0, 2), CPU)
    layer(torch.full((1, 1, 2, 2), 1e30))  # the square of their distance is beyond float32
    assert not layer[0].running_var.isfinite()


def _gradient(net: nn.Sequential, images: Tensor, between: Callable[[], Any]) -> Tensor:
    images = images.clone().requires_grad_()
    out = net(images)
    between()
    out.pow(3).sum().backward()
    assert images.grad is not None
    return images.grad


def test_a_pass_in_between_changes_no_gradient() -> None:
    torch.manual_seed(3)
    images, others = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    expected = _gradient(batchnorm.synchronise(_net(), Twice(0, 2), CPU), images, lambda: None)
    net = batchnorm.synchronise(_net(), Twice(0, 2), CPU)
    assert torch.equal(_gradient(net, images, lambda: net(others)), expected)


def test_a_pass_that_fails_leaves_nothing_to_the_next() -> None:
    torch.manual_seed(3)
    images, others = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    nets = [batchnorm.synchronise(_net(), Twice(0, 2), CPU) for _ in range(2)]
    stop = nets[0][3].register_forward_pre_hook(_refuse)
    with pytest.raises(MemoryError):
        nets[0](others)
    stop.remove()
    for net in nets:
        net(images)
    for name, value in nets[0].named_buffers():
        assert torch.equal(value, nets[1].get_buffer(name)), name


def _refuse(*_: Any) -> None:
    raise MemoryError


# The promise


class _Double(Learner):
    """The same in float64, so that nothing but rounding of 1e-16 can differ."""

    def _build(self, settings: Any, place: Path | None) -> DeepLab:
        return super()._build(settings, place).double()


class _DoubleBatch(Batch):
    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        images, labels = super().on(device)
        return images.double(), labels


@dataclass
class Trained:
    """Losses of all steps, labels of the first batches, a confusion matrix, running statistics."""

    losses: list[float]
    labels: list[Tensor]
    confusion: Tensor
    statistics: list[Tensor]


def _train(group: Group, pictures: Path, rung: str, workers: int, double: bool, steps: int) -> Trained:
    how, mini = recipe.load(rung), workload.load("mini")
    few = {**mini.values["train"], "data_workers": workers}
    work = workload.Workload(name="few", title="few", values={**mini.values, "train": few}, fingerprint="few")
    here = source.find(pictures, how, work, 3, CPU, group)
    learner = (_Double if double else Learner)(how, work, 3, CPU, None, group)
    losses, labels = [], []
    with contextlib.closing(here.batches(0, steps)) as batches:  # type: ignore[type-var]
        for step, batch in enumerate(batches):
            made = _DoubleBatch(**vars(batch)) if double else batch
            lr = learning_rate(how.values["optim"], step, steps)
            losses.append(float(learner.train_step(made, step, lr)))
            labels.append(batch.labels[:, ::8, ::8].clone())
    if double:
        learner.model.float()
    confusion = learner.evaluate(here.validation)
    buffers = [value.clone() for name, value in learner.model.named_buffers() if "running" in name]
    return Trained(losses, labels[:5], confusion, buffers)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.ensure(tmp_path_factory.mktemp("scenes"), 64, 24, 1)


@pytest.fixture(scope="module")
def alone(pictures: Path) -> Callable[[str, int], Trained]:
    return functools.cache(lambda rung, steps: together(1, _train, pictures, rung, 0, True, steps)[0])


# A step of rung 07 has eight times the images of one of rung 00: without a mailbox a few are enough.
RUNS = [
    ("00", STEPS, 2, 1, False),
    ("00", STEPS, 4, 3, False),
    ("00", 8, 2, 1, True),
    ("07", STEPS, 2, 1, False),
    ("07", STEPS, 4, 3, False),
    ("07", 5, 2, 1, True),
]


@pytest.mark.parametrize(("rung", "steps", "devices", "workers", "apart"), RUNS)
def test_a_run_is_the_same_on_any_number_of_devices_and_workers(
    pictures: Path,
    alone: Callable[[str, int], Trained],
    rung: str,
    steps: int,
    devices: int,
    workers: int,
    apart: bool,
) -> None:
    whole = alone(rung, steps)
    parts = together(devices, _train, pictures, rung, workers, True, steps, apart=apart)
    for part in parts:
        assert part.losses == parts[0].losses  # to the bit, so that all decide alike
        assert part.losses == pytest.approx(whole.losses, rel=0, abs=1e-10)
        assert torch.equal(part.confusion, parts[0].confusion)
    for step, labels in enumerate(whole.labels):
        assert torch.equal(torch.cat([part.labels[step] for part in parts]), labels)
    assert part.confusion.sum() == whole.confusion.sum()  # each picture once
    for ours, theirs in zip(parts[-1].statistics, whole.statistics, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)  # as float32 after evaluation


@pytest.mark.parametrize("rung", ["00", "07"])
def test_the_first_step_agrees_in_float32_too(pictures: Path, rung: str) -> None:
    losses = [together(devices, _train, pictures, rung, 0, False, 1)[0].losses[0] for devices in (1, 2, 4)]
    assert losses == pytest.approx([losses[0]] * 3, rel=0, abs=1e-5)
