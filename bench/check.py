"""`segbench check`: is what was measured now slower than a baseline, or worse?

Records are sifted, matched, judged. What did not finish, or does not agree with itself, is set aside by name.
A rung is compared where its records and the baseline's have the same values and come from the same machine.
The rungs of a ladder, of one workload and protocol, are one family of `stats`. A check that has compared
nothing is never green.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import CANNOT_JUDGE, REGRESSION, BenchError, record, soundness, stats

BASELINE, RESULTS = "baseline", "results"
# What must agree before two records are of one thing, measured on one machine.
SAME = ("recipe_fingerprint", "workload_fingerprint", "data_fingerprint", *record.MUST_MATCH)
REGRESSIONS = ("slower", "worse")
ABSENT = "no usable record of this rung in the"

Found = tuple[Path, Mapping[str, Any]]  # a folder and its record
Values = tuple[tuple[float, ...], tuple[float, ...]]  # of the baseline, of the results


@dataclass(frozen=True)
class LeftOut:
    """A record that takes no part: `side` is BASELINE or RESULTS, `name` its folder below that. "." is the
    whole side, or the comparison of two revisions."""

    side: str
    name: str
    why: str


@dataclass(frozen=True)
class Rung:
    """One comparison: the values of both sides, a run each, and what they allow one to say.

    `where`: what tells it from another comparison of the same recipe; mostly empty.
    """

    workload: str
    recipe: str
    where: str
    old: tuple[float, ...]
    new: tuple[float, ...]
    contrast: stats.Contrast


@dataclass(frozen=True)
class Family:
    """The rungs of one field of the record, judged together: `images_per_s` by ratios and against a share,
    `final_miou` by differences and against points of mIoU. `limit` is that share or those points.
    `ladder`: what tells its ladder from the comparison's others; empty where it is the only one.
    `paired`: the values are those of pairs of processes (`against`), and the spread is that of their ratios.
    """

    field: str
    limit: float
    rungs: tuple[Rung, ...]
    spread: stats.Spread
    ladder: str = ""
    paired: bool = False

    @property
    def blind(self) -> bool:
        """Whether there is not a single verdict."""
        return len(self.told(None)) == len(self.rungs)

    def told(self, *verdicts: str | None) -> list[Rung]:
        """The rungs with one of these verdicts; None: not judged."""
        return [rung for rung in self.rungs if rung.contrast.verdict in verdicts]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; `notes` are doubts about what was compared, a sentence each. `baseline` and
    `results` are folders, or the names of two revisions. `hint`: what to do where nothing could be judged, if
    it is known."""

    baseline: Path | str
    results: Path | str
    strict: bool
    families: tuple[Family, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    hint: str = ""

    @property
    def code(self) -> int:
        """The exit code: a regression comes first, then what was not judged."""
        if any(family.told(*REGRESSIONS) for family in self.families):
            return REGRESSION
        doubtful = any(family.told(None, "cannot tell") for family in self.families)
        return CANNOT_JUDGE if self.blind or (self.strict and doubtful) else 0

    @property
    def blind(self) -> str:
        """A field of which there is not a single verdict in any ladder; empty where there is none."""
        seeing = {family.field for family in self.families if not family.blind}
        return next((family.field for family in self.families if family.field not in seeing), "")


@dataclass
class _Side:
    """What lies below one folder: (folder, record) of what may be compared, the name of every rung that was
    seen, and what is left out so far."""

    name: str
    root: Path
    runs: list[Found] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)
    left_out: list[LeftOut] = field(default_factory=list)
    counted: soundness.Counted = field(default_factory=dict)

    def leave(self, folder: Path, why: str) -> None:
        self.left_out.append(LeftOut(self.name, folder.relative_to(self.root).as_posix(), why))

    def groups(self, rung: tuple[str, str]) -> dict[tuple[str, ...], list[Found]]:
        """The runs of a rung by what must agree (SAME)."""
        found: dict[tuple[str, ...], list[Found]] = {}
        for folder, run in self.runs:
            if (run["workload"], run["recipe"]) == rung:
                found.setdefault(tuple(_plain(run[name]) for name in SAME), []).append((folder, run))
        return found


