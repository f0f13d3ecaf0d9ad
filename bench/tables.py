"""From records to the rows of the report: ladders, their contrasts, and tables of text.

A `Ladder` holds what may share a table: records below one folder, of one workload, scored by one protocol.
Nothing is averaged that should not be: what did not finish or has other values is set aside by name.
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from bench import BenchError, assets, recipe, record, stats, workload
from bench.recipe import Recipe
from bench.workload import Workload

# The blog's fourth step: rungs that change nothing else are one step together.
BATCH_KEYS = frozenset({"optim.batch_size", "optim.lr", "replicas.sync_bn"})
MUST_AGREE = (*(name for name in record.MUST_MATCH if name != "protocol"), "git_commit", "git_dirty")
LEGEND = 60  # classes that a figure has a legend for
HARDWARE = (
    ("gpu_busy_pct", "GPU busy"),
    ("gpu_sm_active_pct", "SM active"),
    ("gpu_memory_peak_mib", "GPU memory"),
    ("gpu_power_w", "power"),
    ("gpu_energy_kj", "energy"),
    ("gpu_throttled_s", "throttled"),
    ("mfu_pct", "MFU"),
    ("mfu_nominal_pct", "MFU (nominal)"),
    ("cpu_busy_pct", "CPU busy"),
    ("memory_peak_mib", "memory"),
    ("data_wait_pct", "data wait"),
    ("step_ms_p50", "step, median"),
    ("step_ms_p95", "step, p95"),
    ("telemetry_cost_pct", "telemetry"),
)


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
        """The rung's number where its name begins with one, else its name."""
        head = self.name.split("-")[0]
        return head if head.isdigit() else self.name

    @property
    def label(self) -> str:
        """Number and title, for people."""
        return f"{self.short} {self.recipe.title}"

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

    def folded(self, end: Rung) -> list[Rung]:
        """The rungs of the step that ends with `end`."""
        steps, chain = self.steps(), self.chain()
        start = chain.index(steps[steps.index(end) - 1]) + 1 if end is not steps[0] else 0
        return chain[start : chain.index(end) + 1]


