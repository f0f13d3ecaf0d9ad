"""Records against a baseline: what is compared, what is named and left out, and the code that follows."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import check, recipe, record, stats, workload
from bench.check import Comparison, Rung
from tests import fake_records

RUNGS = ("00", "03", "07")
LADDER = {each.name[:2]: each for each in recipe.ladder()}


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline and the results of another day: the same machine and rungs, 1 % of noise in the speeds."""
    days, random = tmp_path_factory.mktemp("days"), np.random.default_rng(0)
    for side in ("old", "new"):
        write(days / side, random)
    return days


@pytest.fixture
def sides(days: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of both, to be edited."""
    needless = shutil.ignore_patterns("samples", "telemetry.csv")
    shutil.copytree(days, tmp_path, ignore=needless, dirs_exist_ok=True)
    return tmp_path / "old", tmp_path / "new"


def write(
    side: Path, random: np.random.Generator, rungs: tuple[str, ...] = RUNGS, seeds: int = 3, **fields: Any
) -> None:
    for rung in rungs:
        for seed in range(seeds):
            folder = fake_records.make_run(side, LADDER[rung], workload.load("mini"), seed, 0.1, **fields)
            if "status" not in fields:
                pace(folder, 15.0 * math.exp(0.01 * random.standard_normal()))


def folders(side: Path, rung: str, *seeds: int) -> list[Path]:
    found = [record.run_folder(side, "mini", LADDER[rung].name, seed) for seed in seeds or (0, 1, 2)]
    assert all((folder / "run.json").exists() for folder in found)
    return found


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pace(folder: Path, train_s: float) -> None:
    """Make the run one that took `train_s`, sound in every file."""
    run, rows = record.read(folder), record.read_evals(folder)
    factor = train_s / run["train_s"]
    for row in rows:
        row["train_s"] *= factor
    record.write_evals(folder, rows)
    wall_s = run["wall_s"] + train_s - run["train_s"]
    edit(folder, train_s=train_s, wall_s=wall_s, images_per_s=run["steps"] * run["batch_size"] / train_s)


def slow(side: Path, rung: str, factor: float = 2.0) -> None:
    for folder in folders(side, rung):
        pace(folder, factor * record.read(folder)["train_s"])


def lose(side: Path, rung: str, points: float) -> None:
    """Take points of mIoU from the runs of a rung, in every file."""
    for folder in folders(side, rung):
        rows = record.read_evals(folder)
        for row in rows:
            row["miou"] -= points
        record.write_evals(folder, rows)
        edit(folder, final_miou=rows[-1]["miou"], best_miou=max(row["miou"] for row in rows))


def rung_of(found: Comparison, number: str, table: int = 0) -> Rung:
    [rung] = [each for each in found.families[table].rungs if each.recipe.startswith(number)]
    return rung


def verdicts(found: Comparison, table: int = 0) -> list[str | None]:
    return [rung.contrast.verdict for rung in found.families[table].rungs]


def reasons(found: Comparison, side: str) -> dict[str, str]:
    return {each.name: each.why for each in found.left_out if each.side == side}


# What is judged


def test_records_of_the_same_speed_are_no_regression(sides: tuple[Path, Path]) -> None:
    found = check.compare(*sides)
    assert set(verdicts(found)) <= {"same", "cannot tell"}
    assert (found.code, found.left_out) == (0, ())
    assert [(len(rung.old), len(rung.new)) for rung in found.families[0].rungs] == [(3, 3)] * 3


def test_a_slower_rung_is_found_and_the_others_are_not_blamed(sides: tuple[Path, Path]) -> None:
    slow(sides[1], "03", 1.1)
    found = check.compare(*sides)
    assert rung_of(found, "03").contrast.verdict == "slower"
    assert rung_of(found, "03").contrast.delta == pytest.approx(1 / 1.1, rel=0.03)
    assert verdicts(found).count("slower") == 1
    assert found.code == 3


def test_a_faster_rung_is_no_regression(sides: tuple[Path, Path]) -> None:
    slow(sides[1], "03", 0.8)
    found = check.compare(*sides)
    assert rung_of(found, "03").contrast.verdict == "faster"
    assert found.code == 0


def test_what_the_tolerance_allows_is_no_regression(sides: tuple[Path, Path]) -> None:
    slow(sides[1], "03", 1.1)
    assert check.compare(*sides, tolerance=0.2).code == 0


def test_a_folder_against_itself_or_a_copy_of_it_is_no_measurement(
    sides: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(sides[0], tmp_path / "copy")
    for results in (sides[0], tmp_path / "copy"):
        found = check.compare(sides[0], results, convergence=True)
        assert found.code == 4
        own = [each for each in found.left_out if "the baseline's own record" in each.why]
        assert [each.side for each in own] == ["results"] * 9
    shutil.copytree(sides[1], tmp_path / "copy", dirs_exist_ok=True)  # measured anew, over the old
    assert check.compare(sides[0], tmp_path / "copy").code != 4


def test_the_deviation_is_pooled_over_all_groups_of_both_sides(sides: tuple[Path, Path]) -> None:
    [family] = check.compare(*sides).families
    logs = [
        [math.log(record.read(folder)["images_per_s"]) for folder in folders(side, rung)]
        for rung in RUNGS
        for side in sides
    ]
    assert family.spread.freedom == 12
    assert family.spread.std == pytest.approx(stats.pool(logs).std)


@pytest.fixture
def beside(sides: tuple[Path, Path]) -> tuple[Path, Path]:
    """The same records, and beside them those of another workload, whose speeds scatter by a third."""
    random = np.random.default_rng(3)
    for side in sides:
        for seed in range(3):
            folder = fake_records.make_run(side, LADDER["00"], workload.load("camvid"), seed)
            pace(folder, 400.0 * math.exp(0.3 * random.standard_normal()))
    return sides


def test_each_ladder_has_its_own_spread_and_its_own_family(
    sides: tuple[Path, Path], beside: tuple[Path, Path]
) -> None:
    slow(sides[1], "03", 1.1)
    camvid, mini = check.compare(*beside, convergence=True).families[:2]
    assert (camvid.field, camvid.ladder, len(camvid.rungs)) == ("images_per_s", "camvid", 1)
    assert (mini.field, mini.ladder, len(mini.rungs)) == ("images_per_s", "mini", 3)
    for side in sides:
        shutil.rmtree(side / "camvid")
    alone = check.compare(*sides).families[0]
    assert mini == replace(alone, ladder="mini")
    assert [rung.contrast.verdict for rung in mini.rungs].count("slower") == 1
    assert camvid.spread.freedom == 4


def test_a_ladder_that_cannot_be_judged_leaves_the_code_to_the_others(beside: tuple[Path, Path]) -> None:
    shutil.rmtree(beside[1] / "camvid")
    found = check.compare(*beside)
    assert [family.blind for family in found.families] == [True, False]
    assert found.code == 0


def test_protocols_of_one_workload_are_ladders_of_their_own(sides: tuple[Path, Path]) -> None:
    native = fake_records.altered(workload.load("mini"), "evaluation", protocol="native")
    for side in sides:
        for seed in range(3):
            folder = fake_records.make_run(side / "native", LADDER["00"], native, seed)
            pace(folder, record.read(folder)["train_s"] * (1.001 if side == sides[1] else 1.0))
    found = check.compare(*sides)
    assert [family.ladder for family in found.families] == ["mini (native)", "mini (squash)"]
    assert [len(family.rungs) for family in found.families] == [1, 3]


def test_strict_does_not_let_a_doubt_pass(sides: tuple[Path, Path]) -> None:
    slow(sides[1], "03", 1.03)
    found = check.compare(*sides)
    assert rung_of(found, "03").contrast.verdict == "cannot tell"
    assert (found.code, check.compare(*sides, strict=True).code) == (0, 4)


def test_strict_passes_what_is_the_same(sides: tuple[Path, Path]) -> None:
    found = check.compare(*sides, tolerance=0.1, strict=True)
    assert set(verdicts(found)) == {"same"}
    assert found.code == 0


def test_a_regression_comes_before_what_could_not_be_judged(sides: tuple[Path, Path]) -> None:
    slow(sides[1], "03")
    shutil.rmtree(folders(sides[1], "07")[0].parent)
    assert check.compare(*sides, strict=True).code == 3


def test_equal_speeds_to_the_last_digit_are_no_verdict(sides: tuple[Path, Path]) -> None:
    for side in sides:
        for rung in RUNGS:
            for seed, folder in enumerate(folders(side, rung)):
                pace(folder, 15.0 + 1e-15 * seed)
    found = check.compare(*sides)
    assert found.code == 4


# Convergence


def test_a_loss_of_miou_is_found_only_where_it_is_asked_for(sides: tuple[Path, Path]) -> None:
    lose(sides[1], "07", 5.0)
    lose(sides[1], "03", -5.0)
    found = check.compare(*sides, convergence=True)
    assert verdicts(found, 1)[1:] == ["not worse", "worse"]
    assert verdicts(found, 1)[0] in ("not worse", "cannot tell")
    assert found.code == 3
    assert check.compare(*sides).code == 0


def test_a_resumed_run_counts_for_the_miou_and_not_for_the_speed(sides: tuple[Path, Path]) -> None:
    [folder] = folders(sides[1], "07", 1)
    edit(folder, resumed=2)
    found = check.compare(*sides, convergence=True)
    assert (len(rung_of(found, "07").new), len(rung_of(found, "07", 1).new)) == (2, 3)
    assert rung_of(found, "07").contrast.reason == "n = 2"
    assert "resumed" in reasons(found, "results")["mini/07-no-sync-bn/seed-1"]


def test_speeds_that_were_all_resumed_are_not_covered_by_the_miou(sides: tuple[Path, Path]) -> None:
    for rung in RUNGS:
        for folder in folders(sides[1], rung):
            edit(folder, resumed=1)
    found = check.compare(*sides, convergence=True)
    assert set(verdicts(found, 1)) <= {"not worse", "cannot tell"}
    assert set(verdicts(found)) == {None}
    assert found.code == 4


# Bad input: named, never averaged


def spoil_json(folder: Path) -> None:
    (folder / "run.json").write_text('{"schema": 2, "rec')


def forget_evals(folder: Path) -> None:
    (folder / "evals.jsonl").unlink()


def with_fields(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, **changes)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (with_fields(status="running"), "running"),
        (with_fields(status="interrupted"), "interrupted"),
        (with_fields(status="failed", error="no space\nleft"), "failed: no space left"),
        (with_fields(status="diverged", error="loss is nan"), "diverged: loss is nan"),
        (with_fields(resumed=1), "resumed"),
        (with_fields(schema=99), "its run.json has schema 99"),
        (spoil_json, "its run.json cannot be read"),
        (forget_evals, "its evals.jsonl is missing or empty"),
        (with_fields(wall_s=99.0), "its phases add up to"),
        (with_fields(images_per_s=99.0), "its images_per_s is 99"),
        (with_fields(final_miou=44.17), "its final_miou is 44.17"),
        (with_fields(recipe_fingerprint="0123456789ab"), "does not fit its recipe.toml"),
        (with_fields(torch="1.0"), "torch 1.0 (baseline: 2.15.0)"),
        (with_fields(threads=[8]), "threads [8] (baseline: 2)"),
        (with_fields(protocol="native"), "protocol native (baseline: squash)"),
        (with_fields(seed=0), "seed 0 counts already, from mini/03-cosine/seed-0"),
    ],
)
def test_a_record_that_may_not_count_is_named_and_never_averaged(
    spoil: Callable[[Path], None], words: str, sides: tuple[Path, Path]
) -> None:
    [folder] = folders(sides[1], "03", 2)
    spoil(folder)
    found = check.compare(*sides)
    rung = rung_of(found, "03")
    assert (len(rung.old), len(rung.new)) == (3, 2)
    assert (rung.contrast.verdict, rung.contrast.reason) == (None, "n = 2")
    assert list(reasons(found, "results")) == ["mini/03-cosine/seed-2"]
    assert words in reasons(found, "results")["mini/03-cosine/seed-2"]
    assert (found.code, check.compare(*sides, strict=True).code) == (0, 4)


def test_the_baseline_is_sifted_as_the_results_are(sides: tuple[Path, Path]) -> None:
    [folder] = folders(sides[0], "03", 2)
    edit(folder, images_per_s=9999.0)
    found = check.compare(*sides)
    assert len(rung_of(found, "03").old) == 2
    assert list(reasons(found, "baseline")) == ["mini/03-cosine/seed-2"]


def test_a_copy_of_a_run_is_no_other_seed(sides: tuple[Path, Path]) -> None:
    [first, last] = folders(sides[1], "03", 0, 2)
    shutil.rmtree(last)
    shutil.copytree(first, last)
    edit(last, seed=2)
    found = check.compare(*sides)
    assert len(rung_of(found, "03").new) == 2
    assert reasons(found, "results")["mini/03-cosine/seed-2"].startswith("a copy of mini/03-cosine/seed-0")


def test_a_recipe_of_the_same_name_with_other_values_is_another(tmp_path: Path) -> None:
    for side, lr in (("old", 0.5), ("new", 0.6)):
        path = tmp_path / "05-mine.toml"
        path.write_text(f'extends = "00-mmseg-baseline"\ntitle = "mine"\n[optim]\nlr = {lr}\n')
        for seed in range(3):
            fake_records.make_run(tmp_path / side, recipe.load(path), workload.load("mini"), seed)
    found = check.compare(tmp_path / "old", tmp_path / "new")
    assert rung_of(found, "05").contrast.reason.startswith("recipe_fingerprint ")
    assert found.code == 4


def test_a_workload_of_the_same_name_with_other_values_is_another(tmp_path: Path) -> None:
    for side, epochs in (("old", 5), ("new", 6)):
        setting = fake_records.altered(workload.load("mini"), "train", epochs=epochs)
        for seed in range(3):
            fake_records.make_run(tmp_path / side, LADDER["00"], setting, seed)
    found = check.compare(tmp_path / "old", tmp_path / "new")
    assert rung_of(found, "00").contrast.reason.startswith("workload_fingerprint ")
    assert found.code == 4


def test_machines_that_differ_cannot_be_judged_and_every_field_is_named(sides: tuple[Path, Path]) -> None:
    for rung in RUNGS:
        for folder in folders(sides[1], rung):
            edit(folder, cpu="Another Processor", cores=64)
    found = check.compare(*sides)
    assert found.code == 4
    assert set(verdicts(found)) == {None}
    told = "cpu Another Processor (baseline: An Imaginary Processor), cores 64 (baseline: 2)"
    assert {rung.contrast.reason for rung in found.families[0].rungs} == {told}
    assert all(not rung.old and not rung.new for rung in found.families[0].rungs)
    assert set(reasons(found, "results").values()) == {told}


def test_a_baseline_of_several_machines_is_searched_for_the_right_one(
    sides: tuple[Path, Path], tmp_path: Path
) -> None:
    both = tmp_path / "both"
    shutil.copytree(sides[0], both / "here")
    write(both / "there", np.random.default_rng(2), cpu="Another Processor")
    found = check.compare(both, sides[1])
    assert [(len(rung.old), len(rung.new)) for rung in found.families[0].rungs] == [(3, 3)] * 3
    assert found.code == 0
    assert len(reasons(found, "baseline")) == 9
    assert all(name.startswith("there/") for name in reasons(found, "baseline"))


def test_two_machines_on_both_sides_are_two_comparisons(sides: tuple[Path, Path]) -> None:
    for number, side in enumerate(sides):
        write(side / "there", np.random.default_rng(5 + number), ("03",), cpu="Another Processor")
    found = check.compare(*sides)
    wheres = [rung.where for rung in found.families[0].rungs if rung.recipe.startswith("03")]
    assert wheres == ["cpu An Imaginary Processor", "cpu Another Processor"]
    assert all(len(rung.old) == len(rung.new) == 3 for rung in found.families[0].rungs)


def test_a_rung_on_one_side_alone_is_not_judged(sides: tuple[Path, Path]) -> None:
    shutil.rmtree(folders(sides[0], "00")[0].parent)
    shutil.rmtree(folders(sides[1], "07")[0].parent)
    found = check.compare(*sides)
    assert rung_of(found, "00").contrast.reason == "no usable record of this rung in the baseline"
    assert rung_of(found, "07").contrast.reason == "no usable record of this rung in the results"
    assert rung_of(found, "03").contrast.verdict is not None
    assert (found.code, check.compare(*sides, strict=True).code) == (0, 4)


def test_a_rung_with_no_usable_record_anywhere_is_seen_all_the_same(sides: tuple[Path, Path]) -> None:
    for side in sides:
        for folder in folders(side, "07"):
            spoil_json(folder)
    found = check.compare(*sides)
    assert rung_of(found, "07").contrast.verdict is None
    assert check.compare(*sides, tolerance=0.2, strict=True).code == 4


def test_a_baseline_within_the_results_is_no_part_of_them(sides: tuple[Path, Path]) -> None:
    """Else its seeds would stand in for those of the results, and be compared with themselves."""
    old, new = sides
    slow(new, "03")
    found = check.compare(old, old.parent)
    assert rung_of(found, "03").contrast.verdict == "slower"
    assert {name.split("/")[0] for name in reasons(found, "results")} == {"old"}
    assert rung_of(check.compare(new.parent, new), "03").contrast.verdict == "slower"


# Nothing to judge


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("made", "words"), [(False, "there is no folder"), (True, "there is no record below")]
)
def test_no_records_are_no_regression_and_not_fine(
    side: int, made: bool, words: str, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    if made:
        other.mkdir()
    baseline, results = (other, sides[1]) if side == 0 else (sides[0], other)
    found = check.compare(baseline, results, convergence=True)
    assert found.code == 4
    assert words in reasons(found, ("baseline", "results")[side])["."]
    assert set(verdicts(found)) == {None}


def test_two_empty_folders_are_not_fine(tmp_path: Path) -> None:
    assert check.compare(tmp_path, tmp_path).code == 4


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_cannot_be_judged_not_even_a_tenfold_slowdown(seeds: int, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for side in (old, new):
        write(side, np.random.default_rng(seeds), ("00",), seeds)
    for folder in folders(new, "00", *range(seeds)):
        pace(folder, 150.0)
    found = check.compare(old, new)
    assert (verdicts(found), found.code) == ([None], 4)


# Doubts


def test_warnings_of_what_was_compared_come_with_their_advice(sides: tuple[Path, Path]) -> None:
    for folder in folders(sides[1], "03"):
        edit(folder, warnings=["machine_busy"])
    found = check.compare(*sides)
    assert f"machine_busy, 3 of 18 records: {record.WARNINGS['machine_busy']}" in found.notes


def test_the_commits_of_both_sides_are_named(sides: tuple[Path, Path]) -> None:
    edit(folders(sides[1], "03", 1)[0], git_commit="fedcba98765")
    assert "Commits: baseline 0123456789; results 0123456789, fedcba9876." in check.compare(*sides).notes


def test_other_hosts_are_a_doubt(sides: tuple[Path, Path]) -> None:
    edit(folders(sides[1], "03", 1)[0], host="elsewhere")
    found = check.compare(*sides)
    assert "Hosts differ, though all that must match does: elsewhere, nowhere." in found.notes
    assert found.code == 0


def test_uneven_deviations_are_a_doubt(sides: tuple[Path, Path]) -> None:
    for seed, folder in enumerate(folders(sides[1], "03")):
        pace(folder, 15.0 * (1 + 0.5 * seed))
    assert any("Bartlett" in note for note in check.compare(*sides).notes)


def test_the_reference_records_are_whole() -> None:
    machine = next(iter(sorted((Path(check.__file__).parents[1] / "results/reference").iterdir())))
    found = check.compare(machine, machine)
    whys = {(each.side, each.why) for each in found.left_out}
    assert whys == {
        ("results", "the baseline's own record: nothing was measured anew"),
        ("baseline", "no usable record of this rung in the results"),
    }
