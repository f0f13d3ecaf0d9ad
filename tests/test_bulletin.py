"""What a check found, in every form that it is told in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import bulletin, check, stats
from bench.check import Comparison, Family, LeftOut, Rung

SPREAD = stats.Spread(0.01, 12, False)


def rung(recipe: str, verdict: str | None, ratio: float = 1.0, **known: Any) -> Rung:
    contrast = stats.Contrast(ratio, 0.97 * ratio, 1.03 * ratio, verdict, 0.93)
    if verdict is None:
        contrast = stats.Contrast(ratio, reason="n = 2")
    return replace(Rung("mini", recipe, "", (100.0, 101.0, 102.0), (98.0, 99.0, 100.0), contrast), **known)


def comparison(*rungs: Rung, **known: Any) -> Comparison:
    family = Family("images_per_s", 0.02, rungs, SPREAD)
    return replace(Comparison(Path("old"), Path("new"), False, (family,), (), ()), **known)


SAME, SLOWER = rung("00-base", "same"), rung("01-next", "slower", 0.8)
DOUBT, UNJUDGED = rung("02-more", "cannot tell", 0.98), rung("03-last", None, 0.7)
QUALITY = Family(
    "final_miou",
    0.5,
    (
        rung("00-base", "not worse", contrast=stats.Contrast(0.1, -0.3, 0.5, "not worse", -1.2)),
        rung("01-next", "worse", contrast=stats.Contrast(-3.0, -4.0, -2.0, "worse", -1.2)),
    ),
    SPREAD,
)


def both(*rungs: Rung) -> Comparison:
    speed = Family("images_per_s", 0.02, rungs, SPREAD)
    return comparison(families=(speed, QUALITY))


# The conclusion


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        (comparison(SAME), 0, "No regression was found: throughput 1 SAME"),
        (
            comparison(SAME, DOUBT, UNJUDGED),
            0,
            "No regression was found: throughput 1 SAME, 1 CANNOT TELL, 1 not judged (a loss short of −7.0 % "
            "may have gone unseen)",
        ),
        (comparison(SAME, SLOWER), 3, "1 of 2 rungs is slower than the baseline: 01-next"),
        (
            comparison(SLOWER, rung("04-x", "slower"), UNJUDGED),
            3,
            "2 of 3 rungs are slower than the baseline: 01-next, 04-x; 1 could not be judged",
        ),
        (both(SAME), 3, "1 of 2 rungs is worse in mIoU than the baseline: 01-next"),
        (
            both(SLOWER),
            3,
            "1 of 1 rungs is slower than the baseline: 01-next; 1 of 2 rungs is worse in mIoU than the "
            "baseline: 01-next",
        ),
        (comparison(UNJUDGED), 4, "nothing could be judged: 03-last: n = 2"),
        (
            comparison(UNJUDGED, rung("04-x", None, contrast=stats.Contrast(1.0, reason="n = 1"))),
            4,
            "nothing could be judged: 03-last: n = 2 (and 1 more)",
        ),
        (
            comparison(
                rung("00-x", None, contrast=stats.Contrast(1.0, reason=f"{check.ABSENT} results")), UNJUDGED
            ),
            4,
            "nothing could be judged: 03-last: n = 2 (and 1 more)",
        ),
        (
            comparison(left_out=(LeftOut("baseline", ".", "there is no folder old"),)),
            4,
            "nothing could be judged: there is no folder old",
        ),
        (
            comparison(SAME, UNJUDGED, strict=True),
            4,
            "not every rung could be judged, and --strict was given: throughput 1 SAME, 1 not judged",
        ),
    ],
)
def test_the_conclusion_says_what_the_code_means(found: Comparison, code: int, said: str) -> None:
    assert found.code == code
    assert bulletin.conclude(found)[0] == said
    assert bool(bulletin.conclude(found)[1]) == (code != 0)


def test_under_strict_rungs_without_records_need_them_and_doubts_need_seeds() -> None:
    assert "both folders need 3" in bulletin.conclude(comparison(SAME, UNJUDGED, strict=True))[1]
    assert "more seeds" in bulletin.conclude(comparison(SAME, DOUBT, strict=True))[1]


# The table and what stands below it


def test_a_row_has_both_sides_the_ratio_its_interval_the_verdict_and_what_would_have_shown() -> None:
    found = comparison(SLOWER, UNJUDGED)
    [slower, unjudged] = bulletin.table(found, found.families[0]).rows
    assert list(slower) == [
        "01-next", "3", "101.0 ± 1.0", "3", "99.00 ± 1.00", "0.800 [0.776, 0.824]", "SLOWER", "−7.0 %",
    ]  # fmt: skip
    assert list(unjudged)[-3:] == ["0.700", "not judged", "–"]


def test_a_row_of_miou_has_points() -> None:
    [_, worse] = bulletin.table(both(SAME), QUALITY).rows
    assert list(worse)[-3:] == ["−3.00 [−4.00, −2.00]", "WORSE", "−1.20"]


def test_a_rung_that_was_not_compared_has_dashes_and_no_number() -> None:
    nothing = rung(
        "04-x", None, old=(), new=(), contrast=stats.Contrast(float("nan"), reason="torch differs")
    )
    found = comparison(SAME, nothing)
    row = bulletin.table(found, found.families[0]).rows[1]
    assert list(row) == ["04-x", "0", "–", "0", "–", "–", "not judged", "–"]


def test_a_table_of_nothing_is_not_shown() -> None:
    nothing = rung("04-x", None, old=(), new=())
    assert bulletin.shown(comparison(nothing)) == []
    assert "|" not in bulletin.markdown(comparison(nothing))


def test_rungs_of_several_workloads_are_told_apart() -> None:
    found = comparison(SAME, rung("00-base", "same", workload="camvid", where="cpu X"))
    names = [row[0] for row in bulletin.table(found, found.families[0]).rows]
    assert names == ["mini/00-base", "camvid/00-base (cpu X)"]


def test_what_is_left_out_is_named_with_its_reason_alike_ones_together() -> None:
    left = [LeftOut("results", f"mini/00-base/seed-{seed}", "running") for seed in range(5)]
    left += [LeftOut("baseline", ".", "there is no folder old")]
    assert bulletin.remarks(comparison(UNJUDGED, left_out=tuple(left), notes=("A doubt.",))) == [
        "No verdict on throughput: 03-last: n = 2.",
        "Left out of the results: mini/00-base/seed-0, mini/00-base/seed-1, mini/00-base/seed-2 and 2 more: "
        "running.",
        "The baseline: there is no folder old.",
        "A doubt.",
    ]


# The forms


def test_the_markdown_has_the_conclusion_first_and_a_table_a_family() -> None:
    lines = bulletin.markdown(both(SAME, SLOWER)).splitlines()
    assert lines[0] == "## segbench check"
    assert lines[2].startswith("**1 of 2 rungs is slower")
    assert [line for line in lines if line.startswith("###")] == [
        "### Throughput, img/s", "### Final mIoU, points"
    ]  # fmt: skip
    assert sum(line.startswith("| 0") for line in lines) == 4


def test_the_json_has_every_number_and_null_for_what_is_unknown() -> None:
    nothing = rung("04-x", None, old=(), new=(1.0,), contrast=stats.Contrast(float("nan"), reason="why"))
    left = (LeftOut("results", "mini/00-base/seed-0", "running"),)
    said = json.loads(bulletin.to_json(comparison(SLOWER, nothing, left_out=left, notes=("A doubt.",))))
    assert said.keys() == {
        "exit_code", "conclusion", "hint", "baseline", "results", "strict", "tables", "left_out", "notes"
    }  # fmt: skip
    assert (said["exit_code"], said["baseline"], said["notes"]) == (3, "old", ["A doubt."])
    assert said["left_out"] == [{"side": "results", "record": "mini/00-base/seed-0", "why": "running"}]
    table = said["tables"]["images_per_s"]
    assert (table["limit"], table["pooled_std"], table["degrees_of_freedom"]) == (0.02, 0.01, 12)
    slower, unjudged = table["rungs"]
    assert slower == {
        "workload": "mini",
        "recipe": "01-next",
        "where": "",
        "baseline": {"n": 3, "mean": 101.0, "std": 1.0, "values": [100.0, 101.0, 102.0]},
        "results": {"n": 3, "mean": 99.0, "std": 1.0, "values": [98.0, 99.0, 100.0]},
        "ratio": 0.8,
        "low": 0.97 * 0.8,
        "high": 1.03 * 0.8,
        "smallest": 0.93,
        "verdict": "slower",
        "reason": "",
    }
    assert unjudged["baseline"] == {"n": 0, "mean": None, "std": None, "values": []}
    assert unjudged["results"]["std"] is None
    assert (unjudged["ratio"], unjudged["verdict"], unjudged["reason"]) == (None, None, "why")


def test_ladders_are_tables_of_their_own() -> None:
    speed = Family("images_per_s", 0.02, (SAME,), SPREAD)
    found = comparison(families=tuple(replace(speed, ladder=name) for name in ("camvid", "mini")))
    assert "### Throughput, img/s: camvid" in bulletin.markdown(found)
    assert json.loads(bulletin.to_json(found))["tables"].keys() == {
        "images_per_s camvid",
        "images_per_s mini",
    }
    said, _ = bulletin.conclude(found)
    assert said == "No regression was found: throughput of camvid 1 SAME; throughput of mini 1 SAME"


def test_an_unknown_spread_is_null() -> None:
    family = Family("images_per_s", 0.02, (), stats.Spread(float("nan"), 0, False))
    left = (LeftOut("results", ".", "there is no folder new"),)
    said = json.loads(bulletin.to_json(comparison(families=(family,), left_out=left)))
    assert said["tables"]["images_per_s"]["pooled_std"] is None


def test_annotations_have_a_level_by_verdict_and_the_worst_comes_first() -> None:
    lines = bulletin.annotate(comparison(SAME, DOUBT, UNJUDGED, SLOWER)).splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        "::error",
        "::error",
        "::warning",
        "::warning",
        "::notice",
    ]
    assert lines[1] == ("::error title=segbench check::01-next: SLOWER, throughput × 0.800 [0.776, 0.824]")
    assert lines[3].endswith("::03-last: not judged, n = 2")


def test_a_check_without_regression_is_a_notice() -> None:
    assert bulletin.annotate(comparison(SAME)).startswith("::notice title=segbench check::No regression")


def test_an_annotation_is_one_line_whatever_it_says() -> None:
    left = (LeftOut("results", "mini/a%0Ab/seed-0", "failed: 100 %\r\n::error::gone"),)
    lines = bulletin.annotate(comparison(SAME, left_out=left)).splitlines()
    assert len(lines) == 3
    assert lines[0] == (
        "::warning title=segbench check::Left out of the results: mini/a%250Ab/seed-0: "
        "failed: 100 %25%0D%0A::error::gone."
    )


# Pairs of processes


def pairs(*rungs: Rung, **known: Any) -> Comparison:
    family = Family("images_per_s", 0.02, rungs, stats.Spread(0.006, 15, False), paired=True)
    return comparison(families=(family,), baseline="main (c0ffee5)", results="the working tree", **known)


def test_the_legend_of_pairs_says_how_they_were_taken_and_what_a_false_alarm_costs() -> None:
    told = bulletin.legend(pairs(SAME).families[0])
    assert told.startswith("Ratio: results over baseline, from 3 pairs of processes that took steps in turn.")
    assert "the whole interval below 0.98" in told
    assert "whose ratios spread by 0.6 %" in told
    assert "the chance that any rung is called SLOWER that is not slower by more than 2 % is 1 %" in told


def test_the_advice_on_pairs_is_not_that_on_records() -> None:
    for found in (pairs(SLOWER), pairs(SAME, DOUBT, strict=True)):
        assert "seeds" not in bulletin.conclude(found)[1]
        assert "records" not in bulletin.conclude(found)[1]
    assert "--pairs" in bulletin.conclude(pairs(SAME, DOUBT, strict=True))[1]


def test_where_nothing_could_be_judged_a_known_hint_comes_first() -> None:
    left = (LeftOut("baseline", ".", "there is no commit"),)
    found = pairs(left_out=left, hint="git fetch")
    assert bulletin.conclude(found) == ("nothing could be judged: there is no commit", "git fetch")
    assert bulletin.markdown(found).count("there is no commit") == 2
    document = json.loads(bulletin.to_json(found))
    assert (document["exit_code"], document["baseline"]) == (4, "main (c0ffee5)")