@dataclass(frozen=True)
class Table:
    """Text in columns, of which `numbers` are set right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = False

    def markdown(self) -> str:
        rule = ["---", *["---:" if self.numbers else "---"] * (len(self.head) - 1)]
        lines = [self.head, rule, *([cell.replace("|", "\\|") for cell in row] for row in self.rows)]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@dataclass(frozen=True)
class Contrasts:
    """Every comparison of a report, by (rung, other rung): points of mIoU, and time to train as a ratio."""

    miou: Mapping[tuple[str, str], stats.Contrast]
    time: Mapping[tuple[str, str], stats.Contrast]
    miou_spread: stats.Spread
    time_spread: stats.Spread


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
    recipes: dict[str, Recipe] = {}
    finished: dict[str, list[Run]] = {}
    setting: Workload | None = None
    for folder, run in runs:
        label = folder.relative_to(root).as_posix()
        try:
            rung = recipe.parse(_text(folder / "recipe.toml"), str(folder / "recipe.toml"))
            said = workload.parse(_text(folder / "workload.toml"), str(folder / "workload.toml"))
            evals = record.read_evals(folder)
        except BenchError as error:
            left_out.append((label, error.message.replace(f"{root}/", "")))
            continue
        stated = (run["recipe"], run["recipe_fingerprint"], run["workload_fingerprint"])
        if stated != (rung.name, rung.fingerprint, said.fingerprint):
            left_out.append((label, "its run.json does not fit its recipe.toml and workload.toml"))
            continue
        why = _why_not(run, evals)
        if why:
            left_out.append((label, why))
            continue
        setting = setting or said
        recipes.setdefault(rung.fingerprint, rung)
        finished.setdefault(rung.name, []).append(Run(folder, run, evals))
    if setting is None:
        return None, left_out
    rungs = []
    for kept in finished.values():
        alike = _alike(kept, root, left_out)
        rungs.append(Rung(recipes[alike[0].record["recipe_fingerprint"]], tuple(alike)))
    parents = {known.name: known.parent for known in (*recipe.ladder(), *(rung.recipe for rung in rungs))}
    rungs.sort(key=lambda rung: _line(rung.name, parents)[::-1])
    adopted = tuple(rung for rung in rungs if rung.recipe.adopted) or tuple(rungs)
    aside = tuple(rung for rung in rungs if rung not in adopted)
    protocol = str(runs[0][1]["protocol"])
    return Ladder(root, setting, protocol, adopted, aside, parents, tuple(left_out)), left_out


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BenchError(f"{path} cannot be read: {error.__class__.__name__}", "run it again") from error


def _why_not(run: Mapping[str, Any], evals: Sequence[Mapping[str, Any]]) -> str:
    """Why a run is not averaged; empty where it is."""
    if run["status"] != "finished":
        return f"{run['status']}: {run['error']}" if run["error"] else str(run["status"])
    if run["final_miou"] is None or not run["train_s"]:
        return "finished, but its record holds no final mIoU or no time"
    return "" if evals else "finished, but its evals.jsonl is missing or empty"


def _alike(runs: Sequence[Run], root: Path, left_out: list[tuple[str, str]]) -> list[Run]:
    """The runs whose recipe has the values that most of them have."""
    common = _mode(run.record["recipe_fingerprint"] for run in runs)
    for run in runs:
        if run.record["recipe_fingerprint"] != common:
            label = run.folder.relative_to(root).as_posix()
            left_out.append((label, "its recipe has other values than most of its seeds'"))
    return [run for run in runs if run.record["recipe_fingerprint"] == common]


def _mode(values: Iterable[Any]) -> Any:
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


# ---- comparing ---------------------------------------------------------------------------------


def changed(rung: Recipe, before: Recipe) -> dict[str, tuple[Any, Any]]:
    """Key -> (value before, value now) of what differs; None where one does not state it."""
    return {key: (old, new) for key, old, new in recipe.difference(before, rung)}


def judge(ladder: Ladder) -> Contrasts:
    """All contrasts the report shows, as one family for mIoU and one for time."""
    pairs = _pairs(ladder)
    miou = {rung.name: rung.values("final_miou") for rung in ladder.all}
    time = {rung.name: rung.values("train_s") for rung in ladder.all}
    logs = [[math.log(seconds) for seconds in time[rung.name]] for rung in ladder.rungs]
    spread, pace = stats.pool([miou[rung.name] for rung in ladder.rungs]), stats.pool(logs)
    gained = stats.differences([(miou[a], miou[b]) for a, b in pairs], spread)
    spent = stats.ratios([(time[a], time[b]) for a, b in pairs], pace)
    return Contrasts(
        dict(zip(pairs, gained, strict=True)), dict(zip(pairs, spent, strict=True)), spread, pace
    )


def _pairs(ladder: Ladder) -> list[tuple[str, str]]:
    steps = ladder.steps()
    pairs = [(rung, other(rung)) for other in (ladder.predecessor, ladder.base) for rung in ladder.all]
    pairs += [(step, before) for before, step in zip(steps, steps[1:], strict=False)]
    return list(dict.fromkeys((rung.name, other.name) for rung, other in pairs if other is not None))


def disagreements(ladder: Ladder) -> dict[str, list[str]]:
    """Rung name -> what its records have otherwise than most of the table's, in words."""
    runs = [run for rung in ladder.all for run in rung.runs]
    usual = {name: _mode(_plain(run.record[name]) for run in runs) for name in MUST_AGREE}
    found: dict[str, list[str]] = {}
    for rung in ladder.all:
        for name in MUST_AGREE:
            others = {_plain(run.record[name]) for run in rung.runs} - {usual[name]}
            for other in sorted(others):
                found.setdefault(rung.name, []).append(f"{name} {other} (most: {usual[name]})")
    return found


def _plain(value: Any) -> str:
    return "unknown" if value is None else str(value)


def mixed(ladder: Ladder, pair: tuple[str, str]) -> bool:
    """Whether the records of two rungs come from machines that may not be compared."""
    runs = [run for rung in ladder.all if rung.name in pair for run in rung.runs]
    fields = [name for name in record.MUST_MATCH if name != "protocol"]
    return any(len({_plain(run.record[name]) for run in runs}) > 1 for name in fields)


