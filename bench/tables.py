"""The sheets of the report: a row a rung, each number with n, interval and verdict beside it.

A sheet reads a ladder and its contrasts and judges nothing itself. What others published stands in columns of
its own, which say so.
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from bench import arrival, assets, record, stats
from bench.arrival import Arrival
from bench.contrasts import Contrasts, disagreements, mixed
from bench.ladder import Ladder, Run, Rung, changed
from bench.sheet import Cell, Sheet, clock_unit, figure, number, shown, signed, spread, word

LEGEND = 60  # classes that a figure has a legend for
PUBLISHED = "published, not measured here"
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


# ---- the ladder --------------------------------------------------------------------------------


def verdicts(
    ladder: Ladder, found: Contrasts, arrivals: Mapping[str, Arrival], target: float | None
) -> Sheet:
    """What each rung did, in a row: against its predecessor, and against the target, where there is one."""
    size, unit = clock_unit([s for rung in ladder.all for s in rung.values("train_s")])
    columns = [("rung", "rung"), ("seeds", "seeds"), ("against", "against")]
    columns += [("Δ mIoU, points", "miou_change")] if ladder.scored else []
    columns += [("time to train", "time_ratio")]
    if target is not None:
        columns += [
            (f"time to {target:g} mIoU, {unit}", "time_to_target_train_s"),
            ("final mean above it", "mean_above_target"),
        ]
    rows = []
    for rung in ladder.all:
        before = ladder.predecessor(rung)
        row = [Cell(rung.name + _aside(ladder, rung), {"": rung.name, "adopted": rung in ladder.rungs})]
        row += [Cell(str(len(rung.runs)), {"": len(rung.runs)}), _against(before)]
        if ladder.scored:
            row.append(_miou_verdict(found, rung, before))
        row.append(_time_verdict(ladder, found, rung, before))
        if target is not None:
            row += _target_verdict(arrivals[rung.name], size)
        rows.append(row)
    return Sheet("verdicts", columns, rows)


def _against(before: Rung | None) -> Cell:
    return word(None) if before is None else Cell(before.short, {"": before.name})


def _aside(ladder: Ladder, rung: Rung) -> str:
    return "" if rung in ladder.rungs else " (not adopted)"


def _miou_verdict(found: Contrasts, rung: Rung, before: Rung | None) -> Cell:
    if before is None:
        return word(None)
    contrast = found.miou[rung.name, before.name]
    kept = " (systems rung)" if (rung.name, before.name) in found.kept else ""
    told = f"{signed(contrast.delta)} {_verdict(contrast)}{kept}"
    return Cell(told, {"": contrast.delta, "verdict": contrast.verdict, "reason": contrast.reason})


def _time_verdict(ladder: Ladder, found: Contrasts, rung: Rung, before: Rung | None) -> Cell:
    if before is None:
        return word(None)
    contrast = _fair(ladder, found, rung, before)
    times = "–" if math.isnan(contrast.delta) else f"× {contrast.delta:.2f}"
    known = {"": contrast.delta, "verdict": contrast.verdict, "reason": contrast.reason}
    return Cell(f"{times} {_verdict(contrast)}", known)


def _target_verdict(each: Arrival, size: float) -> list[Cell]:
    mean = each.mean
    time = each.times.get("train_s")
    told = Cell(arrival.short(each, size), {"": time and time.median, "hits": each.hits, "of": each.runs})
    if mean is None:
        return [told, word(None)]
    known = {"p": mean.chance, "verdict": mean.verdict, "reason": mean.reason}
    if mean.chance is None:
        return [told, Cell(f"no verdict: {mean.reason}", known)]
    said = "**yes**" if mean.verdict == "reached" else "not shown"
    return [told, Cell(f"{said} ({arrival.chance(mean.chance)})", known)]


def quality(ladder: Ladder, found: Contrasts) -> Sheet:
    """mIoU a rung, against its predecessor and against the lowest rung."""
    told = published(ladder)
    differ = disagreements(ladder)
    columns = [
        ("rung", "rung"),
        ("changes", "changes"),
        ("mIoU, points", "final_miou"),
        ("Δ to the predecessor", "miou_to_predecessor"),
        (f"Δ to {_lowest(ladder)}", "miou_to_base"),
    ]
    rows = []
    for rung in ladder.all:
        known = {
            "": rung.name,
            "adopted": rung in ladder.rungs,
            "differs": "; ".join(differ.get(rung.name, [])),
        }
        row = [
            Cell(f"{rung.name}{' †' if rung.name in differ else ''}", known),
            word(_changes(ladder, rung)),
            spread(rung.values("final_miou"), len(rung.runs)),
            _gain(found, rung, ladder.predecessor(rung), ladder.parents[rung.name]),
            _gain(found, rung, ladder.base(rung), ladder.chain()[0].name),
        ]
        if told:
            row.append(_published_miou(told["rungs"].get(rung.name, {})))
        rows.append(row)
    return Sheet("quality", [*columns, (PUBLISHED, "published_miou")] if told else columns, rows)


def pace(ladder: Ladder, found: Contrasts) -> Sheet:
    """Time to train a rung, against its predecessor and the lowest rung; throughput; all of the wall time."""
    told = published(ladder)
    size, unit = clock_unit([s for rung in ladder.all for s in rung.values("train_s")])
    columns = [
        ("rung", "rung"),
        (f"time to train, {unit}", "train_s"),
        ("× the predecessor", "time_to_predecessor"),
        (f"× {_lowest(ladder)}", "time_to_base"),
        ("img/s", "images_per_s"),
        (f"wall, {unit}", "wall_s"),
    ]
    # where there are scores, the table of quality marks them
    differ = {} if ladder.scored else disagreements(ladder)
    rows = []
    for rung in ladder.all:
        row = [
            Cell(
                f"{rung.name}{' †' if rung.name in differ else ''}",
                {"": rung.name, "adopted": rung in ladder.rungs},
            ),
            spread(rung.values("train_s"), len(rung.runs), size),
            _ratio(ladder, found, rung, ladder.predecessor(rung), ladder.parents[rung.name]),
            _ratio(ladder, found, rung, ladder.base(rung), ladder.chain()[0].name),
            figure(rung.mean("images_per_s")),
            figure(rung.mean("wall_s"), size=size),
        ]
        if told:
            row.append(_published_pace(told["rungs"].get(rung.name, {})))
        rows.append(row)
    return Sheet("time", [*columns, (PUBLISHED, "published")] if told else columns, rows)


def hardware(ladder: Ladder) -> tuple[Sheet, list[str]]:
    """Means over train time, and why columns are left out."""
    known = [(name, title) for name, title in HARDWARE if any(rung.values(name) for rung in ladder.all)]
    missing = [(name, title) for name, title in HARDWARE if (name, title) not in known]
    columns = [("rung", "rung"), *((f"{title}, {record.FIELD[name].unit}", name) for name, title in known)]
    rows = [[word(rung.name), *(figure(rung.mean(name)) for name, _ in known)] for rung in ladder.all]
    reasons: dict[str, list[str]] = {}
    for name, title in missing:
        reasons.setdefault(_reason(ladder, name), []).append(title)
    notes = [f"{', '.join(titles)}: {reason}." for reason, titles in reasons.items()]
    return Sheet("hardware", columns, rows, numbers=True), notes


def _reason(ladder: Ladder, field: str) -> str:
    said = [(run.record["unmeasured"] or {}).get(field) for rung in ladder.all for run in rung.runs]
    known = sorted({str(reason).rstrip(".") for reason in said if reason})
    return "; ".join(known) or (
        "not measured" if any(rung.timed for rung in ladder.all) else "every run was resumed"
    )


def phases(ladder: Ladder) -> Sheet:
    """Where the seconds went: the phases of the clock, which add up to the wall time."""
    shown_s = ("setup_s", "train_s", "eval_s", "checkpoint_s", "wall_s")
    columns = [("rung", "rung"), *((name, name) for name in shown_s)]
    rows = [[word(rung.name), *(figure(rung.mean(name)) for name in shown_s)] for rung in ladder.all]
    return Sheet("phases", columns, rows, numbers=True)


def blog(ladder: Ladder, found: Contrasts) -> Sheet:
    """The blog's own table: the baseline and its steps, each against the one before."""
    told = published(ladder)
    size, unit = clock_unit([s for rung in ladder.all for s in rung.values("train_s")])
    columns = [
        ("step", "step"),
        ("mIoU, points", "final_miou"),
        ("Δ mIoU", "miou_to_step_before"),
        (f"time to train, {unit}", "train_s"),
        ("× the step before", "time_to_step_before"),
    ]
    rows = []
    for end in ladder.steps():
        step = ladder.step(end)
        row = [
            Cell(step.title, {"": step.title, "rung": end.name, "against": step.before and step.before.name}),
            figure(end.mean("final_miou"), 2),
            _gain(found, end, step.before, step.before.name if step.before else None),
            spread(end.values("train_s"), len(end.runs), size),
            _ratio(ladder, found, end, step.before, step.before.name if step.before else None),
        ]
        if told:
            gain = told.get("steps", {}).get(end.name) if step.whole else None
            row.append(Cell("–" if gain is None else signed(gain), {"": gain}))
        rows.append(row)
    return Sheet("steps", [*columns, (f"Δ {PUBLISHED}", "published_miou")] if told else columns, rows)


