"""From records to ladders: what may share a table, in order, and what is left out by name.

A `Ladder` holds records below one folder, of one workload, scored by one protocol. Nothing is averaged that
should not be: what did not finish, does not agree with itself or has other values is set aside with a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from bench import BenchError, recipe, record, soundness, workload
from bench.recipe import Recipe
from bench.workload import Workload

# The blog's fourth step: rungs that change nothing else are one step together.
BATCH_KEYS = frozenset({"optim.batch_size", "optim.lr", "replicas.sync_bn"})


def shortened(name: str) -> str:
    """The rung's number where its name begins with one, else its name."""
    head = name.split("-")[0]
    return head if head.isdigit() else name


@dataclass(frozen=True)
class Run:
    """One finished run: its folder, its `run.json` and its evaluations."""

    folder: Path
    record: Mapping[str, Any]
    evals: Sequence[Mapping[str, Any]]

    @property
    def timed(self) -> bool:
        """Whether its times count: a resumed run gives no speed verdict."""
        return not self.record["resumed"]

    def curve(self, clock: str) -> list[tuple[float, float]]:
        """(`clock`, mIoU) of each evaluation; `clock` is a column of evals.jsonl."""
        return [(row[clock], row["miou"]) for row in self.evals]


@dataclass(frozen=True)
class Rung:
    """A recipe and its finished runs, ordered by seed."""

    recipe: Recipe
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def short(self) -> str:
        return shortened(self.name)

    @property
    def label(self) -> str:
        """Number and title, for people; the name alone where it has no number."""
        return self.name if self.short == self.name else f"{self.short} {self.recipe.title}"

    @property
    def timed(self) -> list[Run]:
        """The runs whose times count."""
        return [run for run in self.runs if run.timed]

    def values(self, field: str) -> list[float]:
        """The field over the runs, nulls left out; times and speeds only of runs that were not resumed."""
        paced = record.FIELD[field].group in ("time", "speed", "hardware")
        known = (run.record[field] for run in self.runs if run.timed or not paced)
        return [value for value in known if value is not None]

    def mean(self, field: str) -> float | None:
        values = self.values(field)
        return fmean(values) if values else None


@dataclass(frozen=True)
class Ladder:
    """Records that may share a table. `rungs` are adopted, `aside` were tried and not; `parents` maps names.

    `left_out`: (run, why) of what is not averaged.
    """

    root: Path
    workload: Workload
    protocol: str
    rungs: tuple[Rung, ...]
    aside: tuple[Rung, ...]
    parents: Mapping[str, str | None]
    left_out: tuple[tuple[str, str], ...]

    @property
    def scored(self) -> bool:
        """Whether its scores mean anything: those of noise do not."""
        return bool(self.workload.values["data"]["source"] != "noise")

    @property
    def all(self) -> tuple[Rung, ...]:
        return self.rungs + self.aside

    def ancestors(self, rung: Rung) -> list[Rung]:
        """Measured rungs above this one, nearest first."""
        measured = {other.name: other for other in self.all}
        return [measured[name] for name in _line(rung.name, self.parents)[1:] if name in measured]

    def predecessor(self, rung: Rung) -> Rung | None:
        return next(iter(self.ancestors(rung)), None)

    def base(self, rung: Rung) -> Rung | None:
        """The lowest measured rung below this one; None for the lowest itself."""
        return next(reversed(self.ancestors(rung)), None)

    def chain(self) -> list[Rung]:
        """The measured rungs that lead to the last adopted one, in order."""
        last = self.rungs[-1]
        return [*reversed(self.ancestors(last)), last]

    def steps(self) -> list[Rung]:
        """The ends of the blog's steps, the baseline first: rungs that touch only BATCH_KEYS are folded."""
        chain = self.chain()
        ends = chain[:1]
        for before, rung in zip(chain, chain[1:], strict=False):
            if ends[-1] is before and before is not chain[0] and self._batch(before) and self._batch(rung):
                ends.pop()
            ends.append(rung)
        return ends

    def _batch(self, rung: Rung) -> bool:
        before = self.predecessor(rung)
        return before is not None and changed(rung.recipe, before.recipe).keys() <= BATCH_KEYS

    def step(self, end: Rung) -> Step:
        """The step that ends with `end`."""
        steps = self.steps()
        if end is steps[0]:
            return Step(end.label, None, True)
        before = steps[steps.index(end) - 1]
        line = _line(end.name, self.parents)
        first, last = shortened(line[line.index(before.name) - 1]), end.short
        if first == last:
            return Step(end.label, before, True)
        if changed(end.recipe, before.recipe).keys() <= BATCH_KEYS:
            return Step(f"{first} to {last} increase the batch size", before, True)
        return Step(f"{first} to {last} together, against {before.short}", before, False)


