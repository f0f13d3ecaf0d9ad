"""The report: what it says of whole, partial, doubtful and damaged results."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from bench import BenchError, assets, doctor, figures, recipe, record, report, workload
from tests import fake_records


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page without its figures, which have tests of their own."""
    monkeypatch.setattr(figures, "draw", lambda ladder, out, target: [])


def page(results: Path, target: float | None = None) -> str:
    (path,) = report.write(results, results.parent / "reports", target)
    return path.read_text(encoding="utf-8")


def row(text: str, start: str, nth: int = 0) -> list[str]:
    """The cells of the nth table row that begins with `start`, those of the verdicts not counted."""
    rows = [line for line in below(text).splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in rows[nth].strip("|").split(" | ")]


def below(text: str) -> str:
    """The page from its second table on."""
    return text.partition("## The ladder: ")[2] or text


def change(folder: Path, **fields: object) -> None:
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, **fields}))


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        fake_records.make(tmp_path / name / "results", rungs=("00", "03", "04"))
        report.write(tmp_path / name / "results", tmp_path / name / "reports")
    first, second = (
        {p.name: p.read_bytes() for p in (tmp_path / n / "reports/mini").glob("**/*.*")}
        for n in ("one", "two")
    )
    assert {"report.md", "report.json", "quality.csv", "miou-epoch.png"} <= first.keys()
    assert first == second


