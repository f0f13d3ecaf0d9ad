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


def load_backbone(model: DeepLab, backbone: str, weights: str, place: Path | None = None) -> None:
    """Fill the backbone of `model`: with packaged weights for `narrow`, else torchvision's ("IMAGENET1K_V2").

    `place` is the folder or file that torchvision's are in; None: torch's own cache, filled where it lacks
    them. BenchError: no such weights, a damaged file, or shapes of another backbone.
    """
    state = _packaged(weights) if backbone == "narrow" else _from_torchvision(backbone, weights, place)
    state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    found, expected = _shapes(state), _shapes(model.backbone.state_dict())
    wrong = [name for name in expected | found if found.get(name) != expected.get(name)]
    if wrong:
        raise BenchError(
            f"weights {weights} do not fit the backbone: {wrong[0]} differs ({len(wrong)} in all)",
            "set backbone, widths and blocks of the workload to those the weights were made for",
        )
    model.backbone.load_state_dict(state)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Without batch norm's counters, which nothing reads and files from before torch 0.4.1 lack."""
    return {name: value.shape for name, value in state.items() if not name.endswith(".num_batches_tracked")}


def _packaged(weights: str) -> dict[str, Tensor]:
    path = assets.folder("weights") / f"{weights}.pt"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.pt")))
        raise BenchError(f"there are no packaged weights {weights}", f"the narrow backbone has: {known}")
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # damage makes the unpickler stumble in any way it can
        raise BenchError(f"{path} is damaged: {error}", "install segbench again") from error


def _from_torchvision(backbone: str, weights: str, place: Path | None) -> dict[str, Tensor]:
    known = torchvision.models.get_model_weights(backbone)
    try:
        url = known[weights].url
    except KeyError:
        names = ", ".join(entry.name for entry in known)
        raise BenchError(f"torchvision has no weights {weights} for {backbone}", f"it has: {names}") from None
    name = url.rsplit("/", 1)[-1]
    path = _in_cache(url, name) if place is None else _found(place, name, url)
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
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def _found(place: Path, name: str, url: str) -> Path:
    """The file called `name` that `place` is, or that lies in it. BenchError: there is none."""
    path = place / name if place.is_dir() else place
    if path.name != name or not path.is_file():
        what = "holds no" if place.is_dir() else "is not" if place.exists() else "is not there, so neither is"
        raise BenchError(
            f"{place} {what} {name}", f"put it there (from {url}), or name its folder with --weights"
        )
    return path


def _in_cache(url: str, name: str) -> Path:
    """The file in torch's cache ($TORCH_HOME/hub/checkpoints), fetched if it is not there yet.

    BenchError: it cannot be had.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
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
