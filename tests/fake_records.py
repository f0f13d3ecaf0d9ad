"""A results folder of made-up but well-formed records, the same for the same arguments.

Shaped like a real ladder: curves that rise and level off, batch sizes that cost steps and save time, seeds
that scatter. Nothing here was measured.
"""

from __future__ import annotations

import csv
import math
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench import recipe, record, settings, workload
from bench.recipe import Recipe
from bench.workload import Workload

# Rung number -> (final mIoU, seconds to train), on a machine that does not exist.
LEVELS = {
    "00": (27.6, 14.9),
    "01": (30.9, 15.1),
    "02": (31.2, 15.2),
    "03": (31.5, 14.8),
    "04": (31.1, 12.6),
    "05": (29.3, 11.3),
    "06": (25.9, 10.5),
    "07": (26.6, 9.9),
    "08": (21.7, 9.4),
}
MACHINE = {
    "device": "cpu",
    "device_count": 1,
    "torch": "2.15.0",
    "torchvision": "0.30.0",
    "python": "3.11.9",
    "cpu": "An Imaginary Processor",
    "cores": 2,
    "threads": 2,
    "data_workers": 0,
    "deterministic": False,
    "os": "Linux 6.1",
    "host": "nowhere",
}
NO_GPU = {field.name: "the run used no GPU" for field in record.FIELDS if field.name.startswith("gpu_")}


def make(
    results: Path,
    seeds: int = 3,
    rungs: tuple[str, ...] = tuple(LEVELS),
    setting: Workload | None = None,
    noise: float = 0.7,
    gpus: int = 0,
    **fields: Any,
) -> None:
    """Write records of the shipped rungs with these numbers; `fields` go into every run.json. `gpus`: their
    telemetry is that of so many, and so is the record."""
    setting = setting or workload.load("mini")
    for rung in recipe.ladder():
        if rung.name[:2] in rungs:
            for seed in range(seeds):
                make_run(results, rung, setting, seed, noise, gpus, **fields)


def altered(setting: Workload, section: str, **values: Any) -> Workload:
    """The workload with other values in one section, and the fingerprint that goes with them."""
    changed = {**setting.values, section: {**setting.values[section], **values}}
    return replace(setting, values=changed, fingerprint=settings.fingerprint(changed, workload.LATER))


def make_run(
    results: Path,
    rung: Recipe,
    setting: Workload,
    seed: int,
    noise: float = 0.7,
    gpus: int = 0,
    **fields: Any,
) -> Path:
    """One finished run; returns its folder."""
    folder = record.run_folder(results, setting.name, rung.name, seed)
    folder.mkdir(parents=True)
    number = int(rung.name[:2])
    random = np.random.default_rng([number, seed, zlib.crc32(rung.name.encode())])
    level, seconds = LEVELS[rung.name[:2]]
    level += noise * random.standard_normal()
    seconds *= math.exp(0.02 * random.standard_normal())
    values = setting.values
    images = values["data"]["train_images"] or 367
    batch = rung.values["optim"]["batch_size"]
    steps = values["train"]["epochs"] * images // batch
    rows = _evaluate(random, setting, level, seconds, steps)
    target = values["evaluation"]["target_miou"]
    hit = next((row for row in rows if row["miou"] >= target), None)
    last = rows[-1]
    run = record.blank(
        **{
            **MACHINE,
            **(_gpu_fields(gpus, batch) if gpus else {}),
            "protocol": values["evaluation"]["protocol"],
            "workload": setting.name,
            "recipe": rung.name,
            "seed": seed,
            "recipe_fingerprint": rung.fingerprint,
            "workload_fingerprint": setting.fingerprint,
            "started_at": f"2026-01-{10 + seed:02d}T12:{number:02d}:00Z",
            "segbench_version": "0.1.0",
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "git_dirty": False,
            "command": "segbench run --recipe all --seeds 3",
            "status": "finished",
            "unmeasured": {} if gpus else dict(NO_GPU),
            "steps": steps,
            "steps_done": steps,
            "batch_size": batch,
            "replicas": values["train"]["replicas"],
            "epochs": values["train"]["epochs"],
            "train_images": images,
            "val_images": values["data"]["val_images"] or 101,
            "final_miou": last["miou"],
            "best_miou": max(row["miou"] for row in rows),
            "final_pixel_accuracy": last["pixel_accuracy"],
            "final_mean_accuracy": last["mean_accuracy"],
            "final_loss": last["loss"],
            "target_miou": target,
            "per_class_iou": last["per_class_iou"],
            "setup_s": 0.8,
            "train_s": last["train_s"],
            "eval_s": 0.12 * len(rows),
            "checkpoint_s": 0.3,
            "wall_s": last["train_s"] + 0.12 * len(rows) + 1.1,
            "time_to_target_train_s": hit and hit["train_s"],
            "time_to_target_wall_s": hit and hit["wall_s"],
            "steps_to_target": hit and hit["step"],
            "images_per_s": steps * batch / last["train_s"],
            "step_ms_p50": 1000 * last["train_s"] / steps,
            "step_ms_p95": 1200 * last["train_s"] / steps,
            "data_wait_pct": 1.5,
            "cpu_busy_pct": 93.0 + random.random(),
            "memory_peak_mib": 610.0 + batch,
            "telemetry_cost_pct": 0.1,
            **fields,
        }
    )
    record.write(folder, run)
    record.write_evals(folder, rows)
    (folder / "recipe.toml").write_text(recipe.dump(rung), encoding="utf-8")
    (folder / "workload.toml").write_text(workload.dump(setting), encoding="utf-8")
    _sense(folder, random, rows, gpus)
    _confuse(folder / "confusion.csv", random, list(values["data"]["classes"]))
    if seed == 0:
        _picture(folder / "samples", number + 1, len(values["data"]["classes"]))
    return folder


