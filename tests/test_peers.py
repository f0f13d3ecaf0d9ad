"""The peers: model, loss, metric, sizes and schedules are those of independent implementations.

They are the optional extra `peers`, which neither a run nor another test needs.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from bench import evaluate, model, optim, recipe
from bench.dataset import IGNORE
from bench.replicas import slice_losses
from bench.transform import MEAN, STD

if find_spec("mmseg") is None:
    pytest.skip("mmsegmentation is not installed: pip install -e '.[peers]'", allow_module_level=True)

# Nothing that is compared here needs compiled operations, which mmcv-lite lacks, or a library to draw with.
for name in ("mmcv._ext", "mmcv.ops", "cv2"):
    sys.modules[name] = MagicMock(__spec__=None, __path__=[], __version__="4.0.0")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchmetrics.classification as torchmetrics
    from mmcv.image.geometric import rescale_size
    from mmengine.optim import CosineAnnealingLR, PolyLR
    from mmseg.evaluation import IoUMetric
    from mmseg.models.backbones import ResNet
    from mmseg.models.decode_heads import DepthwiseSeparableASPPHead
    from mmseg.models.losses import CrossEntropyLoss

pytestmark = pytest.mark.filterwarnings("ignore:``build_loss`` would be deprecated")  # their own call

CLASSES = 150
LOW, HIGH = {"resnet18": 64}, {"resnet18": 512}  # the others': 256 and 2048


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


# The model

SETTINGS = {
    "output_stride": 8,
    "head_width": 512,
    "low_width": 48,
    "rates": [12, 24, 36],
    "dropout": 0.1,
}
# Our convolutions with batch norm, and what mmsegmentation calls them.
UNITS = {
    "pool": "image_pool.1",
    "point": "aspp_modules.0",
    "atrous.0.0": "aspp_modules.1.depthwise_conv",
    "atrous.0.1": "aspp_modules.1.pointwise_conv",
    "atrous.1.0": "aspp_modules.2.depthwise_conv",
    "atrous.1.1": "aspp_modules.2.pointwise_conv",
    "atrous.2.0": "aspp_modules.3.depthwise_conv",
    "atrous.2.1": "aspp_modules.3.pointwise_conv",
    "project": "bottleneck",
    "low": "c1_bottleneck",
    "fuse.0.0": "sep_bottleneck.0.depthwise_conv",
    "fuse.0.1": "sep_bottleneck.0.pointwise_conv",
    "fuse.1.0": "sep_bottleneck.1.depthwise_conv",
    "fuse.1.1": "sep_bottleneck.1.pointwise_conv",
}
NAMES = {
    **{f"{ours}.0.": f"{theirs}.conv." for ours, theirs in UNITS.items()},
    **{f"{ours}.1.": f"{theirs}.bn." for ours, theirs in UNITS.items()},
    "classify.": "conv_seg.",
}


@torch.no_grad()
def build(backbone: str, **changes: Any) -> model.DeepLab:
    """Our model, whose batch norms have weights, biases and running statistics of their own."""
    torch.manual_seed(0)
    net = model.build({**SETTINGS, "backbone": backbone, **changes}, CLASSES)
    nn.init.normal_(net.classify.bias)
    for name, layer in net.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            ends_a_block = name.endswith("bn2" if backbone == "resnet18" else "bn3")
            nn.init.uniform_(layer.weight, 0.5, 1.5).mul_(0.2 if ends_a_block else 1)  # or sums would grow
            nn.init.normal_(layer.bias, std=0.2)
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return net.eval()


def their_name(ours: str) -> str:
    (prefix,) = [prefix for prefix in NAMES if ours.startswith(prefix)]
    return ours.replace(prefix, NAMES[prefix], 1)


def their_head(net: model.DeepLab, backbone: str, dropout: float = 0.1) -> nn.Module:
    """mmsegmentation's head with the weights of ours."""
    head = DepthwiseSeparableASPPHead(
        in_channels=HIGH.get(backbone, 2048),
        channels=512,
        dilations=(1, 12, 24, 36),
        c1_in_channels=LOW.get(backbone, 256),
        c1_channels=48,
        num_classes=CLASSES,
        norm_cfg={"type": "BN"},
        align_corners=False,
        dropout_ratio=dropout,
        loss_decode={"type": "CrossEntropyLoss", "avg_non_ignore": True},
    ).to(net.classify.weight.dtype)
    ours = {name: value for name, value in net.state_dict().items() if not name.startswith("backbone.")}
    head.load_state_dict({their_name(name): value for name, value in ours.items()}, strict=True)
    return head.eval()