@dataclass(frozen=True)
class Step:
    """What a step of the blog's table is called and compared with; `whole`: it is one step, not several of
    which the rungs in between were not measured."""

    title: str
    before: Rung | None
    whole: bool


def changed(rung: Recipe, before: Recipe) -> dict[str, tuple[Any, Any]]:
    """Key -> (value before, value now) of what differs; None where one does not state it."""
    return {key: (old, new) for key, old, new in recipe.difference(before, rung)}


# ---- reading -----------------------------------------------------------------------------------


def read(results: Path) -> list[Ladder]:
    """The ladders below `results`, in a fixed order. BenchError: no finished run among them."""
    found, errors = record.scan(results)
    groups: dict[tuple[str, ...], list[tuple[Path, Mapping[str, Any]]]] = {}
    for folder, run in found:
        root = folder.parent.parent.parent
        same = ("workload", "protocol", "workload_fingerprint", "data_fingerprint")
        key = (str(root), *(str(run[name]) for name in same))
        groups.setdefault(key, []).append((folder, run))
    ladders: list[Ladder] = []
    homeless = [("unreadable", error.message.replace(f"{results}/", "")) for error in errors]
    for runs in groups.values():
        ladder, left_out = _ladder(runs)
        if ladder is None:
            homeless += left_out
        else:
            ladders.append(ladder)
    if not ladders:
        raise _nothing(results, homeless)
    # What has no page of its own is named on all, so that nothing disappears in silence.
    return [replace(ladder, left_out=(*ladder.left_out, *homeless)) for ladder in ladders]


def _nothing(results: Path, left_out: Sequence[tuple[str, str]]) -> BenchError:
    first = f": {left_out[0][0]}, {left_out[0][1]}" if left_out else ""
    more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
    return BenchError(
        f"no finished run below {results}{first}{more}",
        "train with `segbench run`, or name the folder of other records with --results",
    )


def _ladder(
    runs: Sequence[tuple[Path, Mapping[str, Any]]],
) -> tuple[Ladder | None, list[tuple[str, str]]]:
    """One ladder from records that may share a table, None where none finished; what it leaves out."""
    root = runs[0][0].parent.parent.parent
    left_out: list[tuple[str, str]] = []
    finished: dict[str, list[Run]] = {}
    counted: soundness.Counted = {}
    for folder, run in runs:
        name = folder.relative_to(root).as_posix()
        identity = (run["recipe"], run["recipe_fingerprint"])
        why = soundness.exclude(folder, run) or soundness.repeat(name, run, identity, counted)
        if why:
            left_out.append((name, why))
        else:
            finished.setdefault(run["recipe"], []).append(Run(folder, run, record.read_evals(folder)))
    if not finished:
        return None, left_out
    rungs = []
    for several in finished.values():
        alike = _alike(several, root, left_out)
        rungs.append(Rung(recipe.parse(*_saved(alike[0].folder, "recipe")), tuple(alike)))
    setting = workload.parse(*_saved(rungs[0].runs[0].folder, "workload"))
    parents = {known.name: known.parent for known in (*recipe.shipped(), *(rung.recipe for rung in rungs))}
    rungs.sort(key=lambda rung: _line(rung.name, parents)[::-1])
    adopted = tuple(rung for rung in rungs if rung.recipe.adopted) or tuple(rungs)
    aside = tuple(rung for rung in rungs if rung not in adopted)
    protocol = str(runs[0][1]["protocol"])
    return Ladder(root, setting, protocol, adopted, aside, parents, tuple(left_out)), left_out


def _saved(folder: Path, kind: str) -> tuple[str, str]:
    """Text and path of the settings that a run left; `soundness` has read them."""
    path = folder / f"{kind}.toml"
    return path.read_text(encoding="utf-8"), str(path)


def _alike(runs: Sequence[Run], root: Path, left_out: list[tuple[str, str]]) -> list[Run]:
    """The runs whose recipe has the values that most of them have."""
    common = most_frequent(run.record["recipe_fingerprint"] for run in runs)
    for run in runs:
        if run.record["recipe_fingerprint"] != common:
            label = run.folder.relative_to(root).as_posix()
            left_out.append((label, "its recipe has other values than most of its seeds'"))
    return [run for run in runs if run.record["recipe_fingerprint"] == common]


def most_frequent(values: Iterable[Any]) -> Any:
    """The most frequent value; the first of equals."""
    return Counter(values).most_common(1)[0][0]


def _line(name: str, parents: Mapping[str, str | None]) -> list[str]:
    """The rung, its parent, and so on down; a cycle is cut."""
    line: list[str] = []
    at: str | None = name
    while at is not None and at not in line:
        line.append(at)
        at = parents.get(at)
    return line
