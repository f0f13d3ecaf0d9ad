"""Operators of our own against torch's: results, gradients, layouts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import model, workload
from bench.operators import MATRIX_SIDE, Conv2d, enlarge


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """float64, so that another order of sums shows only in the last digits."""
    maps = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return maps.to(memory_format=torch.channels_last)


def trained(layer: nn.Conv2d, forward: object, x: Tensor) -> list[Tensor]:
    """Result and gradients of input, weight and bias, for a gradient that is no constant."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    layer.zero_grad()
    result = forward(layer, x)  # type: ignore[operator]
    result.backward(drawn(*result.shape, seed=1))
    assert x.grad is not None
    return [result.detach(), x.grad, *(each.grad for each in layer.parameters() if each.grad is not None)]


LAYERS = {
    "pointwise": lambda: Conv2d(6, 4, 1, bias=False),
    "pointwise with bias": lambda: Conv2d(6, 4, 1),
    "pointwise at stride 2": lambda: Conv2d(6, 4, 1, stride=2),
    "pointwise in groups": lambda: Conv2d(6, 6, 1, groups=6),
    "spatial": lambda: Conv2d(6, 4, 3, padding=2, dilation=2),
    "depthwise": lambda: Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
    "depthwise, rate 2": lambda: Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, bias=False),
    "depthwise, rate 6": lambda: Conv2d(6, 6, 3, padding=6, dilation=6, groups=6, bias=False),
    "depthwise, rate 2, with bias": lambda: Conv2d(6, 6, 3, padding=2, dilation=2, groups=6),
    "depthwise, rate 2, unpadded": lambda: Conv2d(6, 6, 3, dilation=2, groups=6, bias=False),
    "depthwise, rate 2, stride 2": lambda: Conv2d(6, 6, 3, 2, 2, 2, groups=6, bias=False),
}


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_convolution_and_its_gradients_are_those_of_torch(kind: str, planes: bool) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind]().double().to(memory_format=torch.channels_last)
    x = drawn(2, 6, 7, 5)
    x = x.contiguous() if planes else x
    ours, theirs = trained(layer, Conv2d.forward, x), trained(layer, nn.Conv2d.forward, x)
    assert len(ours) == len(theirs) == 2 + len(list(layer.parameters()))
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_of_weights_lie_in_memory_as_the_weights_do(kind: str) -> None:
    layer = LAYERS[kind]().to(memory_format=torch.channels_last)  # or several devices would copy them
    layer(drawn(2, 6, 7, 5).float()).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.stride() == layer.weight.stride()


@pytest.mark.parametrize("size", [(28, 20), (7, 5), (3, 2), (29, 11)])
def test_maps_are_enlarged_as_by_interpolation(size: tuple[int, int]) -> None:
    found = []
    for how in (enlarge, lambda maps, size: F.interpolate(maps, size=size, mode="bilinear")):
        maps = drawn(2, 3, 7, 5).requires_grad_()
        result = how(maps, size)
        result.backward(drawn(*result.shape, seed=1))
        found.append((result.detach(), maps.grad))
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


def test_large_maps_are_interpolated() -> None:
    maps, size = drawn(1, 1, MATRIX_SIDE + 1, 2), (50, 7)
    assert torch.equal(enlarge(maps, size), F.interpolate(maps, size=size, mode="bilinear"))


def test_what_an_evaluation_enlarged_can_be_trained_on_afterwards() -> None:
    with torch.inference_mode():
        enlarge(drawn(1, 2, 4, 3), (9, 13))  # sizes that no other test has
    maps = drawn(1, 2, 4, 3).requires_grad_()
    enlarge(maps, (9, 13)).sum().backward()
    assert maps.grad is not None
    assert maps.grad.sum() == pytest.approx(2 * 9 * 13)


def test_the_model_learns_the_same_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, images = workload.load("mini").values["model"], drawn(2, 3, 48, 48)
    gradients = []
    for own in (True, False):
        if not own:
            monkeypatch.setattr(Conv2d, "forward", nn.Conv2d.forward)
            monkeypatch.setattr(model, "enlarge", model.resize)
        torch.manual_seed(0)
        net = model.build(settings, 5).double().to(memory_format=torch.channels_last)
        logits = net(images)
        assert logits.is_contiguous() == own, (
            "planes where it is ours, channels last where torch interpolates"
        )
        logits.square().mean().backward()
        gradients.append([each.grad for each in net.parameters()])
    for ours, others in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, others, rtol=1e-8, atol=1e-12)
