"""The record: written in one step, read back whole, and refused where it is not sound."""

from __future__ import annotations

import errno
import json
import os
import resource
import runpy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas
import pytest

import bench
from bench import BenchError, record

KNOWN = {
    "workload": "mini",
    "recipe": "00-base",
    "seed": 0,
    "recipe_fingerprint": "aa",
    "workload_fingerprint": "bb",
    "status": "finished",
    "train_s": 12.5,
    "final_miou": 31.25,
    "per_class_iou": {"sky": 62.5, "boat": None},
    "unmeasured": {"gpu_busy_pct": "the run used no GPU"},
}


def make(results: Path, seed: int = 0, recipe: str = "00-base", **changes: Any) -> Path:
    folder = record.run_folder(results, "mini", recipe, seed)
    record.write(folder, {**KNOWN, "recipe": recipe, "seed": seed, **changes})
    return folder


def spoil(folder: Path, **changes: Any) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A real write error, as on a full disk: no file may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# The declaration


def test_the_page_on_records_is_that_of_the_declaration() -> None:
    root = Path(__file__).parents[1]
    page = runpy.run_path(str(root / "scripts/describe_record.py"))["page"]()
    assert (root / "RECORD.md").read_text(encoding="utf-8") == page, "python scripts/describe_record.py"


@pytest.mark.parametrize("field", record.FIELDS, ids=lambda field: field.name)
def test_a_field_is_declared_with_direction_unit_and_a_sentence(field: record.Field) -> None:
    assert field.direction in ("more", "less", "neither")
    assert field.about.endswith(".")
    units = {"_s": "s", "_ms_p50": "ms", "_ms_p95": "ms", "_pct": "%", "_mib": "MiB", "_w": "W", "_kj": "kJ"}
    for ending, unit in units.items():
        if field.name.endswith(ending) and field.name != "images_per_s":
            assert field.unit == unit


def test_field_names_are_unique() -> None:
    assert len(record.FIELD) == len(record.FIELDS)


def test_the_record_has_every_field_of_the_design() -> None:
    promised = """
        schema protocol workload recipe seed recipe_fingerprint workload_fingerprint started_at
        segbench_version git_commit git_dirty status error warnings resumed final_miou best_miou
        final_pixel_accuracy final_loss target_miou per_class_iou setup_s train_s eval_s
        checkpoint_s wall_s lost_s time_to_target_train_s time_to_target_wall_s steps_to_target
        images_per_s step_ms_p50 step_ms_p95 data_wait_pct mfu_pct unmeasured gpu_busy_pct
        gpu_sm_active_pct gpu_memory_peak_mib gpu_power_w gpu_energy_kj gpu_throttled_s
        cpu_busy_pct memory_peak_mib telemetry_cost_pct device device_count gpu driver cuda cudnn
        torch torchvision python cpu cores threads data_workers tf32 cudnn_benchmark deterministic
        os host"""
    assert not set(promised.split()) - record.FIELD.keys()


def test_records_of_another_machine_protocol_or_torch_must_not_be_compared() -> None:
    assert {"protocol", "device", "device_count", "gpu", "cpu", "torch", "threads"} <= set(record.MUST_MATCH)
    assert not {"seed", "recipe", "host", "started_at", "git_commit"} & set(record.MUST_MATCH)


def test_every_warning_says_what_to_do() -> None:
    assert all(": " in advice and advice.endswith(".") for advice in record.WARNINGS.values())


# Writing


def test_a_record_reads_back_as_written_with_every_field_present(tmp_path: Path) -> None:
    run = record.read(make(tmp_path))
    assert run.keys() == record.FIELD.keys()
    assert {name: run[name] for name in KNOWN} == KNOWN
    assert (run["schema"], run["warnings"], run["resumed"]) == (record.SCHEMA, [], 0)
    assert run["gpu_busy_pct"] is None
    assert run["images_per_s"] is None


def test_two_blank_records_share_nothing() -> None:
    record.blank()["warnings"].append("resumed")
    assert record.blank()["warnings"] == []


def test_a_field_that_is_not_declared_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mIoU"):
        make(tmp_path, mIoU=3)
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_say_is_not_written(tmp_path: Path, value: float) -> None:
    folder = make(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        make(tmp_path, final_loss=value)
    assert record.read(folder)["final_loss"] is None


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_crash_in_the_middle_leaves_the_old_record_and_no_litter(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    folder = make(tmp_path)
    before = (folder / "run.json").read_bytes()
    monkeypatch.setattr(os, call, crash)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, status="failed")
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    assert (folder / "run.json").read_bytes() == before


def test_a_crash_right_after_the_replacement_is_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def crash(*paths: Any) -> None:
        replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)


def test_the_disk_has_the_text_before_the_name_points_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *rest, name=name, real=real: (calls.append(name), real(*rest))[1]
        )
    record.write_atomic(tmp_path / "text", "x")
    assert calls == ["fsync", "replace"]


