"""What tests of a matrix share: recipes for a trainer without torch, a display that keeps what it hears."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from bench import matrix, record, runner
from bench.progress import Progress
from bench.recipe import Recipe
from bench.recipe import load as load_recipe
from bench.workload import load as load_workload
from tests import small

TRAINER = "tests.fake_train"
BASE = load_recipe("00-mmseg-baseline")
MINI = load_workload("mini")
FOLDER = {
    **MINI.values,
    "data": {**MINI.values["data"], "source": "folder", "train_images": 0, "val_images": 0},
}
PHOTOGRAPHS = replace(MINI, values={**FOLDER, "train": {**MINI.values["train"], "at_once": 1}})
SIDE_BY_SIDE = replace(MINI, values={**FOLDER, "train": {**MINI.values["train"], "at_once": 2}})


@functools.cache
def pictures() -> Path:
    """A data set of one pair a split."""
    made = tempfile.mkdtemp()  # a TemporaryDirectory would end with the first process forked from this one
    atexit.register(shutil.rmtree, made)
    return small.pair(Path(made))


class Watcher:
    """A display that keeps what it is told, and calls `act` at each news of a run."""

    def __init__(self, act: Callable[[Progress], None] = lambda _: None) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.prepared: list[tuple[str, int, int]] = []
        self.errors: dict[tuple[str, int], str | None] = {}
        self._act = act

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def prepare(self, what: str, done: int, total: int) -> None:
        self.prepared.append((what.split()[0], done, total))

    def start(self, key: tuple[str, int], resumed: bool) -> None:
        self.events.append(("resume" if resumed else "start", *key))

    def tell(self, key: tuple[str, int], progress: Progress) -> None:
        self._act(progress)

    def end(
        self, key: tuple[str, int], status: str, record: Mapping[str, Any] | None, error: str | None
    ) -> None:
        self.events.append((status, *key))
        self.errors[key] = error

    def skip(self, key: tuple[str, int], status: str, record: Mapping[str, Any] | None) -> None:
        self.events.append(("skip", *key))

    def tick(self) -> None:
        pass

    def stopping(self) -> None:
        self.events.append(("stopping",))


def ladder(*titles: str) -> list[Recipe]:
    """Recipes named as what they do in the fake trainer."""
    return [replace(BASE, name=title, title=title) for title in titles]


def make_plan(recipes: Sequence[Recipe], results: Path, seeds: int = 1, **options: Any) -> list[matrix.Run]:
    return matrix.plan(recipes, PHOTOGRAPHS, seeds, results, data=pictures(), trainer=TRAINER, **options)


def train(
    recipes: Sequence[Recipe], results: Path, seeds: int = 1, watcher: Watcher | None = None, **options: Any
) -> runner.Result:
    plan = make_plan(recipes, results, seeds)
    return runner.run(plan, watcher or Watcher(), trainer=TRAINER, **options)


def folder_of(results: Path, recipe: str, seed: int = 0) -> Path:
    return record.run_folder(results, "mini", recipe, seed)


def statuses(result: runner.Result) -> list[str]:
    return [each.status for each in result.outcomes]


def edit(folder: Path, **values: Any) -> None:
    record.write(folder, {**record.read(folder), **values})


def send(*signals: int) -> Callable[[Progress], None]:
    """Send this process one of the signals at each news of step 7; then the news must come to an end."""
    left = [*signals, *[0] * 300]

    def act(progress: Progress) -> None:
        if progress.step == 7:
            os.kill(os.getpid(), left.pop(0))

    return act
