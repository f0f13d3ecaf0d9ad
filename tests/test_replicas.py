"""Replicas: a step on one device is what R devices would have done, by plain implementations of both."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import model, replicas, workload
from bench.dataset import IGNORE
from bench.model import DeepLab

CLASSES, COUNT, SIZE = 4, 8, 24
SMALL = {"widths": [4, 4, 6, 8, 8], "head_width": 8, "low_width": 4}
SETTINGS = {**workload.load("mini").values["model"], **SMALL}
EXACT = {"rtol": 1e-12, "atol": 1e-13}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def net() -> DeepLab:
    torch.manual_seed(0)
    return model.build(SETTINGS, CLASSES).double().train()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels with more ignored pixels in later pictures, dropout masks."""
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(COUNT, 3, SIZE, SIZE, dtype=torch.float64, generator=rng)
    labels = torch.randint(0, CLASSES, (COUNT, SIZE, SIZE), generator=rng)
    for row in range(COUNT):
        labels[row, : 3 * row] = IGNORE
    return images, labels, replicas.dropout_mask(0, 0, COUNT, 8, 0.3)


def gradients(net: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in net.parameters()]


def buffers(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.named_buffers()}


def plainly(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over valid pixels, written out; 0 where there are none."""
    total, count = logits.new_zeros(()), 0
    for number in range(CLASSES):
        where = labels == number
        scores = logits.movedim(1, -1)[where]
        total = total + (scores.exp().sum(1).log() - scores[:, number]).sum()
        count += int(where.sum())
    return total / max(count, 1)


def accumulate(net: DeepLab, *about: Any) -> Tensor:
    """A step; its gradients are left in the model."""
    return replicas.accumulate(replicas.Objective(net), *about)


def synchronised(net: DeepLab, images: Tensor, labels: Tensor, keep: Tensor, count: int) -> Tensor:
    """All slices through one model; its gradients are left in it."""
    logits = net(images, keep)
    size = COUNT // count
    losses = [plainly(logits[at : at + size], labels[at : at + size]) for at in range(0, COUNT, size)]
    loss = sum(losses) / count
    loss.backward()
    return loss.detach()


def data_parallel(net: DeepLab, images: Tensor, labels: Tensor, keep: Tensor, count: int) -> Tensor:
    """A copy of the model a slice, gradients averaged over the copies, buffers of the first."""
    size = COUNT // count
    copies = [copy.deepcopy(net) for _ in range(count)]
    losses = []
    for number, twin in enumerate(copies):
        some = slice(number * size, (number + 1) * size)
        loss = plainly(twin(images[some], keep[some]), labels[some])
        loss.backward()
        losses.append(loss.detach())
    for parameter, *parts in zip(net.parameters(), *(twin.parameters() for twin in copies), strict=True):
        parameter.grad = sum(part.grad for part in parts) / count
    for mine, first in zip(net.buffers(), copies[0].buffers(), strict=True):
        mine.copy_(first)
    return sum(losses) / count


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("sync_bn", [True, False])
def test_a_step_is_what_that_many_devices_would_have_done(
    net: DeepLab, batch: tuple[Tensor, Tensor, Tensor], sync_bn: bool, count: int
) -> None:
    twin = copy.deepcopy(net)
    loss = accumulate(net, *batch, count, sync_bn)
    expected = (synchronised if sync_bn else data_parallel)(twin, *batch, count)
    assert torch.allclose(loss, expected, **EXACT)
    for mine, theirs in zip(gradients(net), gradients(twin), strict=True):
        assert torch.allclose(mine, theirs, **EXACT)
    for (name, mine), theirs in zip(buffers(net).items(), twin.buffers(), strict=True):
        assert torch.allclose(mine, theirs, **EXACT), name


def test_with_one_replica_synchronised_or_not_is_the_same(
    net: DeepLab, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    twin = copy.deepcopy(net)
    assert torch.equal(accumulate(net, *batch, 1, True), accumulate(twin, *batch, 1, False))
    assert all(torch.equal(*pair) for pair in zip(gradients(net), gradients(twin), strict=True))


def test_replicas_without_synchronisation_normalise_their_own_slice(
    net: DeepLab, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    losses = [accumulate(copy.deepcopy(net), *batch, 4, sync_bn) for sync_bn in (True, False)]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_without_synchronisation_running_statistics_know_replica_0_alone(
    net: DeepLab, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    images, labels, keep = batch
    twin = copy.deepcopy(net)
    accumulate(net, images, labels, keep, 4, False)
    images = images.clone()
    images[2:] *= 100
    accumulate(twin, images, labels, keep, 4, False)
    mine, theirs = buffers(net), buffers(twin)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("sync_bn", [True, False])
def test_running_statistics_move_once_a_step(
    net: DeepLab, batch: tuple[Tensor, Tensor, Tensor], sync_bn: bool
) -> None:
    for step in (1, 2):
        accumulate(net, *batch, 4, sync_bn)
        counters = {value.item() for name, value in buffers(net).items() if "tracked" in name}
        assert counters == {step}
    layers = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all(layer.track_running_stats and layer.training for layer in layers)


def test_a_device_without_replica_0_leaves_running_statistics_alone(
    net: DeepLab, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    before = buffers(net)
    replicas.accumulate(replicas.Objective(net), *batch, 4, False, leads=False)
    assert all(torch.equal(value, before[name]) for name, value in buffers(net).items())


def test_batch_norm_goes_back_to_tracking_after_an_error(net: DeepLab) -> None:
    with pytest.raises(RuntimeError, match="out of memory"), replicas.kept_statistics(net):
        raise RuntimeError("out of memory")
    assert all(layer.track_running_stats for layer in net.modules() if isinstance(layer, nn.BatchNorm2d))


@pytest.mark.parametrize("sync_bn", [True, False])
def test_gradients_are_added_to_those_there_are_and_scaled_as_told(
    net: DeepLab, batch: tuple[Tensor, Tensor, Tensor], sync_bn: bool
) -> None:
    twin = copy.deepcopy(net)
    loss = accumulate(net, *batch, 2, sync_bn)
    for parameter in twin.parameters():
        parameter.grad = torch.ones_like(parameter)
    again = accumulate(twin, *batch, 2, sync_bn, lambda loss: 8 * loss)
    assert torch.equal(loss, again)
    for mine, theirs in zip(gradients(net), gradients(twin), strict=True):
        assert torch.allclose(8 * mine + 1, theirs, **EXACT)


@pytest.mark.parametrize("sync_bn", [True, False])
def test_a_slice_of_ignored_pixels_has_loss_0_and_no_gradient(
    net: DeepLab, batch: tuple[Tensor, Tensor, Tensor], sync_bn: bool
) -> None:
    images, labels, keep = batch
    labels = labels.clone()
    labels[:2] = IGNORE
    twin = copy.deepcopy(net)
    loss = accumulate(net, images, labels, keep, 4, sync_bn)
    expected = (synchronised if sync_bn else data_parallel)(twin, images, labels, keep, 4)
    assert torch.allclose(loss, expected, **EXACT)
    for mine, theirs in zip(gradients(net), gradients(twin), strict=True):
        assert mine.isfinite().all()
        assert torch.allclose(mine, theirs, **EXACT)


@pytest.mark.parametrize("sync_bn", [True, False])
def test_a_batch_of_ignored_pixels_has_loss_0_and_no_gradient(
    net: DeepLab, batch: tuple[Tensor, Tensor, Tensor], sync_bn: bool
) -> None:
    images, labels, keep = batch
    loss = accumulate(net, images, torch.full_like(labels, IGNORE), keep, 4, sync_bn)
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients(net))


def test_the_loss_is_a_mean_of_means_not_a_mean_over_all_pixels(
    net: DeepLab, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    images, labels, _ = batch
    logits = net(images)
    losses = replicas.slice_losses(logits, labels, 4)
    expected = [
        F.cross_entropy(logits[at : at + 2], labels[at : at + 2], ignore_index=IGNORE) for at in (0, 2, 4, 6)
    ]
    assert torch.allclose(losses, torch.stack(expected), **EXACT)
    assert abs(losses.mean() - F.cross_entropy(logits, labels, ignore_index=IGNORE)) > 1e-4


# Dropout masks


def test_a_mask_hangs_on_seed_step_and_position_alone() -> None:
    large = replicas.dropout_mask(3, 5, 64, 32, 0.1)
    assert (large.shape, large.dtype) == ((64, 32), torch.bool)
    for count in (1, 8, 63):
        assert torch.equal(replicas.dropout_mask(3, 5, count, 32, 0.1), large[:count])
    assert not torch.equal(replicas.dropout_mask(3, 6, 64, 32, 0.1), large)
    assert not torch.equal(replicas.dropout_mask(4, 5, 64, 32, 0.1), large)
    assert len({tuple(row) for row in large.tolist()}) > 32


def test_a_mask_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state(), str(np.random.get_state())
    replicas.dropout_mask(0, 0, 8, 8, 0.5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5])
def test_a_mask_drops_the_share_it_is_told(dropout: float) -> None:
    share = replicas.dropout_mask(0, 1, 200, 200, dropout).double().mean().item()
    assert share == pytest.approx(1 - dropout, abs=5 * (dropout * (1 - dropout)) ** 0.5 / 200)