def torchvisions(net: model.DeepLab, backbone: str, output_stride: int) -> Callable[[Tensor], list[Tensor]]:
    """The two taps of torchvision's own dilated ResNet with the weights of ours."""
    dilated = [False, output_stride == 8, True]
    whole = getattr(torchvision.models, backbone)(replace_stride_with_dilation=dilated)
    missing, unknown = whole.load_state_dict(net.backbone.state_dict(), strict=False)
    assert (missing, unknown) == (["fc.weight", "fc.bias"], [])
    nodes = ["layer1", "layer4"]
    taps = create_feature_extractor(whole.eval(), nodes)
    return lambda images: [taps(images)[node] for node in nodes]


def mmsegmentations(
    net: model.DeepLab, backbone: str, output_stride: int, training: bool = False
) -> Callable[[Tensor], list[Tensor]]:
    """The two taps of mmsegmentation's dilated ResNet with the weights of ours."""
    strides, dilations = {8: ((1, 2, 1, 1), (1, 1, 2, 4)), 16: ((1, 2, 2, 1), (1, 1, 1, 2))}[output_stride]
    theirs = ResNet(
        depth=int(backbone.removeprefix("resnet")),
        strides=strides,
        dilations=dilations,
        out_indices=(0, 3),
        contract_dilation=True,
    )
    theirs.load_state_dict(net.backbone.state_dict(), strict=True)
    theirs.to(net.classify.weight.dtype).train(training)  # the last returns nothing
    return theirs


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("peer", [torchvisions, mmsegmentations])
@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
@torch.inference_mode()
def test_the_taps_of_the_backbone_are_theirs(backbone: str, peer: Any, output_stride: int) -> None:
    net = build(backbone, output_stride=output_stride, head_width=8)
    images = torch.randn(2, 3, 96, 64)
    for ours, theirs in zip(net.backbone(images), peer(net, backbone, output_stride)(images), strict=True):
        assert ours.std() > 0.1
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(128, 128), (160, 96), (65, 97)])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet101"])
@torch.inference_mode()
def test_logits_are_mmsegmentations(backbone: str, size: tuple[int, int]) -> None:
    net = build(backbone)
    images = torch.randn(2, 3, *size)
    taps = net.backbone if backbone == "resnet18" else torchvisions(net, backbone, 8)
    theirs = their_head(net, backbone).predict(taps(images), [{"img_shape": size}], {})
    ours = net(images)
    assert ours.shape == (2, CLASSES, *size)
    assert ours.std() > 0.1
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_logits_are_mmsegmentations_to_all_digits_of_a_double() -> None:
    net = build("resnet50").double()
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    taps = mmsegmentations(net, "resnet50", 8)(images)
    theirs = their_head(net, "resnet50").predict(taps, [{"img_shape": (96, 64)}], {})
    assert torch.allclose(net(images), theirs, rtol=0, atol=1e-12)


def test_a_training_step_is_mmsegmentations() -> None:
    """Batch statistics, loss, every gradient and the running statistics; dropout is off on both sides."""
    net = build("resnet50").double().train()
    body = mmsegmentations(net, "resnet50", 8, training=True)
    head = their_head(net, "resnet50", dropout=0).train()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (2, 64, 96))
    labels[0, :20] = IGNORE
    loss = slice_losses(net(images), labels, 1)[0]
    loss.backward()
    samples = [SimpleNamespace(gt_sem_seg=SimpleNamespace(data=label[None])) for label in labels]
    theirs = head.loss_by_feat(head(body(images)), samples)["loss_ce"]
    theirs.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-9)
    for name, ours in net.named_parameters():
        part, place = (body, name[9:]) if name.startswith("backbone.") else (head, their_name(name))
        difference = (ours.grad - part.get_parameter(place).grad).norm()
        assert difference <= 1e-8 * ours.grad.norm(), name
    for name, value in net.named_buffers():
        part, place = (body, name[9:]) if name.startswith("backbone.") else (head, their_name(name))
        assert torch.allclose(value, part.get_buffer(place), rtol=1e-10), name


