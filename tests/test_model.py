"""The model: its size, its strides and its beginnings, against the published figures and torchvision."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench import model, workload

LARGE = {
    "backbone": "resnet101",
    "widths": [],
    "blocks": [],
    "output_stride": 8,
    "head_width": 512,
    "low_width": 48,
    "rates": [12, 24, 36],
    "dropout": 0.1,
}
SMALL = workload.load("mini").values["model"]
BACKBONES = ["narrow", "resnet18", "resnet50", "resnet101"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def settings(backbone: str, **changes: Any) -> dict[str, Any]:
    return {**(SMALL if backbone == "narrow" else LARGE), "backbone": backbone, **changes}


def on_meta(backbone: str, classes: int = 150, **changes: Any) -> model.DeepLab:
    """Shapes without numbers: costs nothing."""
    with torch.device("meta"):
        return model.build(settings(backbone, **changes), classes)


# Size


@pytest.mark.parametrize(("backbone", "count"), [("resnet101", 60_265_286), ("resnet50", 41_273_158)])
def test_it_has_exactly_the_published_number_of_parameters(backbone: str, count: int) -> None:
    assert sum(parameter.numel() for parameter in on_meta(backbone).parameters()) == count


def test_a_forward_pass_of_512_by_512_pixels_takes_the_published_number_of_products() -> None:
    net = on_meta("resnet101").eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        net(torch.empty(1, 3, 512, 512, device="meta"))
    counts = {name: sum(ops.values()) / 2e9 for name, ops in counter.get_flop_counts().items()}
    assert counts["Global"] == pytest.approx(253.58, abs=0.005)


def test_the_operations_of_a_training_image_are_those_of_its_layers_whatever_computes_them() -> None:
    chosen = settings("narrow")
    net = model.build(chosen, 12)  # in planes: torch's own operators
    with FlopCounterMode(display=False) as counter, mock.patch.object(model, "enlarge", model.resize):
        net(torch.randn(2, 3, 48, 48)).sum().backward()
    before = torch.get_rng_state()
    assert model.training_flops(chosen, 12, 48) == counter.get_total_flops() / 2 == 62_220_288
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_taps_have_the_strides_they_say(backbone: str, output_stride: int) -> None:
    net = on_meta(backbone, output_stride=output_stride)
    low, high = net.backbone(torch.empty(2, 3, 64, 96, device="meta"))
    assert low.shape[2:] == (16, 24)
    assert high.shape[2:] == (64 // output_stride, 96 // output_stride)


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (33, 50)])
@pytest.mark.parametrize("backbone", ["narrow", "resnet18"])
def test_logits_have_the_size_of_the_pictures(backbone: str, size: tuple[int, int]) -> None:
    logits = on_meta(backbone, classes=5)(torch.empty(2, 3, *size, device="meta"))
    assert logits.shape == (2, 5, *size)


@pytest.mark.parametrize("backbone", ["narrow", "resnet18"])
def test_every_parameter_gets_a_gradient(backbone: str) -> None:
    net = model.build(settings(backbone, head_width=8, low_width=4), 3)
    net(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


@pytest.mark.parametrize("backbone", ["narrow", "resnet50"])
def test_no_convolution_before_a_batch_norm_has_a_bias(backbone: str) -> None:
    net = on_meta(backbone)
    with_bias = [name for name, layer in net.named_modules() if getattr(layer, "bias", None) is not None]
    convolutions = [name for name in with_bias if isinstance(net.get_submodule(name), nn.Conv2d)]
    assert convolutions == ["classify"]


# Dilation


@pytest.mark.parametrize("backbone", ["narrow", "resnet18"])
def test_each_branch_of_the_head_looks_as_far_as_its_rate(backbone: str) -> None:
    rates = settings(backbone)["rates"]
    spatial = [branch[0][0] for branch in on_meta(backbone).atrous]
    for conv, rate in zip(spatial, rates, strict=True):
        assert conv.dilation == conv.padding == (rate, rate)
    assert all(conv.groups == conv.in_channels and conv.kernel_size == (3, 3) for conv in spatial)


def strides(backbone: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {
        name: (layer.kernel_size, layer.stride, layer.dilation, layer.padding, layer.groups)
        for name, layer in backbone.named_modules()
        if isinstance(layer, nn.Conv2d)
    }


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("backbone", ["resnet50"])
def test_dilation_of_bottlenecks_is_torchvisions(backbone: str, output_stride: int) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, backbone)(
            replace_stride_with_dilation=[False, output_stride == 8, True]
        )
    assert strides(on_meta(backbone, output_stride=output_stride).backbone) == strides(theirs)


@pytest.mark.parametrize("backbone", ["narrow", "resnet18"])
def test_dilated_basic_blocks_compute_the_same_function_more_densely(backbone: str) -> None:
    """Each output of the strided net is an output of the dilated one: that is what dilation is for."""
    torch.manual_seed(0)
    tight = {} if backbone == "resnet18" else {"blocks": [2, 2, 2, 2]}
    nets = [
        model.build(settings(backbone, output_stride=stride, head_width=8, **tight), 3).backbone.eval()
        for stride in (8, 16)
    ]
    dilated, halved = nets
    halved.load_state_dict(dilated.state_dict())
    images = torch.randn(1, 3, 128, 128)
    taps = []
    for net in nets:
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(images)))))
        taps.append(net.layer3(net.layer2(x)))
    assert torch.allclose(taps[0][..., ::2, ::2], taps[1], atol=1e-4)


# Beginnings


@pytest.mark.parametrize("backbone", ["narrow", "resnet18"])
def test_convolutions_begin_as_kaiming_says_and_batch_norms_as_the_identity(backbone: str) -> None:
    torch.manual_seed(0)
    net = model.build(settings(backbone), 150)
    deviations = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            tolerance = 6 / math.sqrt(2 * layer.weight.numel())
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=tolerance)
            deviations.append(layer.weight.mean().item() / (math.sqrt(2 / fan_in / layer.weight.numel())))
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
            assert (layer.momentum, layer.eps) == (0.1, 1e-5)
    assert max(map(abs, deviations)) < 4.5
    assert (net.classify.bias == 0).all()


def test_the_seed_decides_the_beginning() -> None:
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(model.build(SMALL, 3).classify.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# Dropout


@pytest.fixture
def small() -> model.DeepLab:
    torch.manual_seed(0)
    return model.build(SMALL, 3).double()


def test_dropped_channels_are_zero_and_the_others_grow(small: model.DeepLab) -> None:
    seen: list[torch.Tensor] = []
    small.classify.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    keep = torch.rand(3, small.head_width) >= 0.4
    small.eval()
    small(images)
    small(images, keep)
    whole, masked = seen
    assert torch.equal(masked[~keep], torch.zeros_like(masked[~keep]))
    assert torch.allclose(masked[keep], whole[keep] / 0.9, rtol=1e-15, atol=0)


def test_without_a_mask_nothing_is_dropped_or_scaled(small: model.DeepLab) -> None:
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert small.dropout == 0.1
    first = small(images)
    small.dropout = 0.0
    assert torch.equal(first, small(images))
    assert torch.equal(first, small(images, torch.ones(2, small.head_width, dtype=torch.bool)))
