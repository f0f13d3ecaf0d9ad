"""Sheets: the page, the CSV and the JSON say the same; what is unknown is null."""

from __future__ import annotations

import json
import math

import pytest

from bench import sheet
from bench.sheet import Cell, Sheet, Table

COLUMNS = [("rung", "rung"), ("mIoU, points", "final_miou"), ("Δ", "change")]
ROWS = [
    [sheet.word("00 | base"), sheet.spread([28.0, 30.0], 2), sheet.word(None)],
    [
        sheet.word("01"),
        sheet.spread([], 2),
        Cell("+1.00 better", {"": 1 / 3, "low": math.nan, "high": math.inf}),
    ],
]


def test_a_page_and_a_file_say_the_same() -> None:
    found = Sheet("quality", COLUMNS, ROWS)
    assert found.markdown().splitlines()[2:] == [
        "| 00 \\| base | 29.00 ± 1.41 (n = 2) | – |",
        "| 01 | – | +1.00 better |",
    ]
    first, second = found.records()
    assert first == {
        "rung": "00 | base",
        "final_miou_mean": 29.0,
        "final_miou_std": 1.414213562,
        "final_miou_n": 2,
        "change": None,
        "change_low": None,
        "change_high": None,
    }
    assert (second["final_miou_mean"], second["final_miou_n"]) == (None, 0)
    assert (second["change"], second["change_low"], second["change_high"]) == (0.3333333333, None, None)
    json.dumps(found.records(), allow_nan=False)


def test_a_csv_has_a_head_and_leaves_empty_what_is_unknown() -> None:
    lines = Sheet("quality", COLUMNS, ROWS).csv().splitlines()
    assert lines[0] == "rung,final_miou_mean,final_miou_std,final_miou_n,change,change_low,change_high"
    assert lines[1] == "00 | base,29.0,1.414213562,2,,,"


def test_a_key_that_begins_like_another_keeps_its_own_columns() -> None:
    columns = [("a", "wall"), ("b", "wall_s")]
    rows = [[Cell("1", {"": 1, "n": 3}), Cell("2", {"": 2, "n": 4})]]
    found = Sheet("x", columns, rows)
    assert found.records() == [{"wall": 1, "wall_n": 3, "wall_s": 2, "wall_s_n": 4}]


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1 234"), (-0.05, "−0.05"), (10.0, "10.0"), (None, "–"), (math.nan, "–")]
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert sheet.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "unit"), [([], "s"), ([599.0], "s"), ([600.0, 5.0], "min"), ([10800.0], "h")]
)
def test_the_unit_suits_the_longest_time(seconds: list[float], unit: str) -> None:
    assert sheet.clock_unit(seconds)[1] == unit


def test_a_bar_in_a_name_ends_no_column_neither_in_the_head_nor_below() -> None:
    head, _, row = Table(["class", "a|b"], [["c|d", "1"]]).markdown().splitlines()
    assert (head, row) == (r"| class | a\|b |", r"| c\|d | 1 |")
