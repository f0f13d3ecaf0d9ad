"""Weights that a backbone starts from: packaged files, or torchvision's registry."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from bench import BenchError, assets
from bench.model import DeepLab

CLASSIFIERS = "fc.", "classifier."  # what torchvision calls the part that no backbone has


def load_backbone(model: DeepLab, backbone: str, weights: str, place: Path | None = None) -> None:
    """Fill the backbone of `model`: with packaged weights for `narrow`, else torchvision's ("IMAGENET1K_V2").

    `place` is the folder or file that torchvision's are in; None: torch's own cache, filled where it lacks
    them. BenchError: no such weights, a damaged file, or shapes of another backbone.
    """
    state = _packaged(weights) if backbone == "narrow" else _from_torchvision(backbone, weights, place)
    state = {name: value for name, value in state.items() if not name.startswith(CLASSIFIERS)}
    found, expected = _shapes(state), _shapes(model.backbone.state_dict())
    wrong = [name for name in expected | found if found.get(name) != expected.get(name)]
    if wrong:
        raise BenchError(
            f"weights {weights} do not fit the backbone: {wrong[0]} differs ({len(wrong)} in all)",
            "set backbone, widths and blocks of the workload to those the weights were made for",
        )
    model.backbone.load_state_dict(state)


def find(backbone: str, weights: str, place: Path | None = None) -> tuple[str, bool]:
    """Where the file of such weights is to lie, and whether it lies there, whole. Fetches nothing.

    `place` as for `load_backbone`. BenchError: no such weights, none at `place`, or a damaged file.
    """
    if backbone == "narrow":
        return str(_packaged_file(weights)), True
    url, name = _registered(backbone, weights)
    path = _cached(name) if place is None else _found(place, name, url)
    if not path.exists():
        return str(path), False
    _check_digest(path, url)
    return str(path), True


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Without batch norm's counters, which nothing reads and files from before torch 0.4.1 lack."""
    return {name: value.shape for name, value in state.items() if not name.endswith(".num_batches_tracked")}


def _packaged_file(weights: str) -> Path:
    path = assets.folder("weights") / f"{weights}.pt"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.pt")))
        raise BenchError(f"there are no packaged weights {weights}", f"the narrow backbone has: {known}")
    return path


def _packaged(weights: str) -> dict[str, Tensor]:
    path = _packaged_file(weights)
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # damage makes the unpickler stumble in any way it can
        raise BenchError(f"{path} is damaged: {error}", "install segbench again") from error


def _from_torchvision(backbone: str, weights: str, place: Path | None) -> dict[str, Tensor]:
    url, name = _registered(backbone, weights)
    path = _in_cache(url, name) if place is None else _found(place, name, url)
    _check_digest(path, url)
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def _registered(backbone: str, weights: str) -> tuple[str, str]:
    """Where torchvision has them, and the name of the file. BenchError: it has no such weights."""
    known = torchvision.models.get_model_weights(backbone)
    try:
        url = known[weights].url
    except KeyError:
        names = ", ".join(entry.name for entry in known)
        raise BenchError(f"torchvision has no weights {weights} for {backbone}", f"it has: {names}") from None
    return url, url.rsplit("/", 1)[-1]


def _check_digest(path: Path, url: str) -> None:
    """BenchError: the file cannot be read, or is another than its name says."""
    prefix = path.stem.rpartition("-")[2]  # torchvision names a file by its SHA-256
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}", "mend it, or fetch it again") from error
    if not digest.startswith(prefix):  # torch would load what lies there unseen
        raise BenchError(
            f"{path} is not what its name says: its SHA-256 begins {digest[:8]}, not {prefix}",
            f"delete the file and fetch {url} again",
        )


def _found(place: Path, name: str, url: str) -> Path:
    """The file called `name` that `place` is, or that lies in it. BenchError: there is none."""
    path = place / name if place.is_dir() else place
    if path.name != name or not path.is_file():
        what = "holds no" if place.is_dir() else "is not" if place.exists() else "is not there, so neither is"
        raise BenchError(
            f"{place} {what} {name}", f"put it there (from {url}), or name its folder with --weights"
        )
    return path


def _cached(name: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _in_cache(url: str, name: str) -> Path:
    """The file in torch's cache ($TORCH_HOME/hub/checkpoints), fetched if it is not there yet.

    BenchError: it cannot be had.
    """
    path = _cached(name)
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(path), prefix, progress=False)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise BenchError(
            f"weights {name} cannot be had: {error}",
            f"fetch {url} elsewhere and put it into {path.parent}, or name its folder with --weights",
        ) from error
    return path