# ---- the tables --------------------------------------------------------------------------------


def quality(ladder: Ladder, found: Contrasts, rungs: Sequence[Rung]) -> Table:
    """mIoU a rung, against its predecessor and against the lowest rung."""
    told = published(ladder)
    differ = disagreements(ladder)
    head = ["rung", "changes", "mIoU, points", "Δ to the predecessor", f"Δ to {_lowest(ladder)}"]
    rows = []
    for rung in rungs:
        row = [
            f"{rung.name}{' †' if rung.name in differ else ''}",
            _changes(ladder, rung),
            spread(rung.values("final_miou"), len(rung.runs)),
            _gain(found, rung, ladder.predecessor(rung), ladder.parents[rung.name]),
            _gain(found, rung, ladder.base(rung), ladder.chain()[0].name),
        ]
        if told:
            row.append(_published(told["rungs"].get(rung.name, {})))
        rows.append(row)
    return Table([*head, "published"] if told else head, rows)


def scores(ladder: Ladder) -> Table:
    """What else the last evaluation said, mean over seeds, and the best evaluation's mIoU."""
    shown = (
        ("final_miou_official", "mIoU, absent as 0"),
        ("final_pixel_accuracy", "pixel accuracy"),
        ("final_mean_accuracy", "mean accuracy"),
        ("best_miou", "mIoU of the best evaluation"),
    )
    head = ["rung", *(title for _, title in shown)]
    rows = [
        [rung.name, *(spread(rung.values(name), len(rung.runs)) for name, _ in shown)] for rung in ladder.all
    ]
    return Table(head, rows)


def others(ladder: Ladder) -> Table | None:
    """What was published for other recipes of the family; None where nothing was."""
    told = published(ladder)
    if not told or "others" not in told:
        return None
    head = ["published elsewhere", "mIoU, points", "final or best", "source", "note"]
    rows = [
        [each["name"], _published(each), each["scored"], each["source"], each["note"] or "–"]
        for each in told["others"]
    ]
    return Table(head, rows)


def pace(ladder: Ladder, found: Contrasts, rungs: Sequence[Rung], target: float | None) -> Table:
    """Time to train a rung, against its predecessor and the lowest rung; throughput; time to the target,
    where there is one."""
    size, unit = clock_unit([s for rung in ladder.all for s in rung.values("train_s")])
    head = [
        "rung",
        f"time to train, {unit}",
        "× the predecessor",
        f"× {_lowest(ladder)}",
        "img/s",
        *([] if target is None else [f"time to {target:g} mIoU, {unit}"]),
        f"wall, {unit}",
    ]
    rows = [
        [
            rung.name,
            spread([s / size for s in rung.values("train_s")], len(rung.runs)),
            _ratio(ladder, found, rung, ladder.predecessor(rung), ladder.parents[rung.name]),
            _ratio(ladder, found, rung, ladder.base(rung), ladder.chain()[0].name),
            number(rung.mean("images_per_s")),
            *([] if target is None else [reached(rung, target, size)]),
            number(None if (wall := rung.mean("wall_s")) is None else wall / size),
        ]
        for rung in rungs
    ]
    return Table(head, rows)


def hardware(ladder: Ladder) -> tuple[Table, list[str]]:
    """Means over train time, and why columns are left out."""
    shown = [(name, title) for name, title in HARDWARE if any(rung.values(name) for rung in ladder.all)]
    missing = [(name, title) for name, title in HARDWARE if (name, title) not in shown]
    head = ["rung", *(f"{title}, {record.FIELD[name].unit}" for name, title in shown)]
    rows = [[rung.name, *(number(rung.mean(name)) for name, _ in shown)] for rung in ladder.all]
    reasons: dict[str, list[str]] = {}
    for name, title in missing:
        reasons.setdefault(_reason(ladder, name), []).append(title)
    notes = [f"{', '.join(titles)}: {reason}." for reason, titles in reasons.items()]
    return Table(head, rows, numbers=True), notes


def _reason(ladder: Ladder, field: str) -> str:
    said = [(run.record["unmeasured"] or {}).get(field) for rung in ladder.all for run in rung.runs]
    known = sorted({str(reason).rstrip(".") for reason in said if reason})
    return "; ".join(known) or "not measured"