@torch.inference_mode()
def test_a_dropout_mask_does_what_their_dropout_does() -> None:
    net = build("resnet18").train()
    head = their_head(net, "resnet18").train()
    images, seen = torch.randn(2, 3, 64, 64), []
    head.dropout.register_forward_hook(lambda _, inputs, output: seen.append(output))
    theirs = head.predict(net.backbone(images), [{"img_shape": (64, 64)}], {})
    keep = seen[0].abs().sum((2, 3)) > 0
    assert 0.03 < 1 - keep.float().mean() < 0.2
    assert torch.allclose(net(images, keep), theirs, rtol=0, atol=1e-4)


# The loss


def test_our_loss_is_theirs_over_valid_pixels_only() -> None:
    """mmsegmentation divides by all pixels unless told not to: ignored ones then shrink loss and gradient."""
    torch.manual_seed(0)
    logits = torch.randn(4, 7, 9, 11, dtype=torch.float64)
    labels = torch.randint(0, 7, (4, 9, 11))
    labels[torch.rand(labels.shape) < 0.3] = IGNORE
    labels[3] = IGNORE
    with pytest.warns(UserWarning, match="avg_non_ignore"):
        over_all = CrossEntropyLoss()
    over_valid = CrossEntropyLoss(avg_non_ignore=True)
    share = (labels != IGNORE).double().mean().item()
    ours = slice_losses(logits, labels, 1).item()
    assert over_valid(logits, labels, ignore_index=IGNORE).item() == pytest.approx(ours, rel=1e-8)
    assert over_all(logits, labels, ignore_index=IGNORE).item() == pytest.approx(ours * share, rel=1e-8)
    each = [
        over_valid(some, theirs, ignore_index=IGNORE).item()
        for some, theirs in zip(logits.split(1), labels.split(1), strict=True)
    ]
    assert slice_losses(logits, labels, 4).tolist() == pytest.approx(each, rel=1e-8)
    assert each[3] == 0  # nothing valid


# The metric


