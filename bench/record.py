"""The record of a run: which files it is, what each number means, and how it is read back.

A run is a folder, `<results>/<workload>/<recipe>/seed-<n>/`; its centre is the flat `run.json`. Every
field of it is declared once, in `FIELDS`, with unit, direction and a sentence; tables, documentation and
checks read that declaration. Unknown is null with a reason in `unmeasured`, never 0.

History of the schema
    1   first
    2   final_miou_official; older records: from per_class_iou, which says as much
    3   checkpoints; older records: unknown
    4   data_cache; older records: false
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench import BenchError

if TYPE_CHECKING:
    import pandas

SCHEMA = 4
STATUSES = ("running", "finished", "diverged", "failed", "interrupted")

Direction = Literal["more", "less", "neither"]


@dataclass(frozen=True)
class Field:
    """One entry of `run.json`: `direction` says which way is better; records are compared only where
    all fields with `must_match` agree."""

    name: str
    group: str
    unit: str
    direction: Direction
    about: str
    must_match: bool = False


def _group(group: str, *rows: tuple[Any, ...]) -> list[Field]:
    return [Field(row[0], group, *row[1:]) for row in rows]


FIELDS: tuple[Field, ...] = (
    *_group(
        "identity",
        ("schema", "", "neither", "Version of this format."),
        ("protocol", "", "neither", "How validation images are scored: squash or native.", True),
        ("workload", "", "neither", "Name of the workload."),
        ("recipe", "", "neither", "Name of the recipe."),
        ("seed", "", "neither", "Seed of the run."),
        ("recipe_fingerprint", "", "neither", "Hash of the recipe's values."),
        ("workload_fingerprint", "", "neither", "Hash of the workload's values."),
        ("data_fingerprint", "", "neither", "Hash of names and sizes of the data set's files."),
        ("started_at", "UTC", "neither", "When the run was first started."),
        ("segbench_version", "", "neither", "Version of segbench."),
        ("git_commit", "", "neither", "Commit of the checkout that segbench ran from."),
        ("git_dirty", "", "neither", "Whether the program or its recipes differed from that commit."),
        ("command", "", "neither", "The command line that made the record."),
    ),
    *_group(
        "outcome",
        ("status", "", "neither", "running, finished, diverged, failed or interrupted."),
        ("error", "", "neither", "Why the run did not finish."),
        ("warnings", "", "neither", "Names from WARNINGS: what makes the numbers doubtful."),
        ("resumed", "times", "less", "How often it went on from a checkpoint; then no speed verdict."),
        ("unmeasured", "", "neither", "Field name -> why it is null."),
    ),
    *_group(
        "work",
        ("steps", "steps", "neither", "Optimiser steps of the whole run."),
        ("steps_done", "steps", "neither", "Optimiser steps done so far."),
        ("batch_size", "images", "neither", "Images of one optimiser step, over all replicas."),
        ("replicas", "", "neither", "Equal slices that the global batch is cut into."),
        ("epochs", "epochs", "neither", "Passes over the training images."),
        ("train_images", "images", "neither", "Training images in the data set."),
        ("val_images", "images", "neither", "Validation images, each scored once an evaluation."),
        ("parameters", "", "neither", "Trainable parameters of the model."),
        ("flops_per_image", "FLOP", "neither", "Forward and backward of one training crop, as counted."),
    ),
    *_group(
        "quality",
        ("final_miou", "points", "more", "mIoU of the last evaluation; absent classes are left out."),
        ("final_miou_official", "points", "more", "The same, absent classes counted as 0: ADE20K's way."),
        ("best_miou", "points", "more", "Highest mIoU of any evaluation."),
        ("final_pixel_accuracy", "points", "more", "Share of the valid pixels that are right, at the end."),
        ("final_mean_accuracy", "points", "more", "Recall, averaged over the classes, at the end."),
        ("final_loss", "nats", "less", "Mean training loss since the evaluation before the last."),
        ("target_miou", "points", "neither", "The mIoU to reach."),
        ("per_class_iou", "points", "more", "Class -> IoU at the end; null where a class never occurs."),
    ),
    *_group(
        "time",
        ("setup_s", "s", "less", "Opening data, building the model and warming up."),
        ("train_s", "s", "less", "Time to train: all steps, evaluation and checkpoints left out."),
        ("eval_s", "s", "less", "All evaluations."),
        ("checkpoint_s", "s", "less", "Writing checkpoints and records."),
        ("checkpoints", "", "neither", "Written: after each evaluation, and every 300 s of training."),
        ("wall_s", "s", "less", "Everything: the four phases add up to it."),
        ("lost_s", "s", "less", "Trained after the last checkpoint and lost to a stop; not part of wall_s."),
        ("time_to_target_train_s", "s", "less", "train_s at the first evaluation at or above the target."),
        ("time_to_target_wall_s", "s", "less", "wall_s at the first evaluation at or above the target."),
        ("steps_to_target", "steps", "less", "Steps at the first evaluation at or above the target."),
    ),
    *_group(
        "speed",
        ("images_per_s", "img/s", "more", "Images of all real steps over train_s."),
        ("step_ms_p50", "ms", "less", "Median time of a step."),
        ("step_ms_p95", "ms", "less", "95th percentile of the time of a step."),
        ("data_wait_pct", "%", "less", "Share of train_s spent waiting for the next batch."),
        ("mfu_pct", "%", "more", "FLOPs done over those the measured peak allows."),
        ("mfu_nominal_pct", "%", "more", "FLOPs done over those the maker's peak allows."),
        (
            "peak_measured_tflops",
            "TFLOP/s",
            "neither",
            "A large matrix product on one of the devices, in set-up.",
        ),
        ("peak_nominal_tflops", "TFLOP/s", "neither", "The maker's dense figure at the run's precision."),
    ),
    *_group(
        "hardware",
        ("gpu_busy_pct", "%", "more", "Share of time in which any kernel ran (NVML utilisation)."),
        ("gpu_sm_active_pct", "%", "more", "Share of time the multiprocessors had work (GPM)."),
        ("gpu_memory_peak_mib", "MiB", "less", "Highest memory in use on the busiest device."),
        ("gpu_power_w", "W", "less", "Mean power of all devices together."),
        ("gpu_energy_kj", "kJ", "less", "Energy of all devices over train time."),
        ("gpu_throttled_s", "s", "less", "Train time with clocks held down by heat or power."),
        ("cpu_busy_pct", "%", "neither", "Share of its cores busy, by any program; mean over machines."),
        ("memory_peak_mib", "MiB", "less", "Highest proportional set size of its processes, all machines."),
        ("telemetry_cost_pct", "%", "less", "CPU time of the sampling thread over train_s."),
    ),
    *_group(
        "machine",
        ("device", "", "neither", "cpu or cuda.", True),
        ("device_count", "", "neither", "Devices that shared the replicas.", True),
        ("gpu", "", "neither", "Name of the GPU.", True),
        ("driver", "", "neither", "Version of the GPU driver.", True),
        ("cuda", "", "neither", "Version of CUDA that torch was built with.", True),
        ("cudnn", "", "neither", "Version of cuDNN.", True),
        ("torch", "", "neither", "Version of torch.", True),
        ("torchvision", "", "neither", "Version of torchvision.", True),
        ("python", "", "neither", "Version of Python."),
        ("cpu", "", "neither", "Name of the processor.", True),
        ("cores", "", "neither", "Cores of the machine that segbench may use.", True),
        ("threads", "", "neither", "Threads torch computes with.", True),
        ("runs_at_once", "", "neither", "Runs side by side, each on cores of its own.", True),
        ("data_workers", "", "neither", "Processes that prepare batches; 0: the training process.", True),
        ("data_cache", "", "neither", "Whether pictures came decoded, from a prepared cache.", True),
        ("tf32", "", "neither", "Whether float32 products may round to TF32.", True),
        ("cudnn_benchmark", "", "neither", "Whether cuDNN tries its algorithms out.", True),
        ("deterministic", "", "neither", "Whether only deterministic algorithms were allowed.", True),
        ("os", "", "neither", "Operating system."),
        ("host", "", "neither", "Name of the machine."),
    ),
)
FIELD: Mapping[str, Field] = {field.name: field for field in FIELDS}
MUST_MATCH: tuple[str, ...] = tuple(field.name for field in FIELDS if field.must_match)
NUMBERS: tuple[str, ...] = tuple(
    field.name
    for field in FIELDS
    if field.group in ("work", "quality", "time", "speed", "hardware") and field.name != "per_class_iou"
)

# The closed list of doubts, each with what to do about it.
WARNINGS: Mapping[str, str] = {
    "resumed": "The run was interrupted and resumed, so its times give no speed verdict: delete its folder "
    "to measure anew.",
    "code_changed": "It went on with other code, or another torch, than it began with, so that no commit "
    "makes the number again: delete its folder to measure anew.",
    "machine_busy": "Other programs used the processor while it trained: close them and measure again.",
    "gpu_shared": "Other processes were on the GPU at the start or the end: measure again without them.",
    "throttled": "The GPU lowered its clocks for heat or power: improve cooling or raise the power limit, "
    "then measure again.",
    "telemetry_stopped": "A sensor failed in mid-run: its figures cover the time before; see telemetry.csv.",
    "git_dirty": "The code had uncommitted changes: commit them, so that the number can be made again.",
    "few_evaluations": "Fewer than five evaluations: time to target is coarse; evaluate more often.",
}


def run_folder(results: Path, workload: str, recipe: str, seed: int) -> Path:
    """Where the run's record lies below `results`."""
    return results / workload / recipe / f"seed-{seed}"