@pytest.mark.usefixtures("undrawn")
def test_the_cumulative_table_comes_first_and_has_a_row_a_rung(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results")
    text = page(tmp_path / "results")
    assert (
        text.index("## Verdicts")
        < text.index("## The ladder: quality")
        < text.index("## The blog's table")
        < text.index("## IoU by class")
    )
    names = [
        line.split()[1]
        for line in below(text).split("## The ladder: time")[0].splitlines()
        if line.startswith("| 0")
    ]
    assert names == [known.name for known in recipe.ladder()]
    rest = below(text)
    assert rest.index("| 07-no-sync-bn") < rest.index("not adopted") < rest.index("| 08-batch-256")
    assert "(n = 3)" in row(text, "04-batch-32")[2]
    assert row(text, "04-batch-32")[1] == "lr 0.01 → 0.02, batch_size 16 → 32"


@pytest.mark.usefixtures("undrawn")
def test_the_blogs_table_folds_the_batch_rungs_into_one_step(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results")
    text = page(tmp_path / "results").split("## The blog's table")[1].split("## ")[0]
    steps = [line.split(" | ")[0][2:] for line in text.splitlines() if line.startswith("| 0")]
    assert [step.split()[0] for step in steps] == ["00", "01", "02", "03", "04"]
    assert steps[-1] == "04 to 07 increase the batch size"


@pytest.mark.usefixtures("undrawn")
def test_a_contrast_has_one_interval_wherever_it_stands(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results")
    text = page(tmp_path / "results")
    assert row(text, "01-new-weights")[3] == row(text, "01-new-weights")[4] == row(text, "01 new weights")[2]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_give_numbers_without_verdicts(tmp_path: Path, seeds: int) -> None:
    fake_records.make(tmp_path / "results", seeds=seeds, rungs=("00", "01"))
    text = page(tmp_path / "results")
    assert f"(no verdict: n = {seeds})" in row(text, "01-new-weights")[3]
    assert "**better**" not in text


@pytest.mark.usefixtures("undrawn")
def test_a_rung_whose_parent_was_not_run_is_compared_with_the_nearest_that_was(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", rungs=("00", "03"))
    cells = row(page(tmp_path / "results"), "03-cosine")
    assert cells[3].endswith("(to 00)")
    assert not cells[4].endswith(")")
    assert "weights v1 → v2" in cells[1]


@pytest.mark.usefixtures("undrawn")
def test_columns_without_a_number_are_left_out_with_the_reason(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", seeds=1, rungs=("00",))
    text = page(tmp_path / "results")
    assert "GPU busy, %" not in text
    assert "GPU busy, SM active, GPU memory, power, energy, throttled: the run used no GPU." in text


@pytest.mark.usefixtures("undrawn")
def test_gpu_figures_are_shown_where_there_are_some(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", seeds=1, rungs=("00",), gpu_busy_pct=97.0, gpu_energy_kj=12.5)
    text = page(tmp_path / "results").split("## The ladder: hardware")[1]
    assert row(text, "rung")[1:3] == ["GPU busy, %", "energy, kJ"]
    assert row(text, "00-mmseg-baseline")[1:3] == ["97.0", "12.5"]


@pytest.mark.usefixtures("undrawn")
def test_published_figures_stand_beside_the_measured_ones_under_their_protocol_alone(tmp_path: Path) -> None:
    ade = replace(workload.load("mini"), name="ade20k")
    fake_records.make(tmp_path / "squash", seeds=1, rungs=("00", "07"), setting=ade)
    text = page(tmp_path / "squash")
    assert row(text, "00-mmseg-baseline")[5] == "44.17 ± 0.17, 6.385 h"
    assert "Published, not measured here: MosaicML" in text
    assert "protocol `squash`, final or best evaluation: not stated" in text
    assert row(text, "Composer, batch 32")[1] == "45.76 ± 0.29, 4.67 h"
    native = fake_records.altered(ade, "evaluation", protocol="native")
    fake_records.make(tmp_path / "native", seeds=1, rungs=("00", "07"), setting=native)
    assert "published" not in page(tmp_path / "native")


def test_published_figures_name_rungs_that_exist() -> None:
    names = {known.name for known in recipe.ladder()}
    for path in (assets.folder("recipes") / "published").glob("*.toml"):
        told = tomllib.loads(path.read_text())
        assert told["rungs"].keys() | told.get("steps", {}).keys() <= names
        assert told["rungs"]["00-mmseg-baseline"]["miou"] in (44.17, 45.47)
        assert told["protocol"] == workload.load(path.stem).values["evaluation"]["protocol"]
        for each in (told, *told.get("others", ())):
            assert each["scored"] in ("final", "best", "not stated")
            assert each["source"]


def test_published_figures_are_those_of_the_sources() -> None:
    """Line by line as in the blog and in the model zoo."""
    blog, zoo = (
        tomllib.loads((assets.folder("recipes") / "published" / f"{name}.toml").read_text())
        for name in ("ade20k", "ade20k-native")
    )
    assert blog["rungs"] == {
        "00-mmseg-baseline": {"miou": 44.17, "std": 0.17, "hours": 6.385, "images_per_s": 112},
        "01-new-weights": {"miou": 45.01},
        "04-batch-32": {"speed": "1.3 to 1.4 times rung 03"},
        "07-no-sync-bn": {
            "miou": 45.56,
            "hours": 3.5,
            "images_per_s": 204,
            "speed": "+5 % img/s over rung 06",
        },
    }
    for told in (blog["rungs"]["00-mmseg-baseline"], blog["rungs"]["07-no-sync-bn"]):
        assert told["images_per_s"] == round(127 * 20206 / (3600 * told["hours"]))
    assert blog["steps"] == {"01-new-weights": 0.84, "03-cosine": 0.18, "07-no-sync-bn": 0.37}
    assert [each["miou"] for each in blog["others"]] == [45.764, 45.6, 49.15, 49.83]
    assert zoo["rungs"] == {"00-mmseg-baseline": {"miou": 45.47}}
    assert [each["miou"] for each in zoo["others"]] == [44.60, 43.95, 42.72]


@pytest.mark.usefixtures("undrawn")
def test_the_other_scores_stand_in_a_table_of_their_own(tmp_path: Path) -> None:
    scores = {"final_miou_official": 20.5, "final_pixel_accuracy": 61.0, "final_mean_accuracy": None}
    fake_records.make(tmp_path / "results", seeds=1, rungs=("00",), **scores)
    (folder,) = record.folders(tmp_path / "results")
    *before, last = record.read_evals(folder)
    record.write_evals(folder, [*before, {**last, "pixel_accuracy": 61.0}])
    text = page(tmp_path / "results").split("## More scores")[1]
    assert row(text, "rung")[1:3] == ["mIoU, absent as 0", "pixel accuracy"]
    assert row(text, "00-mmseg-baseline")[1:4] == ["20.50 (n = 1)", "61.00 (n = 1)", "–"]


def test_a_page_about_noise_shows_speeds_and_no_score_at_all(tmp_path: Path) -> None:
    fake_records.make(
        tmp_path / "results",
        rungs=("00", "06", "07"),
        setting=workload.load("ade20k-fake"),
        data_fingerprint=None,
    )
    text = page(tmp_path / "results")
    assert "The pictures are noise" in text
    assert "time to train ×" in text.split("The pictures are noise")[0]
    for score in ("mIoU", "better", "worse", "## The blog's table", "## IoU by class", "pareto"):
        assert score not in text
    drawn = {path.name for path in (tmp_path / "reports/ade20k-fake").glob("*.png")}
    assert drawn == {"phases.png", "device-busy.png", "memory.png"}
    numbers = (tmp_path / "reports/ade20k-fake/report.json").read_text()
    assert "miou" not in numbers.replace('"target_miou": null', "").replace('"final_miou_std": null', "")


@pytest.mark.usefixtures("undrawn")
def test_records_of_other_data_get_a_page_of_their_own(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", seeds=2, rungs=("00",), data_fingerprint="a" * 12)
    fake_records.make_run(
        tmp_path / "results", recipe.ladder()[0], workload.load("mini"), 2, data_fingerprint="b" * 12
    )
    pages = report.write(tmp_path / "results", tmp_path / "reports")
    assert {path.parent.name for path in pages} == {f"mini-{letter * 12}" for letter in "ab"}
    assert "(n = 2)" in row(pages[0].read_text(), "00-mmseg-baseline")[2]


@pytest.mark.usefixtures("undrawn")
def test_more_classes_than_a_legend_holds_have_their_numbers_in_the_table(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", seeds=1, rungs=("00",), setting=workload.load("ade20k"))
    text = page(tmp_path / "results")
    assert "| 150 flag |" in text
    assert "<details><summary>All classes</summary>" in text


def test_the_page_of_a_single_run_speaks_of_one(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", seeds=1, rungs=("00",), cores=1, threads=1)
    text = page(tmp_path / "results")
    assert "made `00-mmseg-baseline` seed 0." in text
    assert "last evaluation, one seed: of the pixels" in text
    assert not re.search(r"\b1 [a-z]+s\b(?! CSV)", text)


@pytest.mark.usefixtures("undrawn")
def test_protocols_never_share_a_page(tmp_path: Path) -> None:
    mini = workload.load("mini")
    fake_records.make(tmp_path / "results", seeds=1, rungs=("00",))
    native = fake_records.altered(mini, "evaluation", protocol="native")
    fake_records.make_run(tmp_path / "results", recipe.ladder()[1], native, 0)
    pages = report.write(tmp_path / "results", tmp_path / "reports")
    texts = {path.parent.name.split("-")[1]: path.read_text() for path in pages}
    assert texts.keys() == {"squash", "native"}
    assert "| 01-new-weights" not in texts["squash"]
    assert "| 00-mmseg-baseline" not in texts["native"]


@pytest.mark.usefixtures("undrawn")
def test_machines_below_one_folder_get_a_page_each(tmp_path: Path) -> None:
    for machine in ("here", "there"):
        fake_records.make(tmp_path / "reference" / machine, seeds=1, rungs=("00",))
    pages = report.write(tmp_path / "reference", tmp_path / "reports")
    assert [path.parent.name for path in pages] == ["mini-here", "mini-there"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("status", ["failed", "diverged", "interrupted", "running"])
def test_a_run_that_did_not_finish_is_named_and_not_averaged(tmp_path: Path, status: str) -> None:
    fake_records.make(tmp_path / "results", rungs=("00", "01"))
    change(
        tmp_path / "results/mini/01-new-weights/seed-2",
        status=status,
        error="the loss became nan",
        final_miou=0.0,
    )
    text = page(tmp_path / "results")
    assert f"- `mini/01-new-weights/seed-2`: {status}: the loss became nan" in text
    assert "(n = 2)" in row(text, "01-new-weights")[2]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", ["run.json", "recipe.toml", "workload.toml", "evals.jsonl"])
@pytest.mark.parametrize("content", ["", "{ half"])
def test_a_damaged_record_is_named_and_the_rest_reported(tmp_path: Path, name: str, content: str) -> None:
    fake_records.make(tmp_path / "results", seeds=2, rungs=("00",))
    (tmp_path / "results/mini/00-mmseg-baseline/seed-1" / name).write_text(content)
    text = page(tmp_path / "results")
    assert "(n = 1)" in row(text, "00-mmseg-baseline")[2]
    assert "mini/00-mmseg-baseline/seed-1" in text.split("## Not averaged")[1]


@pytest.mark.usefixtures("undrawn")
def test_seeds_of_other_recipe_values_are_not_averaged(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", seeds=2, rungs=("00",))
    first = recipe.ladder()[0]
    other = replace(first, **vars(fake_records.altered(first, "optim", lr=0.5)))  # type: ignore[type-var]
    fake_records.make_run(tmp_path / "results", other, workload.load("mini"), 2)
    text = page(tmp_path / "results")
    assert "- `mini/00-mmseg-baseline/seed-2`: its recipe has other values" in text
    assert "(n = 2)" in row(text, "00-mmseg-baseline")[2]


@pytest.mark.usefixtures("undrawn")
def test_rows_of_another_torch_are_marked_and_get_no_speed_verdict(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", rungs=("00", "01", "02"))
    for seed in range(3):
        change(tmp_path / f"results/mini/02-decoupled-weight-decay/seed-{seed}", torch="1.0")
    text = page(tmp_path / "results")
    assert "- `02-decoupled-weight-decay`: torch 1.0 (most: 2.15.0)" in text
    assert row(text, "02-decoupled-weight-decay †")[3] != "–"
    assert "no verdict: machines differ" in row(text, "02-decoupled-weight-decay", 1)[2]
    assert "no verdict" not in row(text, "01-new-weights", 1)[2]


@pytest.mark.usefixtures("undrawn")
def test_rows_of_another_commit_are_marked_on_a_page_about_noise_too(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", rungs=("00", "01"), setting=workload.load("ade20k-fake"))
    change(tmp_path / "results/ade20k-fake/01-new-weights/seed-0", git_commit="f" * 40)
    text = page(tmp_path / "results")
    assert f"- `01-new-weights`: git_commit {'f' * 40}" in text
    assert "| 01-new-weights † |" in text


@pytest.mark.usefixtures("undrawn")
def test_a_resumed_run_counts_for_the_miou_and_not_for_times(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", rungs=("00", "01"))
    change(tmp_path / "results/mini/01-new-weights/seed-0", resumed=1, warnings=["resumed"])
    text = page(tmp_path / "results")
    assert "(n = 3)" in row(text, "01-new-weights")[2]
    assert "(n = 2 of 3)" in row(text, "01-new-weights", 1)[1]
    assert "no verdict: n = 2" in row(text, "01-new-weights", 1)[2]
    assert f"- **resumed** (`01-new-weights` seed 0): {record.WARNINGS['resumed']}" in text


def test_a_ladder_of_resumed_runs_has_no_times(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", rungs=("00", "04", "05"), resumed=1)
    text = page(tmp_path / "results")
    assert row(text, "04-batch-32", 1)[1:4] == ["–", "– (no run that counts)", "– (no run that counts)"]
    assert "the mark is the mean over seeds. Every run was resumed, so that no throughput counts." in text
    assert "memory, data wait, step, median, step, p95, telemetry: every run was resumed." in text


@pytest.mark.usefixtures("undrawn")
def test_the_target_can_be_given_and_a_miss_is_no_number(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", rungs=("00",), noise=0.0)
    text = page(tmp_path / "results", target=20.0)
    assert "## Time to 20 mIoU" in text
    assert row(text, "00-mmseg-baseline", 2)[1] == "3 of 3"
    assert "segbench report --target 20" in text
    assert "segbench report --target 20.1234567`" in page(tmp_path / "results", target=20.1234567)
    missed = page(tmp_path / "results", 99.0)
    assert row(missed, "00-mmseg-baseline", 2)[1:4] == ["0 of 3", "not reached", "not reached"]


@pytest.mark.usefixtures("undrawn")
def test_an_edited_record_is_named_and_not_averaged(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", rungs=("00", "01"))
    change(tmp_path / "results/mini/01-new-weights/seed-0", final_miou=44.17)
    change(tmp_path / "results/mini/01-new-weights/seed-1", wall_s=1.0)
    text = page(tmp_path / "results")
    assert "(n = 1)" in row(text, "01-new-weights")[2]
    said = text.split("## Not averaged")[1]
    assert "- `mini/01-new-weights/seed-0`: its final_miou is 44.17, its last evaluation shows" in said
    assert "- `mini/01-new-weights/seed-1`: its phases add up to" in said


@pytest.mark.usefixtures("undrawn")
def test_each_rung_has_a_verdict_in_the_first_table(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", noise=0.05)
    text = page(tmp_path / "results").split("## Verdicts")[1]
    head, _, *rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert head[:5] == ["rung", "seeds", "against", "Δ mIoU, points", "time to train"]
    table = {row[0].split()[0]: dict(zip(head, row, strict=True)) for row in rows[:9]}
    assert "**better**" in table["01-new-weights"]["Δ mIoU, points"]
    assert "**worse**" in table["06-batch-128"]["Δ mIoU, points"]
    assert "**faster**" in table["04-batch-32"]["time to train"]
    assert table["01-new-weights"]["final mean above it"].startswith("**yes** (p ")
    assert table["08-batch-256"]["final mean above it"].startswith("not shown (p = 1.00)")
    assert "08-batch-256 (not adopted)" in {row[0] for row in rows}


@pytest.mark.usefixtures("undrawn")
def test_every_table_is_a_csv_and_all_are_one_json(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", rungs=("00", "01"))
    change(tmp_path / "results/mini/00-mmseg-baseline/seed-0", status="failed", error="no memory")
    page(tmp_path / "results")
    said = json.loads((tmp_path / "reports/mini/report.json").read_text())
    files = {path.stem for path in (tmp_path / "reports/mini/tables").iterdir()}
    assert files == said["tables"].keys()
    assert files == set(report.SHEETS) - {"published-elsewhere"}
    first, second = said["tables"]["quality"]
    runs = record.load(tmp_path / "results")
    known = runs[(runs.recipe == "01-new-weights") & (runs.status == "finished")]
    assert second["final_miou_mean"] == pytest.approx(known.final_miou.mean())
    assert second["miou_to_predecessor_against"] == "00-mmseg-baseline"
    assert second["miou_to_predecessor_reason"] == "n = 2"
    assert second["miou_to_predecessor_verdict"] is None
    assert first["miou_to_base"] is None
    assert len(said["tables"]["runs"]) == 5
    assert said["not_averaged"] == [{"run": "mini/00-mmseg-baseline/seed-0", "why": "failed: no memory"}]


@pytest.mark.usefixtures("undrawn")
def test_a_table_that_other_records_left_is_gone(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", seeds=1, rungs=("00",))
    stale = tmp_path / "reports/mini/tables/published-elsewhere.csv"
    stale.parent.mkdir(parents=True)
    stale.write_text("of an earlier report")
    page(tmp_path / "results")
    assert not stale.exists()


@pytest.mark.usefixtures("undrawn")
def test_a_systems_rung_is_judged_by_what_it_loses(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", rungs=("06", "07"), noise=0.01)
    fast = systems_rung(tmp_path)
    for seed in range(3):
        fake_records.make_run(tmp_path / "results", fast, workload.load("mini"), seed, noise=0.01)
    text = page(tmp_path / "results")
    assert row(text, "07-tensor-layout")[1] == "channels_last unset → on"
    assert "not worse" in row(text, "07-tensor-layout")[3]
    assert "not worse (systems rung)" in text.split("## The ladder: quality")[0]
    assert row(text, "07-tensor-layout", 2)[4] == "– (systems rung)"
    assert "judged by non-inferiority" in text
    said = json.loads((tmp_path / "reports/mini/report.json").read_text())["tables"]["quality"]
    kept = {each["rung"]: each["miou_to_predecessor_non_inferiority"] for each in said}
    assert kept == {"06-batch-128": None, "07-no-sync-bn": False, "07-tensor-layout": True}


def systems_rung(folder: Path) -> recipe.Recipe:
    path = folder / "07-tensor-layout.toml"
    path.write_text('extends = "07-no-sync-bn"\ntitle = "layout"\n[system]\nchannels_last = true\n')
    return recipe.load(path)


@pytest.mark.usefixtures("undrawn")
def test_published_speeds_stand_in_a_column_that_says_so(tmp_path: Path) -> None:
    ade = replace(workload.load("mini"), name="ade20k")
    fake_records.make(tmp_path / "results", seeds=1, rungs=("00", "04", "07"), setting=ade)
    text = page(tmp_path / "results")
    head = row(text, "rung", 1)
    assert (head[0], head[6]) == ("rung", "published, not measured here")
    assert row(text, "00-mmseg-baseline", 1)[6] == "6.385 h, 112 img/s (from the hours)"
    assert row(text, "04-batch-32", 1)[6] == "1.3 to 1.4 times rung 03"


@pytest.mark.usefixtures("undrawn")
def test_a_step_over_rungs_that_were_not_measured_says_what_it_spans(tmp_path: Path) -> None:
    ade = replace(workload.load("mini"), name="ade20k")
    fake_records.make(tmp_path / "results", seeds=1, rungs=("00", "01", "07"), setting=ade)
    text = page(tmp_path / "results").split("## The blog's table")[1]
    cells = row(text, "02 to 07")
    assert cells[0] == "02 to 07 together, against 01"
    assert cells[-1] == "–", "the published step is another"
    assert row(text, "01 new weights")[-1] == "+0.84"


@pytest.mark.usefixtures("undrawn")
def test_on_one_device_the_cost_of_sync_bn_is_said_not_to_be_measured(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", seeds=1, rungs=("05", "06", "07"))
    assert "between rungs 06 and 07 are no measure of what sync BN costs" in page(tmp_path / "results")
    fake_records.make(tmp_path / "many", seeds=1, rungs=("05", "06", "07"), device_count=8)
    assert "no measure" not in page(tmp_path / "many")


@pytest.mark.usefixtures("undrawn")
def test_the_commands_and_the_protocol_are_on_the_page(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", seeds=1, rungs=("00",))
    text = page(tmp_path / "results")
    assert "```\nsegbench run --recipe all --seeds 3\n```" in text
    assert "protocol `squash`" in text
    assert "is left out of the mean" in text


def test_a_command_with_a_path_that_is_no_text_ends_no_report(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", seeds=1, rungs=("00",))
    for path in (tmp_path / "results").rglob("run.json"):
        run = json.loads(path.read_text())
        path.write_text(json.dumps({**run, "command": "segbench run --data /tmp/\udcff"}))
    assert "segbench run --data /tmp/\\udcff" in page(tmp_path / "results")


@pytest.mark.parametrize("status", ["failed", "running"])
def test_results_without_a_finished_run_are_an_error(tmp_path: Path, status: str) -> None:
    fake_records.make(tmp_path / "results", seeds=1, rungs=("00",), status=status, error="no memory")
    with pytest.raises(BenchError, match=f"no finished run .*seed-0, {status}: no memory") as caught:
        report.write(tmp_path / "results", tmp_path / "reports")
    assert caught.value.code == 1
    assert "segbench run" in caught.value.hint


def test_an_empty_or_missing_results_folder_is_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BenchError, match="no f"):
            report.write(folder, tmp_path / "reports")


def test_a_place_that_takes_no_report_is_an_error(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", seeds=1, rungs=("00",))
    (tmp_path / "reports").write_text("a file")
    with pytest.raises(BenchError, match="cannot write the report") as caught:
        report.write(tmp_path / "results", tmp_path / "reports")
    assert "--out" in caught.value.hint


@pytest.mark.parametrize("target", [-1.0, 101.0, float("nan")])
def test_a_target_that_is_no_miou_is_a_usage_error(tmp_path: Path, target: float) -> None:
    with pytest.raises(BenchError, match="target") as caught:
        report.write(tmp_path, tmp_path, target)
    assert caught.value.code == 2


@pytest.mark.usefixtures("undrawn")
def test_what_the_doctor_warned_of_stands_among_the_warnings(tmp_path: Path) -> None:
    fake_records.make(tmp_path / "results", seeds=3, rungs=("00",))
    folders = sorted((tmp_path / "results").glob("*/*/seed-*"))
    for number, folder in enumerate(folders[:2]):
        busy = doctor.Line("load", "warn", f"busy {number}", "wait")
        doctor.keep(folder, [busy, doctor.Line("memory", "ok", "enough")], resumed=False)
    text = page(tmp_path / "results").split("## Warnings")[1].split("##")[0]
    name = folders[0].parent.name
    assert (
        f"- **doctor: load** (`{name}` seed 0, `{name}` seed 1): busy 0 (the first of them) → wait\n" in text
    )
    assert "memory" not in text
