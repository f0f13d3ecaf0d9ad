"""A step of training with every switch of [system] that a CPU has: the same losses and weights."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.exc import GPUTooOldForTriton, TritonMissing

from bench import BenchError, noise, optim, recipe, replicas, workload
from bench.batches import Batch
from bench.group import Group
from bench.learner import Learner
from bench.noise import Validation
from bench.workload import Workload
from tests.test_group import together

CPU = torch.device("cpu")
RUNGS = pytest.mark.parametrize("rung", ["00", "07"])


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # in which another order of sums hardly shows
    yield
    torch.set_default_dtype(torch.float32)
    torch.compiler.reset()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[Any]:
    """torch.compile traces as ever, and calls torch's operators instead of writing C++; what it was given.

    With "aot_eager" for its parameter it traces the backward pass, too, which takes twice as long.
    """
    given: list[Any] = []

    def trace(module: Any, **options: Any) -> Any:
        given.append(module)
        return original(module, backend=getattr(request, "param", "eager"), **options)

    original = torch.compile
    monkeypatch.setattr(torch, "compile", trace)
    return given


def small(**system: Any) -> Workload:
    """`mini` with pictures of 24 pixels and two replicas."""
    values = {name: dict(section) for name, section in workload.load("mini").values.items()}
    values["train"].update(crop=24, replicas=2)
    values["system"].update(system)
    return Workload(name="small", title="small", values=values, fingerprint="0")


class Shallow(nn.Module):
    """In the place of an `Objective` where what is compiled does not matter: a hundredth of it to trace."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.weight = next(model.parameters())

    def forward(self, images: torch.Tensor, *_: Any) -> torch.Tensor:
        return (images.mean() * self.weight).sum()


def learner(rung: str, **system: Any) -> Learner:
    return Learner(recipe.load(rung), small(**system), 0, CPU)


def batch(made: Learner, step: int) -> Batch:
    return noise.batch(made.batch_size, 24, 12, (0, 0, step), CPU)


def learned(made: Learner) -> tuple[list[float], torch.Tensor]:
    """The losses of three steps, and after them weights and running statistics in a row."""
    losses = [float(made.train_step(batch(made, step), step, 0.01)) for step in range(3)]
    return losses, state_of(made)


def state_of(made: Learner) -> torch.Tensor:
    made.group.hand_on_statistics(made.model)
    return torch.cat([each.double().reshape(-1) for each in made.model.state_dict().values()])


@RUNGS
@pytest.mark.parametrize("traced", ["aot_eager"], indirect=True)
def test_a_compiled_step_learns_the_same(rung: str, traced: list[Any]) -> None:
    plain, compiled = learned(learner(rung)), learned(learner(rung, compile=True))
    assert len(traced) == 1, "only the second"
    assert compiled[0] == pytest.approx(plain[0], rel=1e-10)
    torch.testing.assert_close(compiled[1], plain[1], rtol=1e-8, atol=1e-10)


@RUNGS
def test_the_order_in_memory_changes_nothing(rung: str) -> None:
    last, first = learned(learner(rung)), learned(learner(rung, channels_last=False))
    assert last[0] == pytest.approx(first[0], rel=1e-10)
    torch.testing.assert_close(last[1], first[1], rtol=1e-8, atol=1e-10)


NOTED: set[str] = set()


def noting(graph: torch.fx.GraphModule, _: Any) -> Any:
    """A backend that notes what torch.compile has traced, and calls it as it is."""
    NOTED.update(str(node.target) for node in graph.graph.nodes)
    return graph.forward


def shared(group: Group, rung: str) -> tuple[list[float], torch.Tensor, set[str]]:
    made = Learner(recipe.load(rung), small(compile=True), 0, CPU, None, group)
    made.warm_up([])
    part = group.share(made.batch_size)
    whole = [batch(made, step) for step in range(3)]
    parts = [Batch(*(tensor[part] for tensor in vars(each).values())) for each in whole]
    with torch.compiler.set_stance("fail_on_recompile"):
        losses = [float(made.train_step(each, step, 0.01)) for step, each in enumerate(parts)]
    return losses, state_of(made), NOTED


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks, and hides it in vain
@pytest.mark.parametrize(("rung", "apart"), [("00", False), ("07", True)], ids=["mailbox", "apart"])
@pytest.mark.parametrize("traced", [noting], indirect=True)
def test_what_is_compiled_is_the_same_on_two_devices(rung: str, apart: bool, traced: list[Any]) -> None:
    alone = learned(learner(rung))
    for losses, weights, noted in together(2, shared, rung, apart=apart):
        assert any("conv2d" in name for name in noted)
        of_layers = {name for name in noted if "batch_norm" in name or "lerp" in name}
        assert bool(of_layers) == (rung == "07")  # what talks to other processes is left as it is
        assert losses == pytest.approx(alone[0], rel=1e-10)
        torch.testing.assert_close(weights, alone[1], rtol=1e-8, atol=1e-10)


