"""A table of the report: text for a page, and the same as numbers for programs.

A cell holds both, so that page, CSV and JSON cannot tell different stories. Numbers carry the names and units
of the record's fields, a time is always in seconds; what is unknown is null.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from bench import stats

DIGITS = 10  # of a number in a file: more than it means, fewer than differ between processors


@dataclass(frozen=True)
class Table:
    """Text in columns, of which `numbers` are set right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = False

    def markdown(self) -> str:
        rule = ["---", *["---:" if self.numbers else "---"] * (len(self.head) - 1)]
        head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in (self.head, *self.rows))
        lines = [head, rule, *rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@dataclass(frozen=True)
class Cell:
    """What a page shows, and what that stands for: suffix -> value, "" being the column's own."""

    text: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sheet:
    """A table by name; `columns` are (title on the page, key in a file)."""

    name: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]
    numbers: bool = False

    def markdown(self) -> str:
        text = [[cell.text for cell in row] for row in self.rows]
        return Table([title for title, _ in self.columns], text, self.numbers).markdown()

    def records(self) -> list[dict[str, Any]]:
        """A dict a row, all with the same keys: `key` or `key_suffix`."""
        found = [
            {
                "_".join(filter(None, (key, suffix))): plain(value)
                for (_, key), cell in zip(self.columns, row, strict=True)
                for suffix, value in cell.values.items()
            }
            for row in self.rows
        ]
        every = dict.fromkeys(key for row in found for key in row)
        ordered = [each for _, key in self.columns for each in every if f"{each}_".startswith(f"{key}_")]
        keys = dict.fromkeys(ordered)
        return [{key: row.get(key) for key in keys} for row in found]

    def csv(self) -> str:
        rows = self.records()
        file = io.StringIO()
        out = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        out.writeheader()
        out.writerows(rows)
        return file.getvalue()


def plain(value: Any) -> Any:
    """The value as JSON can say it, rounded to DIGITS; None for what is no finite number."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


# ---- text and cells ----------------------------------------------------------------------------


def number(value: float | None, digits: int | None = None) -> str:
    """A number with three significant digits (or `digits` decimals); – where unknown."""
    if value is None or math.isnan(value):
        return "–"
    if digits is None:
        digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:,.{digits}f}".replace("-", "−").replace(",", " ")


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def clock_unit(seconds: Sequence[float]) -> tuple[float, str]:
    """Seconds in the unit that suits the longest of them, and its name."""
    longest = max(seconds, default=0.0)
    return (1.0, "s") if longest < 600 else (60.0, "min") if longest < 3 * 3600 else (3600.0, "h")


def shown(value: Any) -> str:
    return "unknown" if value is None else str(value)


def word(text: str | None) -> Cell:
    return Cell("–" if text is None else text, {"": text})


def figure(value: float | None, digits: int | None = None, size: float = 1.0) -> Cell:
    """A number; the page shows it divided by `size`."""
    return Cell(number(None if value is None else value / size, digits), {"": value})


def spread(values: Sequence[float], runs: int, size: float = 1.0) -> Cell:
    """Mean ± standard deviation (n), divided by `size` on the page; `runs` had they all counted."""
    std = stats.deviation(values)
    mean = fmean(values) if values else None
    known = {"mean": mean, "std": std, "n": len(values)}
    if mean is None:
        return Cell("–", known)
    told = f"(n = {len(values)}{f' of {runs}' if len(values) < runs else ''})"
    scatter = "" if std is None else f"± {number(std / size, 2)} "
    return Cell(f"{number(mean / size, 2)} {scatter}{told}", known)