def _evaluate(
    random: np.random.Generator, setting: Workload, level: float, seconds: float, steps: int
) -> list[dict[str, Any]]:
    names = setting.values["data"]["classes"]
    count, epochs = setting.values["evaluation"]["evaluations"], setting.values["train"]["epochs"]
    tilt = np.random.default_rng(7).uniform(0.25, 1.75, len(names))
    rows = []
    for index in range(1, count + 1):
        share = index / count
        wanted = level * (1 - math.exp(-3.5 * share)) / (1 - math.exp(-3.5))
        wanted += 0.6 * (1 - share) * random.standard_normal()
        ious = np.clip(wanted * tilt / tilt.mean() + random.standard_normal(len(names)), 0, 100)
        rows.append(
            {
                "step": round(steps * index / count),
                "epoch": epochs * share,
                "images": round(epochs * share * 1000),
                "miou": float(ious.mean()),
                "pixel_accuracy": float(40 + ious.mean()),
                "mean_accuracy": float(8 + ious.mean()),
                "loss": 2.4 - 1.5 * share,
                "train_s": seconds * share,
                "wall_s": 0.8 + seconds * share + 0.12 * index,
                "per_class_iou": dict(zip(names, map(float, ious), strict=True)),
            }
        )
    return rows


def _gpu_fields(gpus: int, batch: int) -> dict[str, Any]:
    return {
        "device": "cuda",
        "device_count": gpus,
        "gpu": "An Imaginary GPU",
        "gpu_busy_pct": 91.0,
        "gpu_memory_peak_mib": 9000.0 + 40 * batch,
        "gpu_power_w": 330.0 * gpus,
        "gpu_energy_kj": 4.9 * gpus,
        "gpu_throttled_s": 0.0,
    }


def _sense(folder: Path, random: np.random.Generator, rows: list[dict[str, Any]], gpus: int) -> None:
    wall = rows[-1]["wall_s"]
    with (folder / "telemetry.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["t", "phase", "device", "busy_pct", "memory_mib", "power_w"])
        for t in np.arange(0.1, wall, 0.25):
            near = any(0 <= row["wall_s"] - t < 0.25 for row in rows)
            phase = "setup" if t < 0.8 else "eval" if near else "train"
            busy = {"setup": 30.0, "eval": 55.0, "train": 94.0}[phase] + 4 * random.random()
            out.writerow([f"{t:.2f}", phase, "cpu", f"{busy:.1f}", "610", ""])
            for number in range(gpus):
                row = [f"{busy - number:.1f}", str(9000 + 100 * number), f"{3.3 * busy:.1f}"]
                out.writerow([f"{t:.2f}", phase, f"gpu{number}", *row])


def _confuse(path: Path, random: np.random.Generator, names: list[str]) -> None:
    pixels = random.integers(0, 40, (len(names), len(names))) + np.diag(
        random.integers(100, 9000, len(names))
    )
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["label", *names])
        out.writerows([name, *counts] for name, counts in zip(names, pixels.tolist(), strict=True))


def _picture(folder: Path, shift: int, count: int) -> None:
    """Scenes of bands and discs, the same for every run; a prediction is the label moved aside."""
    folder.mkdir()
    random = np.random.default_rng(11)
    high, wide = 64, 80
    y, x = np.mgrid[:high, :wide]
    for name in ("val-0001", "val-0042"):
        label = np.where(y < random.integers(18, 30), 1, np.where(y < random.integers(36, 48), 2, 3))
        for _ in range(4):
            cy, cx, size = random.integers(10, 54), random.integers(10, 70), random.integers(5, 14)
            label[(y - cy) ** 2 + (x - cx) ** 2 < size**2] = random.integers(1, count + 1)
        prediction = np.roll(label, shift, axis=1)
        label[:, -3:] = 0
        tint = np.random.default_rng(3).integers(40, 220, (count + 1, 3))
        image = np.clip(tint[label] + random.integers(-20, 20, (high, wide, 3)), 0, 255)
        for kind, pixels in (("image", image), ("label", label), ("prediction", prediction)):
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}-{kind}.png")