def blank(**known: Any) -> dict[str, Any]:
    """A record with every field of `FIELDS`; what is not in `known` is null. KeyError: no such field."""
    unknown = known.keys() - FIELD.keys()
    if unknown:
        raise KeyError(f"no such field in a record: {', '.join(sorted(unknown))}")
    empty = {"schema": SCHEMA, "warnings": [], "unmeasured": {}, "resumed": 0, "lost_s": 0.0}
    return {name: known.get(name, empty.get(name)) for name in FIELD}


def write(folder: Path, run: Mapping[str, Any]) -> None:
    """Write `run.json` atomically: a reader sees the old one or the new one. KeyError: not a field."""
    write_atomic(folder / "run.json", json.dumps(blank(**run), indent=1, allow_nan=False) + "\n")


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step that survives a crash.

    BenchError: the disk is full or read-only.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o644)
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> BenchError:
    """The error for a results folder that cannot take a file."""
    return BenchError(
        f"cannot write {path}: {error.strerror or error}",
        "free some space or name a folder you may write to with --results",
    )


def read(folder: Path) -> dict[str, Any]:
    """The record in `folder`, every field of `FIELDS` present.

    Raises BenchError where `run.json` is missing, half-written, foreign, or of a newer schema.
    """
    path = folder / "run.json"
    aside = f"move {folder} away, or name another folder with --results"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchError(f"{folder} holds no run.json", aside) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(f"{path} cannot be read as a record: {error}", aside) from error
    if not isinstance(run, dict) or not isinstance(run.get("schema"), int) or "recipe" not in run:
        raise BenchError(f"{path} is not a segbench record", aside)
    if run["schema"] > SCHEMA:
        raise BenchError(
            f"{path} has schema {run['schema']}; this segbench ({SCHEMA}) is older",
            "read it with the segbench that wrote it, or update this one",
        )
    damage = _damage(run)
    if damage:
        raise BenchError(f"{path} is damaged: {damage}", aside)
    return blank(**{name: value for name, value in _updated(run).items() if name in FIELD})


