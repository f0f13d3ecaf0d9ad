"""The machines that share a run: each measures itself, and the record tells of all of them together.

A machine is what one launcher started there: processes of successive ranks, the first of which samples. It
writes rows of its own, since two processes must not append to one file; what they sum up to is handed to the
first device, which keeps the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from bench import record
from bench.machine import Summary


def split(local_ranks: Sequence[int]) -> list[range]:
    """The ranks of each machine, from the place of every process among those of its own."""
    firsts = [rank for rank, local in enumerate(local_ranks) if local == 0]
    return [range(*ends) for ends in zip(firsts, [*firsts[1:], len(local_ranks)], strict=True)]


def rows(folder: Path, number: int) -> Path:
    """Where machine `number` of a run keeps its rows: telemetry.csv, telemetry-1.csv, telemetry-2.csv..."""
    return folder / (f"telemetry-{number}.csv" if number else "telemetry.csv")


def all_rows(folder: Path) -> list[Path]:
    """The files of rows that a run left, by number of the machine."""
    others = sorted(folder.glob("telemetry-[0-9]*.csv"), key=lambda path: (len(path.name), path.name))
    return [path for path in (rows(folder, 0), *others) if path.exists()]


@dataclass(frozen=True)
class Report:
    """What a machine, with so many devices of the run, has measured."""

    host: str
    devices: int
    summary: Summary


def _mean_over_devices(values: Sequence[float], devices: Sequence[int]) -> float:
    return fmean(values, devices)


def _each(of_all: Callable[[Sequence[float]], float]) -> Callable[[Sequence[float], Sequence[int]], float]:
    return lambda values, _: of_all(values)


# Field of the record -> the figure of all machines from that of each, and how many devices each has.
TOGETHER: Mapping[str, Callable[[Sequence[float], Sequence[int]], float]] = {
    "gpu_busy_pct": _mean_over_devices,
    "gpu_sm_active_pct": _mean_over_devices,
    "gpu_memory_peak_mib": _each(max),
    "gpu_power_w": _each(sum),
    "gpu_energy_kj": _each(sum),
    "gpu_throttled_s": _each(max),
    "cpu_busy_pct": _each(fmean),
    "memory_peak_mib": _each(sum),
    "telemetry_cost_pct": _each(max),
}


def combine(reports: Sequence[Report]) -> Summary:
    """The record's hardware fields over all machines; field -> why it is null, which it is where one machine
    lacks it; names of its warnings, those of any machine."""
    if len(reports) == 1:
        return reports[0].summary
    figures: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    devices, said = [report.devices for report in reports], [report.summary for report in reports]
    for field, together in TOGETHER.items():
        known = [value for values, _, _ in said if (value := values[field]) is not None]
        figures[field] = together(known, devices) if len(known) == len(reports) else None
        why = [(report.host, report.summary[1][field]) for report in reports if field in report.summary[1]]
        if why:
            host, reason = why[0]
            alike = len(why) == len(reports) and len({reason for _, reason in why}) == 1
            reasons[field] = reason if alike else f"{host}: {reason}"
    doubts = {name for report in reports for name in report.summary[2]}
    return figures, reasons, [name for name in record.WARNINGS if name in doubts]
