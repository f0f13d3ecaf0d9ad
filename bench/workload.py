"""What a recipe is trained on: data, size of the model, crop, epochs, evaluation, replicas, target.

A workload never changes what a recipe says. It also says what the weights that recipes call v1 and v2 are,
and gives the system settings that a ladder starts from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import BenchError, settings
from bench.recipe import SYSTEM, Recipe
from bench.settings import FLAG, LINE, TEXT, Settings, choice, count, counts, dump, names, number

__all__ = [
    "Workload", "check_data", "check_devices", "check_weights", "dump", "load", "parse", "shipped", "system",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Workload(Settings):
    """A resolved workload; `values["data"]["classes"][i]` is the name of label value i + 1, 0 is "other"."""


LATER = {"system.compile": False}  # what every file meant before it could say so
_LABELS = 254  # labels are 8 bit; 0 is "other", and 255 elsewhere means "ignore"
_LEFT_OUT = 1000  # names of pictures

_KIND = settings.Kind(
    word="workload",
    folders=("recipes/workloads",),
    make=Workload,
    header={"extends": TEXT, "title": LINE, "why": TEXT},
    sections={
        "data": {
            "source": choice("scenes", "folder", "noise"),
            "classes": names(1, _LABELS),
            "train_images": count(0),
            "val_images": count(0),
            "leave_out": names(0, _LEFT_OUT),
            "scenes_seed": count(0),
            "in_memory": FLAG,
            "redistributable": FLAG,
        },
        "model": {
            "backbone": choice("narrow", "resnet18", "resnet50", "resnet101"),
            "widths": counts(0, 5),
            "blocks": counts(0, 4),
            "output_stride": choice(8, 16),
            "head_width": count(1),
            "low_width": count(1),
            "rates": counts(3),
            "dropout": number("a number from 0 to below 1", lambda value: 0 <= value < 1),
            "v1": LINE,
            "v2": LINE,
        },
        "train": {
            "crop": count(1),
            "epochs": count(1),
            "replicas": count(1),
            "data_workers": count(0),
            "threads": count(0),
            "at_once": count(1),
        },
        "evaluation": {
            "protocol": choice("squash", "native"),
            "evaluations": count(1),
            "batch_size": count(1),
            "target_miou": number("a number from 0 to 100, in points", lambda value: 0 <= value <= 100),
            "samples": count(0),
        },
        "system": SYSTEM,
    },
    later=LATER,
)


def shipped() -> list[str]:
    """The names of the workloads that travel with segbench."""
    return list(settings.shipped(_KIND))


def load(name_or_path: str | Path) -> Workload:
    """A workload by its shipped name or the path of a file.

    Raises BenchError, one line that names file and key, for whatever a workload must not say.
    """
    workload = settings.load(_KIND, name_or_path)
    _check(workload)
    return workload


def parse(text: str, origin: str) -> Workload:
    """The resolved workload of a run folder, as `dump` wrote it. BenchError: it is none, or was edited."""
    return settings.parse(_KIND, text, origin)


def system(workload: Workload, recipe: Recipe) -> dict[str, Any]:
    """The system settings of a run: the workload's, with what a systems rung changes over them."""
    return {**workload.values["system"], **recipe.values["system"]}


def _check(workload: Workload) -> None:
    """Refuse values that are each allowed and do not fit one another."""
    data, model = workload.values["data"], workload.values["model"]
    narrow = model["backbone"] == "narrow"
    for key, wanted in (
        ("widths", "5 numbers: the stem and 4 stages"),
        ("blocks", "4 numbers: a stage each"),
    ):
        if narrow != bool(model[key]):
            backbone = settings.show(model["backbone"])
            raise BenchError(
                f"{workload.path}: [model] {key} = {model[key]} does not go with backbone = {backbone}",
                f"give {wanted}" if narrow else f"write {key} = []: only the narrow backbone takes it",
            )
    source = data["source"]
    if source != "folder" and not (data["train_images"] and data["val_images"]):
        raise BenchError(
            f'{workload.path}: [data] source = "{source}" needs train_images and val_images above 0',
            "0 means as many as there are in a folder; say how many to make",
        )
    if source != "folder" and data["leave_out"]:
        raise BenchError(
            f'{workload.path}: [data] leave_out does not go with source = "{source}"',
            "write leave_out = []: only pictures of a folder can be left out",
        )


def check_data(workload: Workload, data: Path | None) -> None:
    """BenchError: `data` cannot be the folder of its pictures."""
    if workload.values["data"]["source"] != "folder":
        if data is not None:
            raise BenchError(f"workload {workload.name} makes its own pictures", "leave --data out")
        return
    if data is None:
        raise BenchError(
            f"workload {workload.name} is trained on a folder of pictures",
            "name it with --data DIR; `segbench prepare --help` says how to get ADE20K and CamVid",
        )
    if not data.is_dir():
        raise BenchError(f"there is no folder {data}", "name the folder of the pictures with --data DIR")


def check_devices(workload: Workload, devices: int) -> None:
    """BenchError: so many devices cannot share its replicas equally."""
    replicas = workload.values["train"]["replicas"]
    if replicas % devices:
        fitting = [str(count) for count in range(1, replicas + 1) if replicas % count == 0]
        raise BenchError(
            f"--devices {devices} does not divide the number of replicas of {workload.name}, {replicas}",
            f"use --devices {' or '.join(filter(None, [', '.join(fitting[:-1]), fitting[-1]]))}",
            2,
        )


def check_weights(workload: Workload, weights: Path | None) -> None:
    """BenchError: `weights` cannot hold what its backbone starts from."""
    if weights is None:
        return
    if workload.values["model"]["backbone"] == "narrow":
        raise BenchError(
            f"the weights of workload {workload.name} travel with segbench", "leave --weights out"
        )
    if not weights.exists():
        raise BenchError(
            f"there is no file or folder {weights}", "name what holds torchvision's .pth files with --weights"
        )