@RUNGS
def test_a_step_asks_the_device_for_no_value(rung: str) -> None:
    """On the device "meta" nothing has one: whoever asked, as a GPU that is waited for, would fail."""
    torch.set_default_dtype(torch.float32)
    made, where = learner(rung), torch.device("meta")
    on_cpu = batch(made, 0)
    made.model.to(where)
    made.device, made.autocast = where, contextlib.nullcontext()
    made.optimizer = optim.DecoupledSGD(made.model.parameters(), 0.1, 0.9, 1e-4)  # fused it knows no "meta"
    images, labels = on_cpu.images.to(where), on_cpu.labels.to(where)
    loss = made.train_step(Batch(images, labels, on_cpu.uniforms, on_cpu.places), 0, 0.01)
    with pytest.raises(RuntimeError, match="meta"):
        float(loss)


def test_what_is_compiled_leaves_names_of_weights_and_evaluation_as_they_are(traced: list[Any]) -> None:
    made, plain = learner("07", compile=True), learner("07")
    assert made.state()["model"].keys() == plain.state()["model"].keys()
    images = batch(made, 0).images[..., :3].permute(0, 3, 1, 2)
    assert torch.equal(made.predict(images, (24, 24)), plain.predict(images, (24, 24)))
    assert len(traced) == 1


@RUNGS
def test_after_the_warm_up_nothing_is_compiled_any_more(rung: str, traced: list[Any]) -> None:
    made, validation = learner(rung, compile=True), Validation(4, 24, 12, 2, CPU)
    made.warm_up(validation)
    with torch.compiler.set_stance("fail_on_recompile"):
        made.train_step(batch(made, 0), 0, 0.01)
        made.evaluate(validation)
        state = made.state()
        made.train_step(batch(made, 1), 1, 0.005)
        made.load(state)
        made.train_step(batch(made, 1), 1, 0.005)


def test_the_warm_up_leaves_no_process_that_compiles(
    traced: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "Objective", Shallow)
    made, before = learner("00", compile=True), set(psutil.Process().children())
    AsyncCompile.process_pool()  # which a GPU would have asked for
    assert set(psutil.Process().children()) > before
    made.warm_up(Validation(4, 24, 12, 2, CPU))
    assert set(psutil.Process().children()) <= before


def test_without_a_compiler_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing is compiled already
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    monkeypatch.setattr(replicas, "Objective", Shallow)
    made = learner("00", compile=True)
    with pytest.raises(BenchError, match=r"compile = true, and torch.compile does not work here: \S") as said:
        made.train_step(batch(made, 0), 0, 0.01)
    assert "install a C++ compiler" in said.value.hint
    assert "\n" not in said.value.message


@pytest.mark.parametrize("error", [TritonMissing, GPUTooOldForTriton, BackendCompilerFailed])
def test_a_gpu_that_torch_cannot_compile_for_is_said_in_a_line(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three errors of torch, none of which is another; one may have nothing to say."""
    made, here = learner("07"), inspect.currentframe()
    old: Any = SimpleNamespace(name="K80", major=3, minor=7)
    raised = {
        TritonMissing: lambda: TritonMissing(here),
        GPUTooOldForTriton: lambda: GPUTooOldForTriton(old, here),
        BackendCompilerFailed: lambda: BackendCompilerFailed(None, ValueError(), here),
    }[error]()

    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr("bench.replicas.accumulate", fail)
    with pytest.raises(BenchError, match="torch.compile does not work here: [^\n]+$") as said:
        made.train_step(batch(made, 0), 0, 0.01)
    assert "leave out what states compile = true" in said.value.hint