def _updated(run: dict[str, Any]) -> dict[str, Any]:
    """The record with the fields that later schemas added, where it says enough to know them."""
    if run["schema"] < 2 and (iou := run.get("per_class_iou")):
        run["final_miou_official"] = math.fsum(value or 0.0 for value in iou.values()) / len(iou)
    if run["schema"] < 4:
        run["data_cache"] = False  # there was none
    return run


def _damage(run: Mapping[str, Any]) -> str | None:
    """What no record could say, in words; None where the record is sound."""
    if run.get("status") not in STATUSES:
        return f"status is {run.get('status')!r}"
    for name in ("workload", "recipe", "recipe_fingerprint", "workload_fingerprint"):
        if not isinstance(run.get(name), str):
            return f"{name} is {run.get(name)!r}"
    if not isinstance(run.get("seed"), int):
        return f"seed is {run.get('seed')!r}"
    for name, kind in (("warnings", list), ("unmeasured", dict), ("per_class_iou", dict)):
        if not isinstance(run.get(name, kind()), kind) and (name, run[name]) != ("per_class_iou", None):
            return f"{name} is {run[name]!r}"
    if not isinstance(run.get("command", ""), str | None):
        return f"command is {run['command']!r}"
    if not all(isinstance(name, str) for name in run.get("warnings", [])):
        return f"warnings is {run['warnings']!r}"
    numbers = {name: run.get(name) for name in NUMBERS} | (run.get("per_class_iou") or {})
    for name, value in numbers.items():
        if value is not None and not _is_number(value):
            return f"{name} is {value!r}"
    return None