# ---- what else was scored ----------------------------------------------------------------------


def scores(ladder: Ladder) -> Sheet:
    """What else the last evaluation said, mean over seeds; the best evaluation's mIoU, and when that was."""
    last = (
        ("final_miou_official", "mIoU, absent as 0"),
        ("final_pixel_accuracy", "pixel accuracy"),
        ("final_mean_accuracy", "mean accuracy"),
    )
    size, unit = clock_unit([s for rung in ladder.all for s in rung.values("train_s")])
    columns = [("rung", "rung"), *((title, name) for name, title in last)]
    columns += [
        ("best evaluation: mIoU", "best_miou"),
        (f"its time to train, {unit}", "time_to_best_train_s"),
    ]
    rows = []
    for rung in ladder.all:
        row = [word(rung.name), *(spread(rung.values(name), len(rung.runs)) for name, _ in last)]
        row += [spread(rung.values("best_miou"), len(rung.runs)), _time_to_best(rung, size)]
        rows.append(row)
    return Sheet("scores", columns, rows)


def _time_to_best(rung: Rung, size: float) -> Cell:
    """Time to train at the best evaluation, the first of equals: another thing than time to the target."""
    times = [max(run.curve("train_s"), key=lambda at: at[1])[0] for run in rung.timed]
    middle = stats.median(times)
    return Cell(number(middle / size), {"": middle, "n": len(times)})


