"""What only a GPU can show: `pytest tests/test_cuda.py`. All is skipped where torch sees none, as where other
tests run, too (conftest.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn

from bench import batchnorm, device, group, recipe, record, source, train, workload
from bench.group import ALONE, Group
from bench.learner import Learner
from bench.matrix import Job
from bench.optim import learning_rate
from bench.seat import Seat
from bench.steps import Steps
from bench.workload import Workload
from tests import small
from tests.test_train import outcome, silent, stop_at

GPU = "cuda"
pytestmark = [
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch sees no GPU, or is shown none: run this file by itself"
    ),
    # what torch says of itself: at the first set_sync_debug_mode, and where it compiles in full float32
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores for float32 matrix multiplication"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.data(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(autouse=True)
def in_full_float32() -> Iterator[None]:
    """torch lets convolutions round to TF32 unless told otherwise."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


def mini(**system: Any) -> Workload:
    """The embedded default, with system settings of its own."""
    found = workload.load("mini")
    values = {**found.values, "system": {**found.values["system"], **system}}
    return Workload(name="mini", title="mini", values=values, fingerprint=str(system))


def losses(where: str, rung: str, pictures: Path, steps: int = 1, **system: Any) -> list[float]:
    """The losses of the first steps of `mini` on a device."""
    how, work, place = recipe.load(rung), mini(**system), torch.device(where)
    learner = Learner(how, work, 3, place)
    batches = source.find(pictures, how, work, 3, place, ALONE).batches(0, steps)
    rates = [learning_rate(how.values["optim"], step, 100) for step in range(steps)]
    return [
        float(learner.train_step(batch, step, rates[step]))
        for step, batch in zip(range(steps), batches, strict=True)
    ]


@pytest.mark.parametrize("rung", ["00", "07"])
def test_the_first_loss_is_that_of_a_cpu(pictures: Path, rung: str) -> None:
    ours, theirs = losses(GPU, rung, pictures), losses("cpu", rung, pictures)
    assert ours == pytest.approx(theirs, rel=0, abs=1e-4)


@pytest.mark.parametrize("rung", ["00", "07"])
@pytest.mark.parametrize(
    ("system", "apart"),
    [
        ({"channels_last": False}, 1e-4),
        ({"precision": "bf16"}, 3e-2),  # eight bits of a loss near 2.5
        ({"precision": "fp16"}, 3e-3),
    ],
    ids=["layout", "bf16", "fp16"],
)
def test_layout_and_precision_change_nothing_but_rounding(
    pictures: Path, rung: str, system: dict[str, Any], apart: float
) -> None:
    plain, changed = losses(GPU, rung, pictures, 3), losses(GPU, rung, pictures, 3, **system)
    assert changed[0] == pytest.approx(plain[0], rel=0, abs=apart)
    assert changed == pytest.approx(plain, rel=0, abs=20 * apart)  # rounding grows from step to step


SWITCHES: list[dict[str, Any]] = [{}, {"precision": "fp16"}, {"precision": "bf16"}, {"compile": True}]


@pytest.mark.parametrize("system", SWITCHES, ids=str)
@pytest.mark.parametrize("rung", ["00", "07"])
def test_nothing_in_a_step_waits_for_the_device(pictures: Path, rung: str, system: dict[str, Any]) -> None:
    how, work, place = recipe.load(rung), mini(**system), torch.device(GPU)
    learner, log = Learner(how, work, 3, place), Steps(3, place)
    there = source.find(pictures, how, work, 3, place, ALONE)
    some = list(zip(range(3), there.batches(0, 3), strict=True))
    learner.warm_up(there.validation)
    try:
        torch.cuda.set_sync_debug_mode("error")
        log.begin()
        for step, batch in some:
            log.end(learner.train_step(batch, step, 0.01), 0.01)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    log.drain(wait=True)
    assert log.bad is None


