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


def load_backbone(model: DeepLab, backbone: str, weights: str) -> None:
    """Fill the backbone of `model`: with packaged weights for `narrow`, else torchvision's ("IMAGENET1K_V2").

    BenchError: no such weights, a damaged file, or shapes of another backbone.
    """
    state = _packaged(weights) if backbone == "narrow" else _from_torchvision(backbone, weights)
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


def _from_torchvision(backbone: str, weights: str) -> dict[str, Tensor]:
    known = torchvision.models.get_model_weights(backbone)
    try:
        chosen = known[weights]
    except KeyError:
        names = ", ".join(entry.name for entry in known)
        raise BenchError(f"torchvision has no weights {weights} for {backbone}", f"it has: {names}") from None
    path = Path(torch.hub.get_dir()) / "checkpoints" / chosen.url.rsplit("/", 1)[-1]
    prefix = path.stem.rpartition("-")[2]  # torchvision names a file by its SHA-256
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(chosen.url, str(path), prefix, progress=False)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise BenchError(
            f"weights {weights} of {backbone} cannot be had: {error}",
            f"fetch {chosen.url} and put it into {path.parent}",
        ) from error
    if not digest.startswith(prefix):  # torch would load what lies there unseen
        raise BenchError(f"{path} is not what its name says: SHA-256 {digest[:16]}...", "delete the file")
    return dict(torch.load(path, map_location="cpu", weights_only=True))