def classes(ladder: Ladder) -> Sheet:
    """IoU of each class at the end, mean over seeds; a class that never occurs has none."""
    names = list(ladder.workload.values["data"]["classes"])
    columns = [("class", "class"), *((rung.short, rung.name) for rung in ladder.all)]
    rows = [[Cell("mIoU", {"": "mIoU"}), *(figure(rung.mean("final_miou"), 1) for rung in ladder.all)]]
    for place, name in enumerate(names, start=1):
        title = name if len(names) <= LEGEND else f"{place} {name}"  # the figure has no room for them
        rows.append([Cell(title, {"": name}), *(figure(class_iou(rung, name), 1) for rung in ladder.all)])
    return Sheet("classes", columns, rows, numbers=True)


def class_iou(rung: Rung, name: str) -> float | None:
    """Mean over the seeds in which the class occurs."""
    known = [iou for run in rung.runs if (iou := (run.record["per_class_iou"] or {}).get(name)) is not None]
    return fmean(known) if known else None


def confusion_pixels(ladder: Ladder, rung: Rung) -> Any:
    """Pixels by label (row) and prediction (column), summed over the seeds; None where no run kept them."""
    names = list(ladder.workload.values["data"]["classes"])
    kept = [matrix for run in rung.runs if (matrix := _pixels(run, names)) is not None]
    return np.sum(kept, axis=0) if kept else None