def test_pictures_are_scored_without_waiting_for_the_device(pictures: Path) -> None:
    how, work, place = recipe.load("00"), mini(), torch.device(GPU)
    learner, scored = Learner(how, work, 3, place), source.find(pictures, how, work, 3, place, ALONE)

    def watched() -> Iterator[tuple[Tensor, Tensor]]:
        torch.cuda.set_sync_debug_mode("error")
        yield from scored.validation
        torch.cuda.set_sync_debug_mode("default")  # for the matrix, which is fetched once

    learner.warm_up(scored.validation)
    try:
        assert learner.evaluate(watched()).sum() > 0
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("rung", ["00", "07"])
def test_what_is_compiled_changes_nothing_but_rounding(pictures: Path, rung: str) -> None:
    plain, compiled = losses(GPU, rung, pictures, 3), losses(GPU, rung, pictures, 3, compile=True)
    assert compiled == pytest.approx(plain, rel=0, abs=1e-3)


def test_nccl_starts_with_one_process(tmp_path: Path) -> None:
    torch.cuda.set_device(0)
    with group.connected(Seat(0, 1, 0, 1, str(tmp_path / "meeting")), torch.device(GPU, 0)) as alone:
        assert dist.get_backend() == "nccl"
        value = torch.arange(4.0, device=GPU)
        dist.all_reduce(value)
        assert value.tolist() == [0, 1, 2, 3]
        assert (alone.devices, dist.get_backend(alone.side)) == (1, "gloo")


def on_gpu(folder: Path, pictures: Path) -> Job:
    """A job of the small workload, to the bit the same whenever it is trained."""
    return replace(small.job(folder, pictures), device=GPU, deterministic=True, facts=device.facts(GPU))


@pytest.mark.parametrize("step", [1, 9, 22])
def test_a_deterministic_run_that_was_stopped_ends_bit_identical(
    tmp_path: Path, pictures: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.train.TELL_S", 0.0)
    whole, broken = on_gpu(tmp_path / "whole", pictures), on_gpu(tmp_path / "broken", pictures)
    try:
        train.train(whole, silent)
        with pytest.raises(train.Interrupted):
            train.train(broken, stop_at(step))
        train.train(broken, silent)
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    assert outcome(broken) == outcome(whole)
    assert record.read(broken.folder)["resumed"] == 1


# torch's own SyncBatchNorm: two processes share the GPU, which NCCL does not allow and gloo does


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1))
    return layers.double().to(GPU)


def passed(group: Group, count: int) -> dict[str, Tensor]:
    """Output, gradients and statistics of a device's part of a batch."""
    torch.manual_seed(1)
    images = torch.randn(count, 3, 6, 5, dtype=torch.float64)[group.share(count)].to(GPU).requires_grad_()
    layers = net()
    shared = group.wrap(batchnorm.synchronise(layers, group, images.device), images.device)
    out = shared(images)
    out.square().mean().backward()
    assert images.grad is not None
    found = {"out": out, "image": images.grad / group.devices, **dict(layers.named_buffers())}
    found |= {f"grad {name}": each.grad for name, each in layers.named_parameters() if each.grad is not None}
    return {name: value.detach().cpu() for name, value in found.items()}


def member(rank: int, folder: str) -> None:
    store: Any = dist
    meeting = store.FileStore(f"{folder}/meeting", 2)
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=2)
    torch.save(passed(Group(rank, 2), 8), f"{folder}/{rank}")
    dist.destroy_process_group()


def test_torchs_sync_batch_norm_equals_one_process_with_the_whole_batch(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(member, (str(tmp_path),), nprocs=2, start_method="spawn")
    whole, parts = passed(ALONE, 8), [torch.load(tmp_path / str(rank)) for rank in range(2)]
    for name, value in whole.items():
        if name in ("out", "image"):
            ours = torch.cat([part[name] for part in parts])
            torch.testing.assert_close(ours, value, rtol=1e-10, atol=1e-10)
        else:
            for part in parts:
                torch.testing.assert_close(part[name], value, rtol=1e-10, atol=1e-10)
