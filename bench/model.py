"""DeepLabv3+: a torchvision ResNet with dilated last stages, a separable ASPP and a light decoder.

The head follows mmsegmentation's DepthwiseSeparableASPPHead without the auxiliary head. The narrow backbone
of the embedded default is the same thing in small: torchvision's BasicBlock in four thin stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock

from bench.operators import Conv2d, enlarge


class Backbone(nn.Module):
    """Images (N, 3, H, W) -> the maps that the head reads, its taps: at stride 4 and at the output stride."""

    channels: tuple[int, int]  # of the taps


class DeepLab(nn.Module):
    """Images (N, 3, H, W) -> logits (N, classes, H, W).

    `dropout` is the probability that a channel of the fused features is dropped; the mask itself comes from
    outside, because it must not depend on which device draws it.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        head_width: int,
        low_width: int,
        rates: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        low, high = backbone.channels
        self.pool = conv_bn(high, head_width, 1)
        self.point = conv_bn(high, head_width, 1)
        self.atrous = nn.ModuleList(separable(high, head_width, rate) for rate in rates)
        self.project = conv_bn(head_width * (2 + len(rates)), head_width, 3)
        self.low = conv_bn(low, low_width, 1)
        self.fuse = nn.Sequential(
            separable(head_width + low_width, head_width), separable(head_width, head_width)
        )
        self.classify = Conv2d(head_width, classes, 1)
        self.dropout = dropout
        self.head_width = head_width

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits at the size of the images; `keep` (N, head_width) bool: the channels dropout leaves."""
        low, high = self.backbone(images)
        branches = [self.pool(high.mean((2, 3), keepdim=True)).expand(-1, -1, *high.shape[2:])]
        branches += [self.point(high), *(branch(high) for branch in self.atrous)]
        context = self.project(torch.cat(branches, 1))
        fused = self.fuse(torch.cat([resize(context, low.shape[2:]), self.low(low)], 1))
        if keep is not None:
            fused = fused * (keep.to(fused.dtype) / (1 - self.dropout))[:, :, None, None]
        return enlarge(self.classify(fused), images.shape[2:])


class ResNet(Backbone):
    """The stages of `net` under their names, torchvision's, freshly drawn and the last ones dilated. The taps
    are layer1 and layer4."""

    def __init__(self, net: nn.Module, output_stride: int) -> None:
        super().__init__()
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(name, net.get_submodule(name))
        initialise(self)
        dilate(self, output_stride)
        self.channels = _out_channels(net.get_submodule("layer1")), _out_channels(net.get_submodule("layer4"))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        net: Any = self
        low = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(images)))))
        return low, net.layer4(net.layer3(net.layer2(low)))


class NarrowResNet(nn.Module):
    """A ResNet with the stage names of torchvision's; `widths` are those of the stem and the four stages."""

    def __init__(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        stem, *stages = widths
        self.conv1 = nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        before = stem
        for number, (width, depth) in enumerate(zip(stages, blocks, strict=True), start=1):
            stride = 1 if number == 1 else 2
            self.add_module(f"layer{number}", _stage(before, width, depth, stride))
            before = width


def build(settings: Mapping[str, Any], classes: int) -> DeepLab:
    """The model that the `[model]` section of a workload describes, freshly drawn (no weights loaded)."""
    model = DeepLab(
        build_backbone(settings),
        classes,
        settings["head_width"],
        settings["low_width"],
        settings["rates"],
        settings["dropout"],
    )
    for child_name, child in model.named_children():
        if child_name != "backbone":
            initialise(child)
    return model


def build_backbone(settings: Mapping[str, Any]) -> Backbone:
    """The backbone of the same section, freshly drawn."""
    name, stride = settings["backbone"], settings["output_stride"]
    if name == "narrow":
        return ResNet(NarrowResNet(settings["widths"], settings["blocks"]), stride)
    return ResNet(getattr(torchvision.models, name)(weights=None), stride)


def training_flops(settings: Mapping[str, Any], classes: int, crop: int) -> int:
    """FLOPs of one training image, forward and backward, as the layers of the model ask for them: counted
    without a device, so that the way in which one computes them does not count."""
    with torch.device("meta"):
        model, images = build(settings, classes), torch.empty(2, 3, crop, crop)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):  # the counter counts nothing of it, at length
            model.set_submodule(name, nn.Identity())
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return counter.get_total_flops() // 2


def initialise(module: nn.Module) -> None:
    """Kaiming normal (fan-in) for convolutions, zero for biases; batch norm keeps weight 1 and bias 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def dilate(backbone: nn.Module, output_stride: int) -> None:
    """Turn the strides of the last stages into dilation, so that layer4 has `output_stride` (8 or 16).

    As torchvision's `replace_stride_with_dilation`, which knows bottlenecks only: the first block of a stage
    keeps the dilation of the stage before it, the others take the new one.
    """
    dilation = 1
    for name, stride in (("layer3", 16), ("layer4", 32)):
        if stride <= output_stride:
            continue
        before, dilation = dilation, dilation * 2
        for number, block in enumerate(getattr(backbone, name)):
            for conv in (module for module in block.modules() if isinstance(module, nn.Conv2d)):
                conv.stride = (1, 1)
                if conv.kernel_size == (3, 3):
                    rate = before if number == 0 and conv is _first_spatial(block) else dilation
                    conv.dilation = conv.padding = (rate, rate)


def _first_spatial(block: nn.Module) -> nn.Module:
    """The 3x3 convolution of a block that carried the stride, so comes before the new dilation."""
    return block.get_submodule("conv1" if isinstance(block, BasicBlock) else "conv2")


def conv_bn(channels: int, width: int, kernel: int, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; the size stays."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        Conv2d(channels, width, kernel, padding=padding, dilation=dilation, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def separable(channels: int, width: int, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3x3, then pointwise, each with batch norm and ReLU."""
    depthwise = conv_bn(channels, channels, 3, dilation, groups=channels)
    return nn.Sequential(depthwise, conv_bn(channels, width, 1))


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, corners not aligned."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def _stage(before: int, width: int, depth: int, stride: int) -> nn.Sequential:
    downsample = None
    if stride != 1 or before != width:
        downsample = nn.Sequential(Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    blocks = [BasicBlock(before, width, stride, downsample)]
    blocks += [BasicBlock(width, width) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


def _out_channels(stage: nn.Module) -> int:
    return [module for module in stage.modules() if isinstance(module, nn.BatchNorm2d)][-1].num_features