def _pixels(run: Run, names: Sequence[str]) -> Any:
    try:
        with (run.folder / "confusion.csv").open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        matrix = np.array([[int(count) for count in row[1:]] for row in rows], dtype=np.int64)
    except (OSError, ValueError, OverflowError, csv.Error):
        return None
    fits = head[1:] == list(names) and matrix.shape == (len(names), len(names)) and (matrix >= 0).all()
    return matrix if fits else None


def confused(ladder: Ladder, matrix: Any) -> Sheet:
    """The whole matrix: a row a label."""
    names = list(ladder.workload.values["data"]["classes"])
    columns = [("label", "label"), *((name, name) for name in names)]
    rows = [
        [word(name), *(Cell(str(count), {"": int(count)}) for count in counts)]
        for name, counts in zip(names, matrix, strict=True)
    ]
    return Sheet("confusion", columns, rows, numbers=True)


# ---- where it comes from -----------------------------------------------------------------------


def machine(ladder: Ladder) -> Sheet:
    """The machines that the records name."""
    runs = [run for rung in ladder.all for run in rung.runs]
    rows = []
    for field in record.FIELDS:
        if field.group == "machine":
            values = list(dict.fromkeys(shown(run.record[field.name]) for run in runs))
            if values != ["unknown"]:
                rows.append([word(field.name), word(", ".join(values))])
    return Sheet("machine", [("", "field"), ("machine", "value")], rows)


def provenance(ladder: Ladder) -> Sheet:
    """Where each rung's numbers come from."""
    rows = []
    for rung in ladder.all:
        commits = dict.fromkeys(
            f"{shown(run.record['git_commit'])[:10]}{' (dirty)' if run.record['git_dirty'] else ''}"
            for run in rung.runs
        )
        days = sorted(str(run.record["started_at"])[:10] for run in rung.runs)
        seeds = ", ".join(str(run.record["seed"]) for run in rung.runs)
        versions = dict.fromkeys(shown(run.record["segbench_version"]) for run in rung.runs)
        span = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
        told = [rung.name, seeds, ", ".join(commits), ", ".join(versions), rung.recipe.fingerprint, span]
        rows.append([word(text) for text in told])
    columns = [
        ("rung", "rung"),
        ("seeds", "seeds"),
        ("commit", "git_commit"),
        ("segbench", "segbench_version"),
        ("recipe fingerprint", "recipe_fingerprint"),
        ("measured on (UTC)", "started_at"),
    ]
    return Sheet("provenance", columns, rows)


def runs(ladder: Ladder) -> Sheet:
    """A row a run, every number of its record: what the means are means of."""
    skipped = ("unmeasured", "per_class_iou")
    fields = [
        field.name
        for field in record.FIELDS
        if field.name not in skipped and (ladder.scored or field.group != "quality")
    ]
    rows = [
        [Cell("", {"": _flat(run.record[name])}) for name in fields]
        for rung in ladder.all
        for run in rung.runs
    ]
    return Sheet("runs", [(name, name) for name in fields], rows)


def _flat(value: Any) -> Any:
    return "; ".join(map(str, value)) if isinstance(value, list) else value


# ---- what others published ---------------------------------------------------------------------


def published(ladder: Ladder) -> Mapping[str, Any] | None:
    """What others published for this workload under this protocol; None where nobody did."""
    path = assets.folder("recipes") / "published" / f"{ladder.workload.name}.toml"
    if not path.is_file():
        return None
    told = tomllib.loads(path.read_text(encoding="utf-8"))
    return told if told["protocol"] == ladder.protocol else None


def others(ladder: Ladder) -> Sheet | None:
    """What was published for other recipes of the family; None where nothing was."""
    told = published(ladder)
    if not told or "others" not in told:
        return None
    columns = [
        ("published elsewhere", "name"),
        ("mIoU, points", "miou"),
        ("final or best", "scored"),
        ("source", "source"),
        ("note", "note"),
    ]
    rows = [
        [
            word(each["name"]),
            _published_miou(each),
            word(each["scored"]),
            word(each["source"]),
            Cell(each["note"] or "–", {"": each["note"]}),
        ]
        for each in told["others"]
    ]
    return Sheet("published-elsewhere", columns, rows)