def blog(ladder: Ladder, found: Contrasts) -> Table:
    """The blog's own table: the baseline and its steps, each against the one before."""
    steps = ladder.steps()
    told = published(ladder)
    size, unit = clock_unit([s for rung in ladder.all for s in rung.values("train_s")])
    head = ["step", "mIoU, points", "Δ mIoU", f"time to train, {unit}", "× the step before"]
    rows = []
    for before, step in zip([None, *steps], steps, strict=False):
        row = [
            step_title(ladder, step),
            number(step.mean("final_miou"), 2),
            _gain(found, step, before, before.name if before else None),
            spread([s / size for s in step.values("train_s")], len(step.runs)),
            _ratio(ladder, found, step, before, before.name if before else None),
        ]
        if told:
            gain = told.get("steps", {}).get(step.name)
            row.append("–" if gain is None else signed(gain))
        rows.append(row)
    return Table([*head, "Δ published"] if told else head, rows)


def step_title(ladder: Ladder, end: Rung) -> str:
    """What the step is called; folded rungs are "increase the batch size"."""
    rungs = ladder.folded(end)
    if len(rungs) == 1 or end is ladder.steps()[0]:
        return end.label
    return f"{rungs[0].short} to {end.short} increase the batch size"


def classes(ladder: Ladder) -> Table:
    """IoU of each class at the end, mean over seeds; a class that never occurs has none."""
    rungs = ladder.all
    names = list(ladder.workload.values["data"]["classes"])
    rows = [["mIoU", *(number(rung.mean("final_miou"), 1) for rung in rungs)]]
    for place, name in enumerate(names, start=1):
        seen = [[_iou(run, name) for run in rung.runs] for rung in rungs]
        known = [[iou for iou in values if iou is not None] for values in seen]
        title = name if len(names) <= LEGEND else f"{place} {name}"  # the figure has no room for them
        rows.append([title, *(number(fmean(values) if values else None, 1) for values in known)])
    return Table(["class", *(rung.short for rung in rungs)], rows, numbers=True)


def _iou(run: Run, name: str) -> float | None:
    return (run.record["per_class_iou"] or {}).get(name)


def machine(ladder: Ladder) -> Table:
    """The machine that most of the records name."""
    runs = [run for rung in ladder.all for run in rung.runs]
    rows = []
    for field in record.FIELDS:
        if field.group == "machine":
            values = list(dict.fromkeys(_plain(run.record[field.name]) for run in runs))
            if values != ["unknown"]:
                rows.append([field.name, ", ".join(values)])
    return Table(["", "machine"], rows)


def provenance(ladder: Ladder) -> Table:
    """Where each rung's numbers come from."""
    rows = []
    for rung in ladder.all:
        commits = dict.fromkeys(
            f"{_plain(run.record['git_commit'])[:10]}{' (dirty)' if run.record['git_dirty'] else ''}"
            for run in rung.runs
        )
        days = sorted(str(run.record["started_at"])[:10] for run in rung.runs)
        seeds = ", ".join(str(run.record["seed"]) for run in rung.runs)
        versions = dict.fromkeys(_plain(run.record["segbench_version"]) for run in rung.runs)
        span = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
        made = rung.recipe.fingerprint
        rows.append([rung.name, seeds, ", ".join(commits), ", ".join(versions), made, span])
    return Table(["rung", "seeds", "commit", "segbench", "recipe fingerprint", "measured on (UTC)"], rows)


def published(ladder: Ladder) -> Mapping[str, Any] | None:
    """What others published for this workload under this protocol; None where nobody did."""
    path = assets.folder("recipes") / "published" / f"{ladder.workload.name}.toml"
    if not path.is_file():
        return None
    told = tomllib.loads(path.read_text(encoding="utf-8"))
    return told if told["protocol"] == ladder.protocol else None


# ---- cells -------------------------------------------------------------------------------------


