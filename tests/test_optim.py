"""Optimisers against steps computed by hand, schedules against their closed forms and torch's own."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from bench import optim, recipe

SETTINGS = {
    "optimizer": "decoupled_sgd",
    "lr": 0.5,
    "momentum": 0.9,
    "weight_decay": 0.1,
    "schedule": "poly",
    "end_factor": 0.01,
    "power": 0.9,
}
OPTIMISERS = ["sgd", "decoupled_sgd"]
LADDER = {rung.name: rung.values["optim"] for rung in recipe.ladder()}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()


def backward(model: nn.Module, seed: int) -> None:
    model.zero_grad()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    model(images).square().mean().backward()


def values(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# Optimisers


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_steps_are_those_computed_by_hand(optimizer: str) -> None:
    weight = nn.Parameter(torch.tensor([2.0, -3.0], dtype=torch.float64))
    made = optim.build({**SETTINGS, "optimizer": optimizer}, nn.ParameterList([weight]))
    expected, velocity = [2.0, -3.0], [0.0, 0.0]
    for lr, gradient in ((0.5, (1.0, 2.0)), (0.25, (-4.0, 0.5)), (0.1, (0.0, 0.0)), (0.0, (7.0, 7.0))):
        for part in range(2):
            coupled = 0.1 * expected[part] if optimizer == "sgd" else 0.0
            velocity[part] = 0.9 * velocity[part] + gradient[part] + coupled
            if optimizer == "decoupled_sgd":
                expected[part] *= 1 - lr / 0.5 * 0.1
            expected[part] -= lr * velocity[part]
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        made.param_groups[0]["lr"] = lr
        made.step()
        assert weight.tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_every_parameter_decays_batch_norm_and_biases_too(optimizer: str) -> None:
    model = small()
    made = optim.build({**SETTINGS, "optimizer": optimizer, "lr": 0.1}, model)
    nn.init.ones_(model[1].bias)
    before = [parameter.clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    assert len(made.param_groups) == 1
    factor = 0.99 if optimizer == "sgd" else 0.9
    for parameter, start in zip(model.parameters(), before, strict=True):
        assert torch.allclose(parameter, factor * start, rtol=1e-14)


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_a_fused_step_equals_a_plain_one(optimizer: str) -> None:
    model = small()
    twin = copy.deepcopy(model)
    fused = optim.build({**SETTINGS, "optimizer": optimizer}, model)
    kind = {"sgd": torch.optim.SGD, "decoupled_sgd": optim.DecoupledSGD}[optimizer]
    plain = kind(twin.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1, fused=False)
    assert fused.param_groups[0]["fused"]
    for step in range(5):
        for net, made in ((model, fused), (twin, plain)):
            backward(net, step)
            made.param_groups[0]["lr"] = 0.5 / (step + 1)
            made.step()
    assert torch.allclose(values(model), values(twin), rtol=1e-12, atol=0)


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_a_resumed_optimiser_goes_on_to_the_bit(optimizer: str) -> None:
    settings = {**SETTINGS, "optimizer": optimizer}

    def go_on(model: nn.Module, made: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            backward(model, step)
            made.param_groups[0]["lr"] = 0.5 / (step + 1)
            made.step()

    straight, model = small(), small()
    go_on(straight, optim.build(settings, straight), range(6))
    made = optim.build(settings, model)
    go_on(model, made, range(3))
    resumed = optim.build(settings, model)
    resumed.load_state_dict(copy.deepcopy(made.state_dict()))
    go_on(model, resumed, range(3, 6))
    assert torch.equal(values(model), values(straight))


def decayed(optimizer: str, weight_decay: float, steps: int, target: float | None = None) -> float:
    """A weight from 1 on, at lr 0.01 throughout, pulled to `target` by a quadratic loss or left alone."""
    weight = nn.Parameter(torch.ones((), dtype=torch.float64))
    settings = {"optimizer": optimizer, "lr": 0.01, "momentum": 0.9, "weight_decay": weight_decay}
    made = optim.build(settings, nn.ParameterList([weight]))
    for _ in range(steps):
        weight.grad = torch.zeros_like(weight) if target is None else 0.1 * (weight.detach() - target)
        made.step()
    return float(weight.detach())


def test_the_ladders_decoupled_decay_shrinks_weights_as_its_coupled_one() -> None:
    """Apart from the momentum / (1 - momentum) = 9 steps that the coupled decay takes to get going."""
    coupled, decoupled = (decayed(*rung, steps=300) for rung in (("sgd", 5e-4), ("decoupled_sgd", 5e-5)))
    assert coupled == pytest.approx(math.exp(-300 * 5e-5), rel=1e-3)
    assert math.log(coupled / decoupled) == pytest.approx(9 * 5e-5, rel=0.03)


def test_the_ladders_two_decays_settle_at_the_same_weight() -> None:
    ends = [decayed(*rung, steps=2000, target=2.0) for rung in (("sgd", 5e-3), ("decoupled_sgd", 5e-4))]
    assert ends[0] == pytest.approx(2 * 0.1 / (0.1 + 5e-3), rel=1e-6)
    assert ends[1] == pytest.approx(ends[0], rel=1e-4)


def test_the_ladders_two_decays_amount_to_the_same() -> None:
    """wd' = wd lr / (1 - momentum): what a coupled step and the momentum of it take off in the end."""
    (coupled,) = {rung["weight_decay"] for rung in LADDER.values() if rung["optimizer"] == "sgd"}
    (decoupled,) = {rung["weight_decay"] for rung in LADDER.values() if rung["optimizer"] != "sgd"}
    base = LADDER["00-mmseg-baseline"]
    assert decoupled == pytest.approx(coupled * base["lr"] / (1 - base["momentum"]))