@dataclass(frozen=True)
class _Pair:
    """The records of a rung that may be compared; none on either side where `reason` says why not."""

    rung: tuple[str, str]
    where: str = ""
    old: tuple[Mapping[str, Any], ...] = ()
    new: tuple[Mapping[str, Any], ...] = ()
    reason: str = ""


def compare(
    baseline: Path,
    results: Path,
    tolerance: float = stats.TOLERANCE,
    *,
    convergence: bool = False,
    strict: bool = False,
) -> Comparison:
    """Throughput of the records below `results` against those below `baseline`, a verdict a rung.

    `tolerance`: the share of speed within which two rungs count as the same. `convergence`: compare the final
    mIoU, too. `strict`: what cannot be told or judged shows in the code. Folders that are missing or hold
    nothing to compare are no error: the comparison says so, and its code is 4.
    """
    old, new = _sift(BASELINE, baseline, results), _sift(RESULTS, results, baseline)
    _leave_shared(old, new)
    pairs = [pair for rung in sorted(old.seen | new.seen) for pair in _match(rung, old, new)]
    ladders = _ladders(pairs)
    families = [_speed(of, tolerance, name) for name, of in ladders.items()]
    if convergence:
        families += [_quality(of, name) for name, of in ladders.items()]
    left_out = (*old.left_out, *new.left_out)
    return Comparison(baseline, results, strict, tuple(families), left_out, _notes(pairs, families))


# ---- sifting and matching ----------------------------------------------------------------------


def _sift(name: str, root: Path, other: Path) -> _Side:
    """The finished and sound records below `root`, each seed once; not those of the `other` side, where that
    lies within."""
    side = _Side(name, root)
    within = root.resolve() in other.resolve().parents
    folders = list(record.folders(root)) if root.is_dir() else []
    if not folders:
        side.leave(root, f"there is no {'record below' if root.is_dir() else 'folder'} {root}")
    for folder in folders:
        if within and other.resolve() in folder.resolve().parents:
            side.leave(folder, f"it lies in {other}, the other side")
            continue
        try:
            run = record.read(folder)
        except BenchError as error:
            side.seen.add((folder.parent.parent.name, folder.parent.name))
            side.leave(folder, error.message.replace(f"{folder}/", "its "))
            continue
        side.seen.add((run["workload"], run["recipe"]))
        name = folder.relative_to(root).as_posix()
        identity = tuple(_plain(run[each]) for each in ("workload", "recipe", *SAME))
        why = soundness.exclude(folder, run) or soundness.repeat(name, run, identity, side.counted)
        if why:
            side.leave(folder, why)
            continue
        side.runs.append((folder, run))
        if run["resumed"]:
            side.leave(folder, "resumed: its mIoU counts, its speed does not")
    return side


def _leave_shared(old: _Side, new: _Side) -> None:
    """Leave out of the results what the baseline holds, too: of that nothing was measured anew."""
    for folder, run in list(new.runs):
        if any(run == other for _, other in old.runs):
            new.runs.remove((folder, run))
            new.leave(folder, f"the {BASELINE}'s own record: nothing was measured anew")


def _match(rung: tuple[str, str], old: _Side, new: _Side) -> list[_Pair]:
    """The comparisons of a rung: where everything in SAME agrees. What finds no match is left out."""
    olds, news = old.groups(rung), new.groups(rung)
    for side, ours, other, theirs in ((old, olds, new, news), (new, news, old, olds)):
        for key, runs in ours.items():
            if key not in theirs:
                for folder, _ in runs:
                    side.leave(folder, _mismatch(key, theirs, other.name))
    shared = sorted(key for key in olds if key in news)
    if not shared:
        reason = _mismatch(next(iter(news)), olds, BASELINE) if news else _mismatch((), (), RESULTS)
        return [_Pair(rung, reason=reason)]
    differ = [name for name, *values in zip(SAME, *shared, strict=True) if len(set(values)) > 1]
    return [
        _Pair(
            rung,
            ", ".join(f"{name} {key[SAME.index(name)]}" for name in differ),
            tuple(run for _, run in olds[key]),
            tuple(run for _, run in news[key]),
        )
        for key in shared
    ]