class Reader(nn.Module):
    """A model whose prediction is the red channel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        red = ((images[:, 0] * STD[0] + MEAN[0]) * 255).round().long()
        return F.one_hot(red, self.classes).movedim(-1, 1).float()


def counted(labels: np.ndarray, predictions: np.ndarray, classes: int) -> Tensor:
    """The confusion matrix that our evaluation counts, a picture at a time."""
    images = torch.from_numpy(predictions)[:, None].expand(-1, 3, -1, -1)
    batches = zip(images.split(1), torch.from_numpy(labels).split(1), strict=True)
    return evaluate.evaluate(Reader(classes), batches, torch.device("cpu"), classes)


def by_pixels(labels: np.ndarray, predictions: np.ndarray, classes: int) -> dict[str, Any]:
    """Every score from the pixels themselves, a class at a time, without a confusion matrix."""
    valid = labels != IGNORE
    there = [valid & (labels == number) for number in range(classes)]
    found = [valid & (predictions == number) for number in range(classes)]
    hits = [(one & other).sum() for one, other in zip(there, found, strict=True)]
    unions = [(one | other).sum() for one, other in zip(there, found, strict=True)]
    iou = [100 * hit / union if union else None for hit, union in zip(hits, unions, strict=True)]
    recall = [100 * hit / one.sum() for hit, one in zip(hits, there, strict=True) if one.any()]
    present = [value for value in iou if value is not None]
    return {
        "miou": sum(present) / max(len(present), 1),
        "miou_official": sum(present) / classes,
        "pixel_accuracy": 100 * (labels == predictions)[valid].sum() / max(valid.sum(), 1),
        "mean_accuracy": sum(recall) / max(len(recall), 1),
        "iou": iou,
    }


def by_mmsegmentation(
    labels: np.ndarray, predictions: np.ndarray, classes: int, times: int = 1
) -> dict[str, Any]:
    """Areas picture by picture, each seen so many `times`; summed in double, where float32 loses pixels."""
    areas = [torch.zeros(classes, dtype=torch.float64) for _ in range(4)]
    for label, prediction in zip(labels, predictions, strict=True):
        pair = torch.from_numpy(prediction).long(), torch.from_numpy(label).long()
        for total, area in zip(areas, IoUMetric.intersect_and_union(*pair, classes, IGNORE), strict=True):
            total += times * area.double()
    found = IoUMetric.total_area_to_metrics(*areas, ["mIoU"])
    return {
        "miou": without_absent(found["IoU"]),
        "miou_official": 100 * np.nan_to_num(found["IoU"]).mean(),
        "pixel_accuracy": without_absent(found["aAcc"]),
        "mean_accuracy": without_absent(found["Acc"]),
        "iou": [None if np.isnan(value) else 100 * value for value in found["IoU"]],
    }


def without_absent(values: np.ndarray) -> float:
    """Their nan-mean in points; ours has 0 where nothing is left, theirs NaN."""
    return 0.0 if np.isnan(values).all() else float(100 * np.nanmean(values))


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, wanted in expected.items():
        if name == "iou":
            for value, other in zip(found[name], wanted, strict=True):
                assert value is other is None or value == pytest.approx(other, rel=1e-12)
        else:
            assert found[name] == pytest.approx(wanted, rel=1e-12), name


Pixels = tuple[np.ndarray, np.ndarray, int]


def pixels(labels: list[int], predictions: list[int], classes: int = 4) -> Pixels:
    """One picture of one row."""
    return np.array([[labels]], np.uint8), np.array([[predictions]], np.uint8), classes


def scattered(seed: int, classes: int, skill: float, ignored: float, shape: tuple[int, ...]) -> Pixels:
    """Noise that is right about some pixels and ignored in others."""
    rng = np.random.default_rng(seed)
    labels = (classes * rng.random(shape) ** 2).astype(np.uint8)  # some classes are rarer
    guesses = rng.integers(0, classes, shape, np.uint8)
    predictions = np.where(rng.random(shape) < skill, labels, guesses)
    labels[rng.random(shape) < ignored] = IGNORE
    return labels, predictions, classes


CASES: dict[str, Pixels] = {
    "noise": scattered(0, 5, 0.0, 0.2, (3, 20, 30)),
    "mostly right": scattered(1, 12, 0.9, 0.1, (4, 33, 17)),
    "150 classes, some absent": scattered(2, 150, 0.4, 0.1, (3, 12, 16)),
    "mostly ignored": scattered(3, 9, 0.5, 0.97, (2, 25, 25)),
    "a class absent from both": pixels([0, 0, 1, 3], [0, 1, 1, 3]),
    "a class only in labels": pixels([0, 0, 1, 2], [0, 1, 1, 1], 3),
    "a class only predicted": pixels([0, 0, 1, 1], [0, 1, 1, 2], 3),
    "a class predicted on ignored pixels only": pixels([0, IGNORE, 1, IGNORE], [0, 2, 0, 1], 3),
    "all ignored": pixels(4 * [IGNORE], [0, 1, 2, 3]),
    "one class only": pixels(4 * [0], 4 * [0], 1),
    "the last class only": pixels(4 * [3], 4 * [3]),
    "one pixel, right": pixels([2], [2]),
    "one pixel, wrong": pixels([2], [1]),
    "one pixel, ignored": pixels([IGNORE], [1]),
    "all right": pixels([0, 1, 2, 3], [0, 1, 2, 3]),
    "all wrong": pixels([0, 1, 2, 3], [1, 2, 3, 0]),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_the_pixels_and_of_mmsegmentation(case: str) -> None:
    found = evaluate.score(counted(*CASES[case]))
    assert_equal(found, by_pixels(*CASES[case]))
    assert_equal(found, by_mmsegmentation(*CASES[case]))


@pytest.mark.parametrize("times", [2**24 + 1, 2**40])
def test_scores_of_huge_counts_are_mmsegmentations(times: int) -> None:
    labels, predictions, classes = CASES["mostly right"]
    found = evaluate.score(times * counted(labels, predictions, classes))
    assert_equal(found, by_mmsegmentation(labels, predictions, classes, times))
    assert_equal(found, by_pixels(labels, predictions, classes))


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][2] > 1])  # theirs needs two
def test_scores_are_those_of_torchmetrics(case: str) -> None:
    """It gives absent classes 0 class by class, and like `miou` leaves them out of its own mean."""
    labels, predictions, classes = CASES[case]
    pair = torch.from_numpy(predictions).long(), torch.from_numpy(labels).long()
    options = {"num_classes": classes, "ignore_index": IGNORE}
    confusion = counted(*CASES[case])
    found = evaluate.score(confusion)
    assert torch.equal(torchmetrics.MulticlassConfusionMatrix(**options)(*pair), confusion)
    each = 100 * torchmetrics.MulticlassJaccardIndex(average=None, **options)(*pair)
    assert [value or 0.0 for value in found["iou"]] == pytest.approx(each.tolist(), rel=1e-6)
    assert found["miou_official"] == pytest.approx(each.mean().item(), rel=1e-6)
    mean = 100 * torchmetrics.MulticlassJaccardIndex(average="macro", **options)(*pair).nan_to_num(0)
    assert found["miou"] == pytest.approx(mean.item(), rel=1e-6)
    accuracy = 100 * torchmetrics.MulticlassAccuracy(average="micro", **options)(*pair)
    assert found["pixel_accuracy"] == pytest.approx(accuracy.item(), rel=1e-6)


# Sizes under `native`

SIZES = [
    (683, 512), (512, 683), (256, 256), (2048, 512), (2049, 512), (3000, 512), (5000, 300), (300, 5000),
    (1, 1), (7, 4000), (1023, 511), (1365, 1024),
]  # fmt: skip


@pytest.mark.parametrize("crop", [64, 512])
def test_native_sizes_are_mmcvs(crop: int) -> None:
    """Its scale (2048, 512), ratio kept: in a panorama of more than 4 to 1 the long side binds."""
    random = np.random.default_rng(0).integers(1, 6000, (5000, 2)).tolist()
    for width, height in (*SIZES, *random):
        expected = rescale_size((width, height), (4 * crop, crop))
        assert evaluate.native_size(width, height, crop) == expected, (width, height)


def test_native_pictures_have_mmcvs_sizes() -> None:
    crop = 16
    for width, height in ((31, 20), (20, 31), (100, 17), (9, 90), (16, 16)):
        pair = np.zeros((height, width, 4), np.uint8), np.zeros((height, width), np.uint8)
        dataset: Any = SimpleNamespace(kept=None, pair=lambda _, pair=pair: pair)
        image, label = evaluate.Validation(dataset, "native", crop, 1).sample(0)
        assert image.shape[1::-1] == rescale_size((width, height), (4 * crop, crop))
        assert label.shape == (height, width)


# Schedules


@pytest.mark.parametrize("steps", [160, 5000])
@pytest.mark.parametrize("rung", ["00-mmseg-baseline", "03-cosine"])
def test_learning_rates_are_mmengines(rung: str, steps: int) -> None:
    """Ours and torch's reach their end one step after the last; mmengine's poly at the last, cosine as ours.

    mmengine computes each rate from the one before, so that rounding adds up.
    """
    settings = recipe.load(rung).values["optim"]
    made = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    if settings["schedule"] == "poly":
        scheduler = PolyLR(made, eta_min=1e-4, power=0.9, begin=0, end=steps + 1, by_epoch=False)
    else:
        scheduler = CosineAnnealingLR(made, T_max=steps, eta_min=0, by_epoch=False)
    for step in range(steps):
        found = optim.learning_rate(settings, step, steps)
        assert found == pytest.approx(made.param_groups[0]["lr"], rel=1e-12)
        made.step()
        scheduler.step()