TOO_MUCH = 1e100  # nothing measured comes near, and what is below can be squared


def _is_number(value: Any) -> bool:
    """Whether a measurement may say so; not a number is below nothing, and so is no number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < TOO_MUCH


def folders(results: Path) -> Iterator[Path]:
    """Every folder below `results` that holds a `run.json`, in a fixed order (seeds by number)."""

    def order(path: Path) -> tuple[Any, ...]:
        return tuple(
            tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name))
            for name in path.parts
        )

    return iter(sorted((path.parent for path in results.glob("**/seed-*/run.json")), key=order))


def scan(results: Path) -> tuple[list[tuple[Path, dict[str, Any]]], list[BenchError]]:
    """All (folder, record) pairs below `results`, and the errors of what could not be read."""
    if not results.is_dir():
        raise BenchError(
            f"there is no folder {results}", "run `segbench run` first, or name a folder with --results"
        )
    runs, errors = [], []
    for folder in folders(results):
        try:
            runs.append((folder, read(folder)))
        except BenchError as error:
            errors.append(error)
    return runs, errors


def load(results: Path) -> pandas.DataFrame:
    """One row a run, one column a field of `FIELDS`, and `folder`. BenchError: an unreadable record."""
    import pandas

    runs, errors = scan(results)
    if errors:
        raise errors[0]
    rows = [{**run, "folder": str(folder)} for folder, run in runs]
    return pandas.DataFrame(rows, columns=[*FIELD, "folder"])


_EVAL_NUMBERS = ("step", "epoch", "miou", "train_s", "wall_s")  # what no reader can do without


def read_evals(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run, in order: dicts with `step epoch images miou pixel_accuracy mean_accuracy
    loss train_s wall_s` (points, nats, seconds). A last line that a crash cut off is left out.

    BenchError: the file cannot be read, or another line is damaged.
    """
    path, advice = folder / "evals.jsonl", f"move {folder} away and run it again"
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}", advice) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
            if damaged := [name for name in _EVAL_NUMBERS if not _is_number(row.get(name))]:
                raise ValueError(f"{damaged[0]} is {row.get(damaged[0])!r}")
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise BenchError(f"{path} line {number} is damaged: {error}", advice) from error
        else:
            rows.append(row)
    return rows


def write_evals(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Replace `evals.jsonl`: one JSON object a line."""
    write_atomic(folder / "evals.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