def number(value: float | None, digits: int | None = None) -> str:
    """A number with three significant digits (or `digits` decimals); – where unknown."""
    if value is None or math.isnan(value):
        return "–"
    if digits is None:
        digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:,.{digits}f}".replace("-", "−").replace(",", " ")


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def spread(values: Sequence[float], runs: int) -> str:
    """Mean ± standard deviation (n); `runs` had they all counted."""
    if not values:
        return "–"
    std = stats.deviation(values)
    told = f"(n = {len(values)}{f' of {runs}' if len(values) < runs else ''})"
    return f"{number(fmean(values), 2)} {'' if std is None else f'± {number(std, 2)} '}{told}"


def clock_unit(seconds: Sequence[float]) -> tuple[float, str]:
    """Seconds in the unit that suits the longest of them, and its name."""
    longest = max(seconds, default=0.0)
    return (1.0, "s") if longest < 600 else (60.0, "min") if longest < 3 * 3600 else (3600.0, "h")


def reached(rung: Rung, target: float, size: float) -> str:
    """Median time to the target ± the evaluation interval (k of n); a miss counts as infinite."""
    runs = [run for run in rung.runs if run.timed]
    times = [stats.reach(run.curve("train_s"), target) for run in runs]
    hits = f"({sum(time is not None for time in times)} of {len(times)})"
    middle = stats.median(times)
    if not math.isfinite(middle):
        return f"not reached {hits}" if times else "–"
    gap = fmean(_interval(run) for run in runs)
    return f"{number(middle / size)} ± {number(gap / size)} {hits}"


def _interval(run: Run) -> float:
    """Mean time to train between two evaluations."""
    return float(run.evals[-1]["train_s"]) / len(run.evals)


def _lowest(ladder: Ladder) -> str:
    return f"rung {ladder.chain()[0].short}"


def _changes(ladder: Ladder, rung: Rung) -> str:
    before = ladder.predecessor(rung)
    if before is None:
        return rung.recipe.title
    return ", ".join(
        f"{key.rpartition('.')[2]} {_value(old)} → {_value(new)}"
        for key, (old, new) in changed(rung.recipe, before.recipe).items()
    )


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "unset" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _published(told: Mapping[str, float]) -> str:
    if "miou" not in told:
        return "–"
    std = f" ± {told['std']:.2f}" if "std" in told else ""
    return f"{told['miou']:.2f}{std}" + (f", {told['hours']:g} h" if "hours" in told else "")


def _gain(found: Contrasts, rung: Rung, other: Rung | None, expected: str | None) -> str:
    """Δ mIoU [interval] verdict, against `other`; named where it is not the `expected` one."""
    if other is None:
        return "–"
    contrast = found.miou[rung.name, other.name]
    cell = signed(contrast.delta)
    if contrast.low is None or contrast.high is None:
        cell += f" (no verdict: {contrast.reason})"
    else:
        cell += f" [{signed(contrast.low)}, {signed(contrast.high)}] {_verdict(contrast)}"
        if contrast.verdict == "cannot tell":
            cell += f" (needs {contrast.smallest:.2f})"
    return cell + _except(expected, other)


def _ratio(ladder: Ladder, found: Contrasts, rung: Rung, other: Rung | None, expected: str | None) -> str:
    """Ratio of times [interval] verdict, as `_gain`."""
    if other is None:
        return "–"
    contrast = found.time[rung.name, other.name]
    if math.isnan(contrast.delta):
        return f"– ({contrast.reason})"
    cell = f"{contrast.delta:.2f}"
    if contrast.low is None or contrast.high is None:
        cell += f" (no verdict: {contrast.reason})"
    elif mixed(ladder, (rung.name, other.name)):
        cell += " (no verdict: machines differ)"
    else:
        cell += f" [{contrast.low:.2f}, {contrast.high:.2f}] {_verdict(contrast)}"
        if contrast.verdict == "cannot tell":
            cell += f" (needs {contrast.smallest:.2f})"
    return cell + _except(expected, other)


def _verdict(contrast: stats.Contrast) -> str:
    told = str(contrast.verdict)
    return told if told in ("same", "cannot tell") else f"**{told}**"


def _except(expected: str | None, other: Rung) -> str:
    """Names the other rung where it is not the one that the column's head means."""
    return "" if other.name == expected else f" (to {other.short})"
