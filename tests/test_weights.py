"""The packaged weights fit, are two, and say what they should; the task they come from can be drawn again."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import assets, model, pretrained, workload
from bench.evaluate import Validation
from bench.model import DeepLab
from scripts import collages, make_weights

NAMES = ("mini-v1", "mini-v2")
FILES = [assets.folder("weights") / f"{name}.pt" for name in NAMES]
SETTINGS = workload.load("mini").values["model"]


@pytest.fixture
def fresh() -> DeepLab:
    torch.manual_seed(0)
    return model.build(SETTINGS, len(collages.CLASSES))


@pytest.fixture(scope="module")
def drawn() -> collages.Collages:
    return collages.Collages(5, "training", 60)


def norms(net: DeepLab) -> list[float]:
    """Of each convolution of the backbone."""
    return [convolution.weight.norm().item() for convolution, _ in make_weights.layers(net.backbone)]


# The files


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_file_holds_the_backbone_in_half_precision_and_nothing_else(path: Path, fresh: DeepLab) -> None:
    state = torch.load(path, weights_only=True)
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in fresh.backbone.state_dict().items()
    }
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert {state[name].dtype for name in state.keys() - counters} == {torch.float16}


def test_both_files_take_at_most_two_megabytes() -> None:
    assert sum(path.stat().st_size for path in FILES) <= 2_000_000


@pytest.mark.parametrize("name", NAMES)
def test_the_workload_starts_from_the_weights_and_computes_finite_values(name: str, fresh: DeepLab) -> None:
    before = copy.deepcopy(fresh.backbone.state_dict())
    pretrained.load_backbone(fresh, SETTINGS["backbone"], name)
    assert not torch.equal(before["conv1.weight"], fresh.backbone.state_dict()["conv1.weight"])
    images = torch.randn(2, 3, 48, 48)
    assert fresh.eval()(images).isfinite().all()
    assert fresh.train()(images).isfinite().all()


def test_v1_and_v2_are_what_the_workload_asks_for_and_differ_in_every_convolution() -> None:
    assert (SETTINGS["v1"], SETTINGS["v2"]) == NAMES
    one, two = (torch.load(path, weights_only=True) for path in FILES)
    assert all(not torch.equal(one[name], two[name]) for name in one if one[name].ndim == 4)


@pytest.mark.parametrize("name", NAMES)
def test_convolutions_have_the_norm_of_an_initialisation(name: str, fresh: DeepLab) -> None:
    initial = norms(fresh)
    pretrained.load_backbone(fresh, SETTINGS["backbone"], name)
    assert norms(fresh) == pytest.approx(initial, rel=0.15)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_running_statistics_are_those_of_a_trained_network(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    variances = torch.cat([value.float() for name, value in state.items() if name.endswith("running_var")])
    assert variances.isfinite().all()
    assert variances.min() >= 0
    assert variances.std() > 0


# Their making


def test_restoring_norms_keeps_the_function(fresh: DeepLab) -> None:
    images = torch.randn(4, 3, 48, 48)
    with torch.no_grad():
        for factor, (convolution, norm) in enumerate(make_weights.layers(fresh.backbone), start=1):
            convolution.weight *= 0.5 * factor
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
    for _ in range(30):  # running statistics settle
        fresh(images)
    before = fresh.eval()(images)
    restored = copy.deepcopy(fresh)
    make_weights.restore_norms(restored.backbone)
    assert norms(restored) != pytest.approx(norms(fresh), rel=0.1)
    torch.testing.assert_close(restored(images), before, atol=1e-4, rtol=0)


def test_restored_norms_are_those_of_kaiming(fresh: DeepLab) -> None:
    with torch.no_grad():
        for convolution, _ in make_weights.layers(fresh.backbone):
            convolution.weight *= 7
    make_weights.restore_norms(fresh.backbone)
    expected = [
        (2 * convolution.out_channels) ** 0.5 for convolution, _ in make_weights.layers(fresh.backbone)
    ]
    assert norms(fresh) == pytest.approx(expected)


@pytest.mark.parametrize("plan", make_weights.PLANS.values(), ids=make_weights.PLANS)
def test_a_plan_rises_to_its_learning_rate_and_falls_to_almost_none(plan: make_weights.Plan) -> None:
    rates = [plan.learning_rate(step) for step in range(plan.steps)]
    assert max(rates) == pytest.approx(plan.lr)
    assert rates.index(max(rates)) <= plan.warm_up
    assert 0 < rates[-1] < plan.lr / 100
    assert sorted(rates[plan.warm_up :], reverse=True) == rates[plan.warm_up :]


def test_a_short_training_learns_and_comes_out_the_same_twice(drawn: collages.Collages) -> None:
    plan = make_weights.Plan(steps=make_weights.AVERAGE_EVERY, batch_size=4, average=0.5)
    held_out = Validation(drawn, "squash", make_weights.CROP, 64)
    one, two = (make_weights.train("test", plan, drawn, held_out).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    torch.manual_seed(plan.seed)
    start = model.build(SETTINGS, len(collages.CLASSES)).state_dict()
    assert not torch.equal(start["classify.weight"], one["classify.weight"])


# Collages


def test_a_collage_depends_on_seed_split_and_index_alone() -> None:
    keys = [(0, "training", 0), (0, "training", 1), (0, "validation", 0), (1, "training", 0)]
    first = [collages.draw(*key) for key in keys]
    again = [collages.draw(*key) for key in reversed(keys)][::-1]
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one[0], two[0])
        assert np.array_equal(one[1], two[1])
    assert len({image.tobytes() for image, _ in first}) == len(keys)


def test_a_picture_and_its_labels_have_one_size_and_every_pixel_a_class(drawn: collages.Collages) -> None:
    for index in range(len(drawn)):
        image, label = drawn.pair(index)
        assert (image.dtype, label.dtype, image.shape) == (np.uint8, np.uint8, (*label.shape, 4))
        assert label.max() < len(collages.CLASSES)


def test_every_class_is_drawn(drawn: collages.Collages) -> None:
    labels = [label for _, label in drawn.kept or ()]
    found = np.unique(np.stack(labels))
    assert found.tolist() == list(range(len(collages.CLASSES)))


def test_colour_says_nothing_about_the_class(drawn: collages.Collages) -> None:
    means = {}
    for name in ("plain", "leafy"):
        number = collages.CLASSES.index(name)
        pixels = [image[label == number, :3] for image, label in drawn.kept or ()]
        means[name] = np.concatenate(pixels).mean(0)
    assert np.abs(means["plain"] - means["leafy"]).max() < 30