def test_a_disk_that_fills_up_is_an_error_and_the_old_record_stays(tmp_path: Path) -> None:
    folder = make(tmp_path)
    with largest_file(100), pytest.raises(BenchError, match="cannot write .*run.json") as caught:
        make(tmp_path, error="x" * 50_000)
    assert "--results" in caught.value.hint
    assert record.read(folder)["error"] is None
    assert [path.name for path in folder.iterdir()] == ["run.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_an_error_with_the_systems_words(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(record.tempfile, "mkstemp", refuse)
    with pytest.raises(BenchError, match=os.strerror(code)):
        make(tmp_path)


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mini").write_text("not a folder")
    with pytest.raises(BenchError, match="cannot write"):
        make(tmp_path)


# Reading


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read as a record"),
        (b'{"schema": 1, "recipe": "00-ba', "cannot be read as a record"),
        (b"\xff\xfe\x00", "cannot be read as a record"),
        (b"[" * 99999, "cannot be read as a record"),
        (b"[1, 2]", "is not a segbench record"),
        (b'"text"', "is not a segbench record"),
        (b"null", "is not a segbench record"),
        (b'{"name": "somebody else"}', "is not a segbench record"),
        (b'{"schema": "1", "recipe": "x"}', "is not a segbench record"),
        (b'{"schema": 1, "recipe": "x"}', "is damaged"),
    ],
)
def test_a_half_written_or_foreign_file_is_refused_by_name(
    content: bytes, words: str, tmp_path: Path
) -> None:
    folder = make(tmp_path)
    (folder / "run.json").write_bytes(content)
    with pytest.raises(BenchError, match=f"{folder / 'run.json'} {words}") as caught:
        record.read(folder)
    assert caught.value.hint


def test_every_cut_of_a_record_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path)
    whole = (folder / "run.json").read_text().rstrip()
    for length in range(0, len(whole), 97):
        (folder / "run.json").write_text(whole[:length])
        with pytest.raises(BenchError, match="run.json"):
            record.read(folder)


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="holds no run.json"):
        record.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("wall_s", 10**400),
        ("command", ["segbench", "run"]),
        ("status", "done"),
        ("status", None),
        ("recipe", 3),
        ("workload", None),
        ("recipe_fingerprint", None),
        ("seed", "0"),
        ("seed", None),
        ("train_s", "12"),
        ("train_s", float("nan")),
        ("wall_s", True),
        ("images_per_s", float("inf")),
        ("final_miou", [31]),
        ("final_loss", float("nan")),
        ("steps", "100"),
        ("epochs", {}),
        ("warnings", None),
        ("warnings", "resumed"),
        ("warnings", [3]),
        ("unmeasured", []),
        ("per_class_iou", [1.0]),
        ("per_class_iou", {"sky": "62"}),
        ("per_class_iou", {"sky": float("nan")}),
    ],
)
def test_a_value_that_no_run_could_give_is_refused_by_name(name: str, value: Any, tmp_path: Path) -> None:
    folder = make(tmp_path)
    spoil(folder, **{name: value})
    with pytest.raises(BenchError, match=f"damaged: ({name}|sky) is") as caught:
        record.read(folder)
    assert "move" in caught.value.hint


def test_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    folder = make(tmp_path)
    spoil(folder, schema=record.SCHEMA + 1)
    with pytest.raises(BenchError, match=f"has schema {record.SCHEMA + 1}; this segbench") as caught:
        record.read(folder)
    assert "update" in caught.value.hint


def test_a_record_without_a_newer_field_is_read_and_the_field_is_null(tmp_path: Path) -> None:
    folder = make(tmp_path)
    run = json.loads((folder / "run.json").read_text())
    del run["mfu_nominal_pct"], run["warnings"], run["unmeasured"]
    (folder / "run.json").write_text(json.dumps({**run, "dropped_since": 1}))
    read = record.read(folder)
    assert (read["mfu_nominal_pct"], read["warnings"], read["unmeasured"]) == (None, [], {})
    assert "dropped_since" not in read


# Many records


def test_folders_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for recipe in ("10-late", "02-early", "9-mid"):
        for seed in (10, 2, 0, 1):
            make(tmp_path, seed, recipe)
    assert [str(path.relative_to(tmp_path / "mini")) for path in record.folders(tmp_path)] == [
        f"{recipe}/seed-{seed}" for recipe in ("02-early", "9-mid", "10-late") for seed in (0, 1, 2, 10)
    ]


@pytest.mark.parametrize("name", ["²", "7", "a1b", "ü٣"])
def test_any_name_of_a_results_folder_will_do(name: str, tmp_path: Path) -> None:
    make(tmp_path / name)
    make(tmp_path / "other")
    assert len(list(record.folders(tmp_path))) == 2


