"""How a network is trained: the recipes, and the ladder that they form.

The base states every value, every other recipe its parent and its diff; the ladder is the chain. `[system]`
is stated by no base: the workload gives it, and a recipe that changes nothing else is a systems rung, which
must keep the mIoU.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench import BenchError, assets, settings
from bench.settings import FLAG, LINE, TEXT, Settings, choice, count, difference, dump, number

__all__ = ["SYSTEM", "Recipe", "check", "difference", "dump", "ladder", "load", "parse", "select", "shipped"]


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """`adopted` is false for what was tried beside the ladder: it is no part of the cumulative sums."""

    adopted: bool = True

    @property
    def is_system(self) -> bool:
        """Whether it changes [system] alone, so that the mIoU must stay what it was."""
        return bool(self.changes) and all(key.startswith("system.") for key in self.changes)


SYSTEM = {"precision": choice("float32", "bf16", "fp16"), "channels_last": FLAG, "compile": FLAG}
LADDERS = {"all": "recipes", "speed/all": "recipes/speed"}  # what to type -> where the ladder lies
_LEARNING_RATE = number("a number above 0", lambda value: value > 0)
_SHARE = number("a number from 0 to 1", lambda value: 0 <= value <= 1)

_KIND = settings.Kind(
    word="recipe",
    folders=tuple(LADDERS.values()),
    make=Recipe,
    header={"extends": TEXT, "title": LINE, "why": TEXT, "adopted": FLAG},
    sections={
        "model": {"weights": choice("v1", "v2", "none")},
        "optim": {
            "optimizer": choice("sgd", "decoupled_sgd"),
            "lr": _LEARNING_RATE,
            "momentum": number("a number from 0 to below 1", lambda value: 0 <= value < 1),
            "weight_decay": number("a number, 0 or more", lambda value: value >= 0),
            "schedule": choice("poly", "cosine"),
            "end_factor": _SHARE,
            "power": number("a number above 0", lambda value: value > 0),
            "batch_size": count(1),
        },
        "replicas": {"sync_bn": FLAG},
        "system": SYSTEM,
    },
    listing="segbench recipes",
    overlays={"system": "the workload"},
)


def load(name_or_path: str | Path) -> Recipe:
    """A recipe by its shipped name, the unambiguous beginning of one ("07"), or the path of a file.

    Raises BenchError, one line that names file and key, for whatever a recipe must not say.
    """
    return settings.load(_KIND, name_or_path)


def parse(text: str, origin: str) -> Recipe:
    """The resolved recipe of a run folder, as `dump` wrote it. BenchError: it is none, or was edited."""
    return settings.parse(_KIND, text, origin)


def ladder(folder: Path | None = None) -> list[Recipe]:
    """All recipes in `folder` (that of the first ladder), parents before children, otherwise by name."""
    folder = assets.folder(LADDERS["all"]) if folder is None else folder
    waiting = [load(path) for path in settings.files_in(folder).values()]
    if not waiting:
        raise BenchError(f"there are no recipes in {folder}", "name a folder that holds NN-name.toml files")
    placed = []
    while waiting:
        ahead = {recipe.name for recipe in waiting}
        placed.append(next(recipe for recipe in waiting if recipe.parent not in ahead))
        waiting.remove(placed[-1])
    return placed


@functools.cache
def shipped() -> tuple[Recipe, ...]:
    """The recipes of all shipped ladders, parents before children."""
    return tuple(rung for folder in LADDERS.values() for rung in ladder(assets.folder(folder)))


def select(names: Iterable[str]) -> list[Recipe]:
    """The recipes that a command line asks for, in its order and each once; a key of LADDERS is a whole one.

    Raises BenchError for an unknown name, and for two recipes that would share a results folder.
    """
    chosen: dict[str, Recipe] = {}
    for name in names:
        whole = LADDERS.get(name)
        for recipe in ladder(assets.folder(whole)) if whole else [load(name)]:
            namesake = chosen.setdefault(recipe.name, recipe)
            if namesake.fingerprint != recipe.fingerprint:
                raise BenchError(
                    f"{namesake.path} and {recipe.path} have one name, {recipe.name}, and different values",
                    "rename one: the name is the name of the results folder",
                )
    return list(chosen.values())


def check(recipe: Recipe, workload: Settings, device: str | None = None) -> None:
    """Refuse what recipe and workload say together and neither says alone; `device` is "cpu" or "cuda".

    Raises BenchError: a batch that the replicas cannot share equally, batch norm over a single image,
    a half precision on the CPU.
    """
    batch, replicas = recipe.values["optim"]["batch_size"], workload.values["train"]["replicas"]
    if batch % replicas:
        raise BenchError(
            f"{recipe.name}: [optim] batch_size = {batch} does not divide into the {replicas} replicas "
            f"of {workload.name}",
            f"use a multiple of {replicas}, such as {replicas * max(1, round(batch / replicas))}",
        )
    if not recipe.values["replicas"]["sync_bn"] and batch // replicas < 2:
        raise BenchError(
            f"{recipe.name}: [replicas] sync_bn = false leaves one image of batch_size = {batch} to each of "
            f"the {replicas} replicas of {workload.name}, and batch norm needs two",
            f"use a batch_size of {2 * replicas} or more, or sync_bn = true",
        )
    source = recipe if "precision" in recipe.values["system"] else workload
    precision = source.values["system"]["precision"]
    if device == "cpu" and precision != "float32":
        raise BenchError(
            f"{source.name}: [system] precision = {settings.show(precision)} is a half precision, "
            "and a CPU trains in float32",
            "run on a GPU with --device cuda, or "
            + (f"leave {recipe.name} out" if source is recipe else 'state precision = "float32"'),
        )
