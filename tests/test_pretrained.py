"""Weights of a backbone: they arrive whole and unchanged, or the file and what to do are named."""

from __future__ import annotations

import hashlib
import os
import urllib.error
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from bench import BenchError, assets, model, pretrained, workload

SETTINGS = workload.load("mini").values["model"]


def net(seed: int = 0, **changes: Any) -> model.DeepLab:
    torch.manual_seed(seed)
    return model.build({**SETTINGS, "widths": [4, 4, 6, 8, 8], **changes}, 3)


def state(seed: int = 1, **changes: Any) -> dict[str, Tensor]:
    """A backbone with statistics of its own, as a trained one has."""
    found = dict(net(seed, **changes).backbone.state_dict())
    return {name: value + 0.5 if "running" in name else value for name, value in found.items()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where packaged weights lie."""
    monkeypatch.setattr(assets, "folder", lambda name: {"weights": tmp_path}[name])
    return tmp_path


def loaded(
    weights: str = "w", backbone: str = "narrow", place: Path | None = None, **changes: Any
) -> dict[str, Tensor]:
    fresh = net(**changes)
    head = {name: value.clone() for name, value in fresh.state_dict().items() if "backbone" not in name}
    pretrained.load_backbone(fresh, backbone, weights, place)
    assert all(torch.equal(fresh.state_dict()[name], value) for name, value in head.items())
    return fresh.backbone.state_dict()


# Packaged


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_packaged_weights_arrive_unchanged_in_float32(folder: Path, kind: torch.dtype) -> None:
    stored = {name: value.to(kind) if value.is_floating_point() else value for name, value in state().items()}
    torch.save(stored, folder / "w.pt")
    found = loaded()
    assert all(torch.equal(found[name], value.to(found[name].dtype)) for name, value in stored.items())
    assert found["conv1.weight"].dtype == torch.float32


def test_weights_that_are_not_packaged_are_refused_with_those_that_are(folder: Path) -> None:
    for name in ("mini-v2", "mini-v1"):
        torch.save(state(), folder / f"{name}.pt")
    with pytest.raises(BenchError, match="there are no packaged weights mini-v3") as caught:
        loaded("mini-v3")
    assert "mini-v1, mini-v2" in caught.value.hint


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def cut(path: Path) -> None:
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:-500])


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut off": cut,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a model"),
    "an odd pickle": lambda path: path.write_bytes(b"\x80\x02a"),
    "a list": lambda path: torch.save([1, 2], path),
    "code": lambda path: torch.save({"conv1.weight": Trap(path.parent / "sprung")}, path),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_refused_by_name(folder: Path, kind: str) -> None:
    DAMAGE[kind](folder / "w.pt")
    with pytest.raises(BenchError, match=f"{folder / 'w.pt'} is damaged") as caught:
        loaded()
    assert caught.value.hint
    assert not (folder / "sprung").exists()


@pytest.mark.parametrize(
    "changes",
    [{"widths": [4, 4, 6, 8, 10]}, {"blocks": [2, 1, 1, 1]}, {"blocks": [1, 1, 1, 2]}],
    ids=["wider", "deeper", "deeper at the end"],
)
def test_weights_of_another_backbone_are_refused_whichever_is_larger(
    folder: Path, changes: dict[str, Any]
) -> None:
    torch.save(state(**changes), folder / "w.pt")
    with pytest.raises(BenchError, match="do not fit the backbone: layer") as caught:
        loaded()
    assert "widths and blocks" in caught.value.hint
    torch.save(state(), folder / "w.pt")
    with pytest.raises(BenchError, match="do not fit the backbone: layer"):
        loaded(**changes)


def test_a_file_without_a_layer_is_refused_and_the_model_stays_as_it_was(folder: Path) -> None:
    stored = state()
    del stored["bn1.running_var"]
    torch.save(stored, folder / "w.pt")
    fresh = net()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(BenchError, match=r"bn1.running_var differs \(1 in all\)"):
        pretrained.load_backbone(fresh, "narrow", "w")
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_old_files_without_batch_norms_counters_are_as_good(folder: Path) -> None:
    stored = {name: value for name, value in state().items() if not name.endswith("num_batches_tracked")}
    torch.save(stored, folder / "w.pt")
    found = loaded()
    assert all(torch.equal(found[name], value) for name, value in stored.items())


# Torchvision's


def offer(monkeypatch: pytest.MonkeyPatch, content: dict[str, Tensor], folder: Path) -> str:
    """Make torchvision offer weights V1, whose file is named by its hash; the name of the file."""
    torch.save(content, folder / "offered.pth")
    digest = hashlib.sha256((folder / "offered.pth").read_bytes()).hexdigest()

    class Offer(Enum):
        V1 = f"https://nowhere.invalid/tiny-{digest[:8]}.pth"

        @property
        def url(self) -> str:
            return self.value

    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda backbone: Offer)
    return f"tiny-{digest[:8]}.pth"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision's files lie; there is no network."""

    def offline(url: str, *_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    return tmp_path / "torch/hub/checkpoints"


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "resnet101"])
def test_an_unknown_name_is_refused_with_the_known_ones(hub: Path, backbone: str) -> None:
    with pytest.raises(BenchError, match=f"torchvision has no weights V9 for {backbone}") as caught:
        loaded("V9", backbone)
    assert "IMAGENET1K_V1" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "file"),
    [("IMAGENET1K_V1", "resnet101-63fe2227.pth"), ("IMAGENET1K_V2", "resnet101-cd907fc2.pth")],
)
def test_without_a_network_the_error_names_the_file_and_where_to_put_it(
    hub: Path, name: str, file: str
) -> None:
    with pytest.raises(BenchError, match=f"{file} cannot be had: .*Name or service") as caught:
        loaded(name, "resnet101")
    assert file in caught.value.hint
    assert str(hub) in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"bogus", b"\x80\x02a"])
