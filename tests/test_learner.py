"""A step of training with every switch of [system] that a CPU has: the same losses and weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bench import noise, recipe, workload
from bench.learner import Learner
from bench.workload import Workload

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # in which another order of sums hardly shows
    yield
    torch.set_default_dtype(torch.float32)
    torch.compiler.reset()


def small(**system: Any) -> Workload:
    """`mini` with pictures of 24 pixels and two replicas."""
    values = {name: dict(section) for name, section in workload.load("mini").values.items()}
    values["train"].update(crop=24, replicas=2)
    values["system"].update(system)
    return Workload(name="small", title="small", values=values, fingerprint="0")


def learned(rung: str, **system: Any) -> tuple[list[float], torch.Tensor]:
    """The losses of three steps from given weights, and the weights after them in a row."""
    learner = Learner(recipe.load(rung), small(**system), 0, CPU)
    losses = []
    for step in range(3):
        batch = noise.batch(learner.batch_size, 24, 12, (0, 0, step), CPU)
        losses.append(float(learner.train_step(batch, step, 0.01)))
    return losses, torch.cat([each.detach().reshape(-1) for each in learner.model.parameters()])


@pytest.fixture
def without_code(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """torch.compile traces as always and calls torch's operators instead of writing C++; what it traced."""
    compiled: list[Any] = []

    def traced(model: Any, **options: Any) -> Any:
        compiled.append(model)
        return original(model, backend="aot_eager", **options)

    original = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    return compiled


@pytest.mark.parametrize("rung", ["00", "07"])
def test_a_compiled_step_learns_the_same(rung: str, without_code: list[Any]) -> None:
    plain, compiled = learned(rung), learned(rung, compile=True)
    assert len(without_code) == 1, "only the second"
    assert compiled[0] == pytest.approx(plain[0], rel=1e-10)
    torch.testing.assert_close(compiled[1], plain[1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rung", ["00", "07"])
def test_the_order_in_memory_changes_nothing(rung: str) -> None:
    last, first = learned(rung), learned(rung, channels_last=False)
    assert last[0] == pytest.approx(first[0], rel=1e-10)
    torch.testing.assert_close(last[1], first[1], rtol=1e-8, atol=1e-10)


def test_what_is_compiled_leaves_names_of_weights_and_evaluation_as_they_are(without_code: list[Any]) -> None:
    learner = Learner(recipe.load("07"), small(compile=True), 0, CPU)
    plain = Learner(recipe.load("07"), small(), 0, CPU)
    assert learner.state()["model"].keys() == plain.state()["model"].keys()
    images = noise.batch(2, 24, 12, (0, 0, 0), CPU).images
    assert torch.equal(learner.predict(images, (24, 24)), plain.predict(images, (24, 24)))
    assert without_code == [learner.model]