@pytest.mark.parametrize("lr", [0.01, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_coupled_decay_takes_off_lr_over_one_minus_momentum_of_it(momentum: float, lr: float) -> None:
    """At a constant learning rate, and once the momentum has got going."""
    rates = []
    for optimizer, weight_decay in (("sgd", 5e-3), ("decoupled_sgd", 5e-3 * lr / (1 - momentum))):
        weight = nn.Parameter(torch.ones((), dtype=torch.float64))
        settings = {"optimizer": optimizer, "lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        made, seen = optim.build(settings, nn.ParameterList([weight])), []
        for _ in range(400):
            weight.grad = torch.zeros_like(weight)
            made.step()
            seen.append(weight.item())
        rates.append(math.log(seen[-2] / seen[-1]))
    assert rates[0] == pytest.approx(rates[1], rel=0.06)  # equal up to the square of what is taken off
    assert rates[1] == pytest.approx(-math.log1p(-5e-3 * lr / (1 - momentum)))


@pytest.mark.parametrize("rung", [name for name in LADDER if name >= "02"])
def test_decoupled_decay_follows_the_schedule_and_no_learning_rate(rung: str) -> None:
    weight = nn.Parameter(torch.ones((), dtype=torch.float64))
    made = optim.build(LADDER[rung], nn.ParameterList([weight]))
    for step in range(STEPS):
        made.param_groups[0]["lr"] = optim.learning_rate(LADDER[rung], step, STEPS)
        weight.grad = torch.zeros_like(weight)
        made.step()
    shapes = [shape(LADDER[rung]["schedule"], step / STEPS) for step in range(STEPS)]
    assert weight.item() == pytest.approx(math.prod(1 - 5e-5 * each for each in shapes), rel=1e-13)


def test_without_decay_decoupled_sgd_is_torchs() -> None:
    model = small()
    twin = copy.deepcopy(model)
    ours = optim.build({**SETTINGS, "weight_decay": 0.0}, model)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.5, momentum=0.9)
    for step in range(5):
        for net, made in ((model, ours), (twin, theirs)):
            backward(net, step)
            made.param_groups[0]["lr"] = 0.5 / (step + 1)
            made.step()
    assert torch.allclose(values(model), values(twin), rtol=1e-12, atol=0)


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_a_step_that_a_gradient_scaler_skips_changes_nothing(optimizer: str) -> None:
    model = small().float()
    made = optim.build({**SETTINGS, "optimizer": optimizer}, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    outcomes = []
    for poison in (1.0, math.inf, 1.0):
        before = values(model)
        made.zero_grad()
        scaler.scale(model(torch.ones(2, 3, 8, 8)).square().mean() * poison).backward()
        scaler.step(made)
        scaler.update()
        outcomes.append(torch.equal(values(model), before))
        assert values(model).isfinite().all()
    assert outcomes == [False, True, False]


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_a_scaled_step_equals_a_plain_one(optimizer: str) -> None:
    ends = []
    for enabled in (False, True):
        model = small().float()
        made = optim.build({**SETTINGS, "optimizer": optimizer}, model)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=enabled)
        for _ in range(3):
            made.zero_grad()
            scaler.scale(model(torch.ones(2, 3, 8, 8)).square().mean()).backward()
            scaler.step(made)
            scaler.update()
        ends.append(values(model))
    assert torch.allclose(*ends, rtol=1e-5, atol=1e-7)


# Schedules

STEPS = 160


def rates(**changes: Any) -> list[float]:
    return [optim.learning_rate({**SETTINGS, **changes}, step, STEPS) for step in range(STEPS)]


@pytest.mark.parametrize("end_factor", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize(("schedule", "power"), [("poly", 0.9), ("poly", 2.0), ("cosine", 0.9)])
def test_a_schedule_falls_from_the_initial_rate_towards_its_end(
    schedule: str, power: float, end_factor: float
) -> None:
    found = rates(schedule=schedule, power=power, end_factor=end_factor)
    assert found[0] == 0.5
    assert found == sorted(found, reverse=True)
    assert 0.5 * end_factor <= found[-1] <= 0.5 * end_factor + 0.01


@pytest.mark.parametrize("power", [0.9, 1.0, 3.0])
def test_poly_to_zero_is_torchs(power: float) -> None:
    assert rates(end_factor=0.0, power=power) == pytest.approx(
        by_torch(lambda made: torch.optim.lr_scheduler.PolynomialLR(made, STEPS, power))
    )


@pytest.mark.parametrize("end_factor", [0.0, 0.2])
def test_cosine_is_torchs_and_knows_no_power(end_factor: float) -> None:
    theirs = by_torch(lambda made: torch.optim.lr_scheduler.CosineAnnealingLR(made, STEPS, 0.5 * end_factor))
    for power in (0.9, 3.0):
        assert rates(schedule="cosine", end_factor=end_factor, power=power) == pytest.approx(theirs)


def test_poly_with_an_end_factor_is_that_of_mmsegmentation_0() -> None:
    """Since 1.0 it reaches its end one step earlier: see test_peers.py."""
    lowest = 0.5 * 0.01
    theirs = [(0.5 - lowest) * (1 - step / STEPS) ** 0.9 + lowest for step in range(STEPS)]
    assert rates() == pytest.approx(theirs)


def shape(schedule: str, progress: float) -> float:
    """What the ladder multiplies its learning rates by, written out."""
    if schedule == "poly":
        return 0.01 + 0.99 * (1 - progress) ** 0.9
    return math.cos(math.pi * progress / 2) ** 2


@pytest.mark.parametrize("rung", LADDER)
def test_a_rung_follows_the_closed_form_of_its_schedule(rung: str) -> None:
    lr = 0.01 * LADDER[rung]["batch_size"] / 16
    schedule = "poly" if rung < "03" else "cosine"
    found = [optim.learning_rate(LADDER[rung], step, STEPS) for step in range(STEPS)]
    assert found == pytest.approx([lr * shape(schedule, step / STEPS) for step in range(STEPS)], rel=1e-12)


def by_torch(schedule: Any) -> list[float]:
    made = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, found = schedule(made), []
    for _ in range(STEPS):
        found.append(made.param_groups[0]["lr"])
        made.step()
        scheduler.step()
    return found