def test_a_file_that_is_not_what_its_name_says_is_refused(hub: Path, content: bytes) -> None:
    hub.mkdir(parents=True)
    path = hub / "resnet101-cd907fc2.pth"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=f"{path} is not what its name says") as caught:
        loaded("IMAGENET1K_V2", "resnet101")
    assert "delete" in caught.value.hint


def test_a_good_file_under_another_ones_name_is_refused(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1 renamed to version 2 fits, loads and would be measured."""
    name = offer(monkeypatch, state(), tmp_path)
    hub.mkdir(parents=True)
    torch.save(state(seed=2), hub / name)
    with pytest.raises(BenchError, match="is not what its name says"):
        loaded("V1", "resnet18")


def test_a_file_that_lies_there_is_loaded_without_its_classifier(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = {"fc.weight": torch.ones(10, 8), "fc.bias": torch.ones(10)}
    name = offer(monkeypatch, {**state(), **classifier}, tmp_path)
    hub.mkdir(parents=True)
    (tmp_path / "offered.pth").rename(hub / name)
    found = loaded("V1", "resnet18")
    assert all(torch.equal(found[key], value) for key, value in state().items())


def test_a_file_is_fetched_once(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, fetched = offer(monkeypatch, state(), tmp_path), []

    def fetch(url: str, path: str, prefix: str, progress: bool) -> None:
        fetched.append((url, prefix))
        (tmp_path / "offered.pth").rename(path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        assert torch.equal(loaded("V1", "resnet18")["conv1.weight"], state()["conv1.weight"])
    assert fetched == [(f"https://nowhere.invalid/{name}", name[5:13])]


def test_a_file_or_its_folder_may_be_named_and_torchs_cache_is_left_alone(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = offer(monkeypatch, state(), tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "offered.pth").rename(tmp_path / "mine" / name)
    for place in (tmp_path / "mine", tmp_path / "mine" / name):
        assert torch.equal(loaded("V1", "resnet18", place)["conv1.weight"], state()["conv1.weight"])
    assert not hub.exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("empty", "empty holds no tiny-"),
        ("other.pth", "other.pth is not tiny-"),
        ("nowhere", "nowhere is not there, so neither is tiny-"),
    ],
)
def test_weights_that_are_not_where_they_are_said_to_be_are_not_fetched(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, message: str
) -> None:
    name = offer(monkeypatch, state(), tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.pth").touch()
    with pytest.raises(BenchError, match=message) as caught:
        loaded("V1", "resnet18", tmp_path / place)
    assert f"https://nowhere.invalid/{name}" in caught.value.hint
    assert not hub.exists()


def test_weights_of_another_architecture_are_refused(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = offer(monkeypatch, state(blocks=[2, 1, 1, 1]), tmp_path)
    (tmp_path / "offered.pth").rename(tmp_path / name)
    with pytest.raises(BenchError, match="weights V1 do not fit the backbone: layer1.1"):
        loaded("V1", "resnet18", tmp_path)


def test_the_full_size_backbones_take_torchvisions_own_state(tmp_path: Path) -> None:
    """Every name and shape that torchvision's files hold, for each backbone of the workloads."""
    for backbone in ("resnet18", "resnet50", "resnet101"):
        settings = {**workload.load("ade20k").values["model"], "backbone": backbone}
        with torch.device("meta"):
            ours = model.build(settings, 150).backbone.state_dict()
            theirs = getattr(torchvision.models, backbone)().state_dict()
        kept = {name: value.shape for name, value in theirs.items() if not name.startswith("fc.")}
        assert {name: value.shape for name, value in ours.items()} == kept