def _mismatch(key: tuple[str, ...], others: Iterable[tuple[str, ...]], side: str) -> str:
    """In what a group of records differs from the most similar one of the other side, both values named."""
    gaps = [
        [
            f"{name} {mine} ({side}: {its})"
            for name, mine, its in zip(SAME, key, other, strict=True)
            if mine != its
        ]
        for other in others
    ]
    if not gaps:
        return f"{ABSENT} {side}"
    fewest: list[str] = min(gaps, key=len)
    return ", ".join(fewest)


def _plain(value: Any) -> str:
    return "unknown" if value is None else str(value)


# ---- judging -----------------------------------------------------------------------------------


def _ladders(pairs: Sequence[_Pair]) -> dict[str, list[_Pair]]:
    """The pairs by workload and protocol: what these share has one spread, and is one family. Named by the
    workload, and by the protocol where a workload has two; one alone has no name."""
    protocols: dict[str, list[str]] = {}
    for pair in pairs:
        seen = protocols.setdefault(pair.rung[0], [])
        if pair.old and (protocol := _plain(pair.old[0]["protocol"])) not in seen:
            seen.append(protocol)
    found: dict[str, list[_Pair]] = {}
    for pair in pairs:
        name, known = pair.rung[0], protocols[pair.rung[0]]
        if len(known) > 1:  # a rung that nothing was compared of has none of its own
            name += f" ({_plain(pair.old[0]['protocol']) if pair.old else known[0]})"
        found.setdefault(name, []).append(pair)
    return found if len(found) > 1 else {"": list(pairs)}


def _speed(pairs: Sequence[_Pair], tolerance: float, ladder: str) -> Family:
    """Throughput by its logarithms; resumed runs have none."""
    values = [_values(pair, "images_per_s") for pair in pairs]
    spread = stats.pool([[math.log(value) for value in group] for both in values for group in both])
    contrasts = stats.speedups([(new, old) for old, new in values], spread, tolerance)
    return Family("images_per_s", tolerance, _rungs(pairs, values, contrasts), spread, ladder)


def _quality(pairs: Sequence[_Pair], ladder: str) -> Family:
    """Final mIoU; runs that were resumed count."""
    values = [_values(pair, "final_miou") for pair in pairs]
    spread = stats.pool([group for both in values for group in both])
    contrasts = stats.shortfalls([(new, old) for old, new in values], spread)
    return Family("final_miou", stats.MARGIN, _rungs(pairs, values, contrasts), spread, ladder)


def _values(pair: _Pair, name: str) -> Values:
    paced = record.FIELD[name].group == "speed"
    old, new = (
        tuple(float(run[name]) for run in side if not (paced and run["resumed"]))
        for side in (pair.old, pair.new)
    )
    return old, new


def _rungs(
    pairs: Sequence[_Pair], values: Sequence[Values], contrasts: Sequence[stats.Contrast]
) -> tuple[Rung, ...]:
    return tuple(
        Rung(*pair.rung, pair.where, *both, replace(contrast, reason=pair.reason or contrast.reason))
        for pair, both, contrast in zip(pairs, values, contrasts, strict=True)
    )


# ---- doubts ------------------------------------------------------------------------------------


def _notes(pairs: Sequence[_Pair], families: Sequence[Family]) -> tuple[str, ...]:
    old = [run for pair in pairs for run in pair.old]
    new = [run for pair in pairs for run in pair.new]
    notes = []
    if old and new:
        notes.append(f"Commits: {BASELINE} {_commits(old)}; {RESULTS} {_commits(new)}.")
    hosts = sorted({_plain(run["host"]) for run in (*old, *new)})
    if len(hosts) > 1:
        notes.append(f"Hosts differ, though all that must match does: {', '.join(hosts)}.")
    warned = Counter(name for run in (*old, *new) for name in run["warnings"])
    for name, count in sorted(warned.items()):
        advice = record.WARNINGS.get(name, "Not known to this version.")
        notes.append(f"{name}, {count} of {len(old) + len(new)} records: {advice}")
    notes += [
        f"The rungs' deviations of {' '.join((family.field, family.ladder)).strip()} differ more than chance "
        "explains (Bartlett's test): the pooled one is too wide for some rungs and too narrow for others."
        for family in families
        if family.spread.uneven
    ]
    return tuple(notes)


def _commits(runs: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(_plain(run["git_commit"])[:10] for run in runs))
