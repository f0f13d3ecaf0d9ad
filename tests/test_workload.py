"""Workloads: those that are shipped, and what no workload may say."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bench import BenchError, recipe, scenes, workload


def own(folder: Path, lines: str) -> str:
    path = folder / "mine.toml"
    path.write_text(f"extends = 'mini'\ntitle = 'mine'\n{lines}\n")
    return str(path)


@pytest.mark.parametrize("name", workload.shipped())
def test_a_shipped_workload_loads_and_reads_back_equal(name: str) -> None:
    setting = workload.load(name)
    assert setting.name == name
    assert setting.title
    assert workload.parse(workload.dump(setting), "workload.toml") == setting


def test_mini_labels_what_the_scenes_show() -> None:
    data = workload.load("mini").values["data"]
    assert data["source"] == "scenes"
    assert tuple(data["classes"]) == scenes.CLASSES


def test_mini_has_a_multiple_of_256_images_so_that_every_batch_size_sees_as_many() -> None:
    assert workload.load("mini").values["data"]["train_images"] % 256 == 0


@pytest.mark.parametrize("name", workload.shipped())
def test_the_largest_batch_of_the_ladder_gives_each_replica_two_images(name: str) -> None:
    batch = max(rung.values["optim"]["batch_size"] for rung in recipe.ladder())
    assert batch >= 2 * workload.load(name).values["train"]["replicas"]


def test_a_workload_of_ones_own_may_extend_a_shipped_one(tmp_path: Path) -> None:
    setting = workload.load(own(tmp_path, "[train]\nepochs = 3\n[evaluation]\ntarget_miou = 20"))
    assert setting.changes == {"train.epochs": 3, "evaluation.target_miou": 20.0}
    assert setting.values["model"] == workload.load("mini").values["model"]
    assert setting.fingerprint != workload.load("mini").fingerprint


def test_the_system_of_a_run_is_the_workloads_with_the_recipes_over_it(tmp_path: Path) -> None:
    path = tmp_path / "fast.toml"
    path.write_text("extends = '07-no-sync-bn'\ntitle = 'fast'\n[system]\nprecision = 'bf16'\n")
    mini = workload.load("mini")
    plain = {"precision": "float32", "channels_last": True, "compile": False}
    assert workload.system(mini, recipe.load("07")) == plain
    assert workload.system(mini, recipe.load(path)) == {**plain, "precision": "bf16"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("[model]\nbackbone = 'resnet18'", "[model] widths = [16, 16, 32, 48, 64] does not go with backbone"),
        (
            "[model]\nbackbone = 'resnet50'\nwidths = []",
            "[model] blocks = [1, 1, 1, 1] does not go with backbone",
        ),
        ("[model]\nwidths = []", '[model] widths = [] does not go with backbone = "narrow"'),
        ("[model]\nblocks = []", '[model] blocks = [] does not go with backbone = "narrow"'),
        (
            "[model]\nwidths = [1, 2, 3]",
            "[model] widths is [1, 2, 3]; it must be a list of 0 or 5 whole numbers",
        ),
        ("[model]\nrates = [1, 2]", "[model] rates is [1, 2]; it must be a list of 3 whole numbers above 0"),
        ("[model]\noutput_stride = 32", "[model] output_stride is 32; it must be 8 or 16"),
        ("[data]\nval_images = 0", '[data] source = "scenes" needs train_images and val_images above 0'),
        ("[data]\nsource = 'camvid'", '[data] source is "camvid"; it must be "scenes", "folder" or "noise"'),
        ("[train]\nepochs = 0", "[train] epochs is 0; it must be a whole number, 1 or more"),
        ("[data]\nleave_out = ['a']", '[data] leave_out does not go with source = "scenes"'),
        ("[data]\nsource = 'noise'\ntrain_images = 0", '[data] source = "noise" needs train_images and'),
        ("[data]\nleave_out = ['a', 'a']", "it must be a list of 0 to 1000 different names in quotes"),
        ("[train]\nthreads = -1", "[train] threads is -1; it must be a whole number, 0 or more"),
        (
            "[evaluation]\ntarget_miou = 101",
            "[evaluation] target_miou is 101; it must be a number from 0 to 100",
        ),
        ("[evaluation]\nprotocol = 'ms'", '[evaluation] protocol is "ms"; it must be "squash" or "native"'),
        ("adopted = true\n[train]\nepochs = 2", 'unknown key "adopted" before the first section'),
        ("[optim]\nlr = 1", "unknown section [optim]"),
    ],
)
def test_what_no_workload_may_say_is_refused(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(BenchError) as caught:
        workload.load(own(tmp_path, lines))
    assert message in caught.value.message
    assert "mine.toml" in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.hint


def test_a_wide_backbone_on_a_folder_is_fine(tmp_path: Path) -> None:
    data = "[data]\nsource = 'folder'\ntrain_images = 0\nval_images = 0\n"
    model = "[model]\nbackbone = 'resnet50'\nwidths = []\nblocks = []"
    assert workload.load(own(tmp_path, data + model)).values["data"]["train_images"] == 0


def test_a_workload_that_states_no_system_is_incomplete(tmp_path: Path) -> None:
    text = workload.dump(workload.load("mini")).split("[system]")[0]
    kept = [line for line in text.splitlines() if not line.startswith(("name", "fingerprint"))]
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(kept))
    with pytest.raises(BenchError, match=r"lacks \[system\] precision, channels_last"):
        workload.load(path)


def test_an_unknown_workload_is_refused_with_those_there_are() -> None:
    with pytest.raises(BenchError, match='there is no workload "camvit"') as caught:
        workload.load("camvit")
    assert "mini" in caught.value.hint
    with pytest.raises(BenchError) as caught:
        workload.load("minni")
    assert 'did you mean "mini"?' in caught.value.hint


# The full-size ones, value by value


def test_ade20k_is_the_blogs_setting() -> None:
    values = workload.load("ade20k").values
    data, train, evaluation = values["data"], values["train"], values["evaluation"]
    assert (len(data["classes"]), data["train_images"], data["val_images"]) == (150, 20_210 - 4, 2000)
    assert data["classes"][:3] + data["classes"][-1:] == ["wall", "building", "sky", "flag"]
    assert sorted(data["leave_out"]) == [f"ADE_train_{number:08}" for number in (1701, 3020, 8455, 13508)]
    assert (train["crop"], train["epochs"], train["replicas"]) == (512, 127, 8)
    assert 127 * data["train_images"] // 16 == 160_385  # the 160k iterations of the baseline
    assert (evaluation["protocol"], evaluation["target_miou"]) == ("squash", 44.17)
    assert evaluation["evaluations"] == 32
    assert values["system"] == {"precision": "fp16", "channels_last": False, "compile": False}
    assert [values["model"][key] for key in ("backbone", "output_stride", "head_width", "low_width")] == [
        "resnet101", 8, 512, 48,
    ]  # fmt: skip
    assert (values["model"]["rates"], values["model"]["dropout"]) == ([12, 24, 36], 0.1)
    assert (values["model"]["v1"], values["model"]["v2"]) == ("IMAGENET1K_V1", "IMAGENET1K_V2")


@pytest.mark.parametrize(("name", "digest"), [("ade20k", "f9dbd8a75a0722c9"), ("camvid", "97a8b28971b6f83c")])
def test_classes_stand_in_the_order_of_their_labels(name: str, digest: str) -> None:
    """ADE20K: mmsegmentation's names, in its order (compared in test_peers.py); CamVid: SegNet's."""
    names = "\n".join(workload.load(name).values["data"]["classes"])
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == digest


def test_the_other_full_size_workloads_differ_from_it_in_what_they_are_for() -> None:
    assert workload.load("ade20k-native").changes == {"evaluation.protocol": "native"}
    fake = workload.load("ade20k-fake")
    assert fake.values["data"]["source"] == "noise"
    assert {key.split(".")[0] for key in fake.changes} == {"data", "train", "evaluation"}
    assert fake.values["data"]["train_images"] % 256 == 0


def test_camvid_starts_from_the_packaged_weights_and_its_pictures_are_not_shown() -> None:
    values, mini = workload.load("camvid").values, workload.load("mini").values
    assert (len(values["data"]["classes"]), values["data"]["redistributable"]) == (11, False)
    assert (values["data"]["train_images"], values["data"]["val_images"]) == (367, 101)
    for key in ("backbone", "widths", "blocks", "v1", "v2"):
        assert values["model"][key] == mini["model"][key]


@pytest.mark.parametrize("name", ["ade20k", "ade20k-native", "ade20k-fake"])
def test_the_half_precision_of_ade20k_is_refused_on_a_cpu(name: str) -> None:
    with pytest.raises(BenchError, match='ade20k.*precision = "fp16" is a half precision'):
        recipe.check(recipe.load("00"), workload.load(name), "cpu")