def _published_miou(told: Mapping[str, Any]) -> Cell:
    known = {"": told.get("miou"), "std": told.get("std"), "hours": told.get("hours")}
    if "miou" not in told:
        return Cell("–", known)
    std = f" ± {told['std']:.2f}" if "std" in told else ""
    return Cell(f"{told['miou']:.2f}{std}" + (f", {told['hours']:g} h" if "hours" in told else ""), known)


def _published_pace(told: Mapping[str, Any]) -> Cell:
    known = {name: told.get(name) for name in ("hours", "images_per_s", "speed")}
    parts = [f"{told['hours']:g} h"] if "hours" in told else []
    parts += [f"{told['images_per_s']:g} img/s (from the hours)"] if "images_per_s" in told else []
    parts += [told["speed"]] if "speed" in told else []
    return Cell(", ".join(parts) or "–", known)


# ---- cells -------------------------------------------------------------------------------------


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


def _gain(found: Contrasts, rung: Rung, other: Rung | None, expected: str | None) -> Cell:
    """Δ mIoU [interval] verdict, against `other`; named where it is not the `expected` one."""
    if other is None:
        return word(None)
    contrast = found.miou[rung.name, other.name]
    cell = signed(contrast.delta)
    if contrast.low is None or contrast.high is None:
        cell += f" (no verdict: {contrast.reason})"
    else:
        cell += f" [{signed(contrast.low)}, {signed(contrast.high)}] {_verdict(contrast)}"
        if contrast.verdict == "cannot tell" and contrast.smallest is not None:
            cell += f" (needs {number(contrast.smallest, 2)})"
    kept = (rung.name, other.name) in found.kept
    return Cell(cell + _except(expected, other), {**_known(contrast, other), "non_inferiority": kept})


def _ratio(ladder: Ladder, found: Contrasts, rung: Rung, other: Rung | None, expected: str | None) -> Cell:
    """Ratio of times [interval] verdict, as `_gain`."""
    if other is None:
        return word(None)
    contrast = _fair(ladder, found, rung, other)
    known = _known(contrast, other)
    if math.isnan(contrast.delta):
        return Cell(f"– ({contrast.reason})", known)
    cell = f"{contrast.delta:.2f}"
    if contrast.low is None or contrast.high is None:
        cell += f" (no verdict: {contrast.reason})"
    else:
        cell += f" [{contrast.low:.2f}, {contrast.high:.2f}] {_verdict(contrast)}"
        if contrast.verdict == "cannot tell":
            cell += f" (needs {contrast.smallest:.2f})"
    return Cell(cell + _except(expected, other), known)


def _fair(ladder: Ladder, found: Contrasts, rung: Rung, other: Rung) -> stats.Contrast:
    """The comparison of times, without a verdict where machines differ."""
    contrast = found.time[rung.name, other.name]
    if contrast.verdict is None or not mixed(ladder, (rung.name, other.name)):
        return contrast
    return stats.Contrast(contrast.delta, reason="machines differ")


def _known(contrast: stats.Contrast, other: Rung) -> dict[str, Any]:
    return {
        "": contrast.delta,
        "low": contrast.low,
        "high": contrast.high,
        "verdict": contrast.verdict,
        "smallest": contrast.smallest,
        "reason": contrast.reason,
        "against": other.name,
    }


def _verdict(contrast: stats.Contrast) -> str:
    if contrast.verdict is None:
        return f"(no verdict: {contrast.reason})"
    told = contrast.verdict
    return told if told in ("same", "not worse", "cannot tell") else f"**{told}**"


def _except(expected: str | None, other: Rung) -> str:
    """Names the other rung where it is not the one that the column's head means."""
    return "" if other.name == expected else f" (to {other.short})"
