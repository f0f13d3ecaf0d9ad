"""Whether a record agrees with itself: a run writes many numbers twice, and an edit changes them once.

Phases add up to the wall time, the final score is that of the last evaluation, the speed follows from steps
and seconds, the fingerprints from the TOML files beside. What does not fit is named in words; such a record
is neither averaged nor compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import BenchError, recipe, record, workload
from bench.settings import Settings

PHASES = ("setup_s", "train_s", "eval_s", "checkpoint_s")
NEEDED = (*PHASES, "wall_s", "steps", "steps_done", "batch_size", "images_per_s", "final_miou", "best_miou")
SCORES = ("miou", "miou_official", "pixel_accuracy", "mean_accuracy", "loss")  # final_... of a record
CLOSE = 1e-6  # relative: nothing but rounding lies between the two
# Of the train time, what may pass after the last evaluation: no step is left, but data workers are sent home.
AFTER_S, AFTER_SHARE = 1.0, 0.01

Counted = dict[tuple[Any, ...], str]  # what tells a record from others -> its name


def exclude(folder: Path, run: Mapping[str, Any]) -> str:
    """Why the record `run` in `folder` is neither averaged nor compared; empty where it is."""
    if run["status"] != "finished":
        error = " ".join(str(run["error"] or "").split())
        return f"{run['status']}: {error}" if error else str(run["status"])
    return "; ".join(faults(folder, run))


def repeat(name: str, run: Mapping[str, Any], identity: tuple[str, ...], counted: Counted) -> str:
    """The record that this one repeats, in words: of one `identity` a seed counts once, and no two runs take
    the same time to the last digit. One that repeats none is added to `counted`, as `name`."""
    time, seed = ("train_s", run["train_s"]), (*identity, run["seed"])
    if time in counted:
        return f"a copy of {counted[time]}: the same train_s to the last digit"
    if seed in counted:
        return f"seed {run['seed']} counts already, from {counted[seed]}"
    counted |= {time: name, seed: name}
    return ""


def faults(folder: Path, run: Mapping[str, Any]) -> list[str]:
    """What does not fit in the record `run` of a finished run in `folder`, a line each; none: it is sound."""
    unknown = [name for name in NEEDED if run[name] is None]
    if unknown:
        return [f"finished without {', '.join(unknown)}"]
    found, settings = _settings(folder, run)
    count = settings["workload"].values["evaluation"]["evaluations"] if "workload" in settings else None
    return [*found, *_times(run), *_scores(folder, run, count)]


def _settings(folder: Path, run: Mapping[str, Any]) -> tuple[list[str], dict[str, Settings]]:
    """What is wrong with the recipe and the workload, and those that are right."""
    found: list[str] = []
    right: dict[str, Settings] = {}
    for kind, parse in (("recipe", recipe.parse), ("workload", workload.parse)):
        path = folder / f"{kind}.toml"
        try:
            said = parse(path.read_text(encoding="utf-8"), path.name)
        except (OSError, ValueError) as error:
            found.append(f"its {path.name} cannot be read: {error.__class__.__name__}")
        except BenchError as error:
            found.append(error.message)
        else:
            if (said.name, said.fingerprint) != (run[kind], run[f"{kind}_fingerprint"]):
                found.append(f"its run.json does not fit its {path.name}")
            else:
                right[kind] = said
    return found, right


def _times(run: Mapping[str, Any]) -> list[str]:
    if min(run[phase] for phase in PHASES) < 0 or min(run["train_s"], run["images_per_s"]) <= 0:
        return ["one of its phases took less than no time, or its training took none"]
    found = []
    total = math.fsum(run[phase] for phase in PHASES)
    if not _same(total, run["wall_s"]):
        found.append(f"its phases add up to {total:.6g} s, its wall_s is {run['wall_s']:.6g}")
    if run["steps_done"] != run["steps"]:
        found.append(f"it is finished, but {run['steps_done']} of {run['steps']} steps are done")
    speed = run["steps"] * run["batch_size"] / run["train_s"]
    if not run["resumed"] and not _same(speed, run["images_per_s"]):
        said = run["images_per_s"]
        found.append(f"steps x batch_size / train_s is {speed:.6g}, its images_per_s is {said:.6g}")
    return found


def _scores(folder: Path, run: Mapping[str, Any], count: int | None) -> list[str]:
    try:
        evals = record.read_evals(folder)
    except BenchError as error:
        return [error.message.replace(f"{folder}/", "its ")]
    if not evals:
        return ["its evals.jsonl is missing or empty"]
    return [*_final(run, evals), *_clock(run, evals[-1]), *_course(run, evals, count)]


def _final(run: Mapping[str, Any], evals: Sequence[Mapping[str, Any]]) -> list[str]:
    """Final scores are those of the last evaluation, per class, too; the best one is among them."""
    last, best = evals[-1], max(row["miou"] for row in evals)
    found = [
        f"its final_{name} is {run[f'final_{name}']:.6g}, its last evaluation shows {last[name]:.6g}"
        for name in SCORES
        if _told(run[f"final_{name}"], last.get(name)) and not _same(run[f"final_{name}"], last[name])
    ]
    if not _same(run["best_miou"], best):
        found.append(f"its best_miou is {run['best_miou']:.6g}, its best evaluation shows {best:.6g}")
    if (
        _told(run["per_class_iou"], last.get("per_class_iou"))
        and run["per_class_iou"] != last["per_class_iou"]
    ):
        found.append("its per_class_iou is not that of its last evaluation")
    return found


def _told(*values: Any) -> bool:
    """Whether all are known; a record of an older schema knows fewer."""
    return None not in values


def _clock(run: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    """The last evaluation follows the last step: the clock of training stands still from then on."""
    if last["step"] != run["steps"]:
        return [f"its last evaluation follows step {last['step']} of {run['steps']}"]
    after = run["train_s"] - last["train_s"]
    if -CLOSE * run["train_s"] <= after <= max(AFTER_S, AFTER_SHARE * run["train_s"]):
        return []
    return [f"its train_s is {run['train_s']:.6g}, at its last evaluation it was {last['train_s']:.6g}"]


def _course(run: Mapping[str, Any], evals: Sequence[Mapping[str, Any]], count: int | None) -> list[str]:
    """Evaluations follow the `count` steps that the workload names, clocks never go back, a share is one."""
    found = []
    due = count and [round(run["steps"] * part / count) for part in range(1, count + 1)]
    if due and [row["step"] for row in evals] != due:
        found.append(f"its evaluations do not follow the {count} steps that its workload names")
    for clock in ("train_s", "wall_s"):
        times = [0.0, *(row[clock] for row in evals)]
        if any(after < before for before, after in pairwise(times)):
            found.append(f"the {clock} of its evaluations runs backwards")
    if any(not 0 <= row["miou"] <= 100 for row in evals):
        found.append("an mIoU of its evaluations is not between 0 and 100")
    return found


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=CLOSE, abs_tol=1e-9)