def test_only_run_folders_are_looked_at(tmp_path: Path) -> None:
    make(tmp_path)
    for name in ("run.json", "notes/run.json", "mini/00-base/seed-1/other.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert len(list(record.folders(tmp_path))) == 1


def test_a_scan_keeps_the_sound_records_and_names_the_others(tmp_path: Path) -> None:
    for seed in range(3):
        make(tmp_path, seed)
    (record.run_folder(tmp_path, "mini", "00-base", 1) / "run.json").write_text("{")
    runs, errors = record.scan(tmp_path)
    assert [run["seed"] for _, run in runs] == [0, 2]
    assert [folder.name for folder, _ in runs] == ["seed-0", "seed-2"]
    assert len(errors) == 1
    assert "seed-1" in errors[0].message


@pytest.mark.parametrize("call", [record.scan, record.load])
def test_results_that_are_not_there_are_refused(call: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="there is no folder"):
        call(tmp_path / "nowhere")


def test_a_table_has_a_row_a_run_and_a_column_a_field(tmp_path: Path) -> None:
    for seed in (10, 2):
        make(tmp_path, seed)
    runs = bench.load(str(tmp_path))
    assert list(runs.columns) == [*record.FIELD, "folder"]
    assert runs.seed.tolist() == [2, 10]
    assert runs.folder.tolist() == [str(tmp_path / f"mini/00-base/seed-{seed}") for seed in (2, 10)]
    assert runs.per_class_iou[0] == KNOWN["per_class_iou"]
    assert runs.unmeasured[0] == {"gpu_busy_pct": "the run used no GPU"}


def test_numbers_stay_numbers_in_a_table_where_some_are_unknown(tmp_path: Path) -> None:
    make(tmp_path, 0)
    make(tmp_path, 1, final_miou=None)
    runs = record.load(tmp_path)
    assert pandas.api.types.is_float_dtype(runs.final_miou)
    assert runs.final_miou.isna().tolist() == [False, True]


def test_a_table_of_no_runs_has_all_columns(tmp_path: Path) -> None:
    runs = record.load(tmp_path)
    assert len(runs) == 0
    assert list(runs.columns) == [*record.FIELD, "folder"]


def test_a_table_with_a_damaged_record_is_refused(tmp_path: Path) -> None:
    make(tmp_path, 0)
    spoil(make(tmp_path, 1), status="?")
    with pytest.raises(BenchError, match="seed-1"):
        record.load(tmp_path)


# Evaluations

ROWS = [
    {"step": 5, "epoch": 1.0, "miou": 1.5, "train_s": 1.0, "wall_s": 2.0, "per_class_iou": {"sky": None}},
    {"step": 10, "epoch": 2.0, "miou": 2.5, "train_s": 2.0, "wall_s": 3.0},
]


def test_evaluations_read_back_as_written(tmp_path: Path) -> None:
    record.write_evals(tmp_path, ROWS)
    assert record.read_evals(tmp_path) == ROWS
    record.write_evals(tmp_path, [])
    assert record.read_evals(tmp_path) == []


def test_a_run_without_evaluations_has_none(tmp_path: Path) -> None:
    assert record.read_evals(tmp_path) == []


def test_a_last_evaluation_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    record.write_evals(tmp_path, ROWS)
    whole = (tmp_path / "evals.jsonl").read_bytes()
    last = whole.index(b"\n") + 1
    for length in range(last, len(whole) - 2):
        (tmp_path / "evals.jsonl").write_bytes(whole[:length])
        assert record.read_evals(tmp_path) == ROWS[:1]


@pytest.mark.parametrize("line", [b'{"step": 5, "mi', b"\xff\xff", b"3", b"", b'{"step": 5}', b"[" * 99999])
def test_damage_before_the_last_evaluation_is_refused_by_line(line: bytes, tmp_path: Path) -> None:
    record.write_evals(tmp_path, ROWS)
    path = tmp_path / "evals.jsonl"
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join((first, line, second)))
    with pytest.raises(BenchError, match="evals.jsonl line 2 is damaged"):
        record.read_evals(tmp_path)


def test_evaluations_that_cannot_be_opened_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "evals.jsonl").mkdir()
    with pytest.raises(BenchError, match="evals.jsonl cannot be read"):
        record.read_evals(tmp_path)


# Older schemas


def test_a_record_of_schema_1_tells_the_official_miou_by_its_classes(tmp_path: Path) -> None:
    folder = make(tmp_path)
    spoil(folder, schema=1)
    assert record.read(folder)["final_miou_official"] == 62.5 / 2
    spoil(folder, schema=record.SCHEMA)
    assert record.read(folder)["final_miou_official"] is None


def test_a_record_from_before_there_were_caches_used_none(tmp_path: Path) -> None:
    folder = make(tmp_path)
    spoil(folder, schema=3)
    assert record.read(folder)["data_cache"] is False
    spoil(folder, schema=record.SCHEMA)
    assert record.read(folder)["data_cache"] is None


def test_a_record_of_schema_1_without_scores_has_none(tmp_path: Path) -> None:
    folder = make(tmp_path, per_class_iou=None)
    spoil(folder, schema=1)
    assert record.read(folder)["final_miou_official"] is None
