"""`segbench check --against`: is the checkout slower than another commit, both measured here and now?

The number of pairs is fixed beforehand and the evidence looked at once, so there are no looks to correct for.
A pair of processes gives one ratio, that of its median steps; Student's t over the pairs gives the interval.
A pair that is lost is not replaced: then nothing is judged.
"""

from __future__ import annotations

import contextlib
import functools
import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench import (
    CANNOT_JUDGE,
    STOPS,
    BenchError,
    assets,
    duel,
    machine,
    matrix,
    revision,
    scenes,
    stats,
    verification,
)
from bench.archive import Tell, Watch
from bench.check import Comparison, Family, LeftOut, Rung
from bench.duel import Pair, Task
from bench.recipe import LADDERS, Recipe
from bench.revision import Revision
from bench.settings import Settings, differing, show
from bench.workload import Workload

ALPHA = 0.01  # chance of a false SLOWER, in all rows together, of a revision that is slower by the tolerance
PAIRS = 16
SEE = "see whether `segbench run` trains there"


@dataclass(frozen=True)
class Question:
    """What both revisions train, and on what."""

    recipes: Sequence[Recipe]
    workload: Workload
    data: Path | None = None
    weights: Path | None = None
    device: str = "auto"

    def task(self, recipe: Recipe, device: str) -> Task:
        """The same as a probe takes it: a shipped file by its name, since each revision has its own."""
        data, weights = (None if path is None else str(path.resolve()) for path in (self.data, self.weights))
        names = _call(recipe, *LADDERS.values()), _call(self.workload, "recipes/workloads")
        return Task(*names, data, weights, device, tuple(machine.usable_cores()) if device == "cpu" else ())


def compare(
    ref: str,
    question: Question,
    watch: Watch,
    *,
    pairs: int = PAIRS,
    tolerance: float = stats.TOLERANCE,
    strict: bool = False,
) -> Comparison:
    """Throughput of the checkout that this package lies in, over that of its commit `ref`.

    `watch` sees the progress. Where one of the two cannot be measured, or they do not train the same, the
    comparison says so, and its code is 4. Each of STOPS ends it as Ctrl-C does. BenchError: a wrong option.
    """
    try:
        return _compare(ref, question, watch, pairs, tolerance, strict)
    except BenchError as error:
        if error.code == 2:
            raise
        left_out = (LeftOut("comparison", ".", error.message),)
        family = Family("images_per_s", tolerance, (), stats.pool([]), paired=True)
        return Comparison(ref, "the working tree", strict, (family,), left_out, (), error.hint or SEE)


def _compare(
    ref: str, question: Question, watch: Watch, pairs: int, tolerance: float, strict: bool
) -> Comparison:
    with _stoppable():
        own = revision.here()
        with revision.beside(ref, own, watch) as other:
            device = _prepare(question, watch)
            found = [
                (each.name, _measure(other, own, question.task(each, device), each.name, pairs, watch))
                for each in question.recipes
            ]
            notes = _notes(other, own, [taken[0] for _, taken in found])
    family = judge(question.workload.name, found, tolerance)
    return Comparison(other.name, own.name, strict, (family,), (), notes, "take more pairs: --pairs N")


# ---- measuring ---------------------------------------------------------------------------------


def _prepare(question: Question, watch: Watch) -> str:
    """See that the question can be asked here, have its pictures ready, and say on which device."""
    work, data = question.workload, question.data
    facts = matrix.survey(question.recipes, work, data=data, weights=question.weights, device=question.device)
    stages: dict[str, Tell] = {}

    def tell(what: str, unit: str, done: int, total: int) -> None:
        if what not in stages:  # mostly all is ready, and nothing is told
            stages[what] = watch(what, unit)
        stages[what](done, total)

    values = work.values["data"]
    if values["source"] == "scenes":
        counts = values["train_images"], values["val_images"]
        drawn = functools.partial(tell, "drawing scenes, once", "scenes")
        scenes.ensure(scenes.cache_folder(), *counts, values["scenes_seed"], drawn)
    elif data is not None:
        verification.verify(data, work, functools.partial(tell, "verifying pairs, once", "pairs"))
    return str(facts["device"])


def _measure(other: Revision, own: Revision, task: Task, name: str, pairs: int, watch: Watch) -> list[Pair]:
    """So many pairs, once the first has shown that both sides do the same work."""
    tell, taken = watch(f"{name}, turn by turn", "pairs"), []
    for number in range(pairs):
        tell(number, pairs)
        taken.append(duel.measure(other, own, task, number))
        _check_work(other, taken[0])
    tell(pairs, pairs)
    return taken


def _call(settings: Settings, *folders: str) -> str:
    """The name of a file that is shipped in one of `folders`, the path of another."""
    if settings.path is None or settings.path.parent in map(assets.folder, folders):
        return settings.name
    return str(settings.path.resolve())


def _check_work(other: Revision, pair: Pair) -> None:
    """BenchError, code 4: both sides state a value and it is not the same, so they do not train the same."""
    for kind in ("recipe", "workload"):
        for key, old, new in differing(pair.old[kind], pair.new[kind]):
            if old is not None and new is not None:
                raise BenchError(
                    f"{other.name} trains something else: {key} is {show(old)} there and {show(new)} here",
                    f"name a {kind} that is the same in both, or a file of your own, which both then read",
                    CANNOT_JUDGE,
                )


# ---- judging -----------------------------------------------------------------------------------


def judge(workload: str, found: Sequence[tuple[str, Sequence[Pair]]], tolerance: float) -> Family:
    """A row a recipe and part of its step; their chances of a false SLOWER add up to ALPHA."""
    rows = [(recipe, part, taken) for recipe, taken in found for part in taken[0].old_turns[0]]
    rungs, logs = [], []
    for recipe, part, taken in rows:
        medians, images = [pair.medians(part) for pair in taken], taken[0].new["batch_size"]
        old, new = zip(*((images / old, images / new) for old, new in medians), strict=True)
        ratios = [fast / slow for fast, slow in zip(new, old, strict=True)]
        logs.append([math.log(ratio) for ratio in ratios])
        where = part if len(taken[0].old_turns[0]) > 1 else ""
        contrast = stats.paired(ratios, tolerance, ALPHA / len(rows))
        rungs.append(Rung(workload, recipe, where, old, new, contrast))
    return Family("images_per_s", tolerance, tuple(rungs), stats.pool(logs), paired=True)


def _notes(other: Revision, own: Revision, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """What was compared, and doubts about it."""
    notes = [f"Baseline: {other.name}; results: {own.name}, in {own.root}."]
    if own.commit == other.commit and not own.dirty:
        notes.append("Both are the same commit: a verdict of slower or faster is a false alarm.")
    for name in ("torch", "probe"):
        old, new = pairs[0].old[name], pairs[0].new[name]
        if old != new:
            notes.append(f"The sides differ in {name}: {old} and {new}.")
    alone = {
        f"{key} = {show(old if new is None else new)} ({'baseline' if new is None else 'results'})"
        for pair in pairs
        for kind in ("recipe", "workload")
        for key, old, new in differing(pair.old[kind], pair.new[kind])
    }
    if alone:
        notes.append(f"Stated by one side alone: {', '.join(sorted(alone))}.")
    return tuple(notes)


# ---- being stopped -----------------------------------------------------------------------------


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """All STOPS are taken for Ctrl-C, so that worktree and processes are gone in the end."""
    before = {number: signal.signal(number, _stop) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
