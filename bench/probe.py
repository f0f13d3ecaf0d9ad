"""A live training that takes a step when it is told to: what `segbench check --against` measures.

A script, run in a process of its own with the package of one revision on its path. A revision that has this
file, with the same PROTOCOL, speaks for itself; for one that does not, the file of the revision that measures
stands in. So all that is asked of a revision is this conversation, in lines of JSON:

    in    {"recipe", "workload", "data", "weights", "device", "core", "seed"}       once
    out   {"protocol", "probe", "package", "torch", "batch_size", "recipe",
           "workload"}                                                              ready for the first step
    in    an empty line                                                             take a step
    out   {"step": seconds}, on a GPU also {"batch": seconds}                       what it took
    out   {"error", "hint"}                                                         instead; and the end

and, of a revision without this file, the names that `Training` imports. The end of the input is the end of
the process: none outlives the driver.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

gc.disable()  # until all is there: what stays is no garbage, and nobody need look at it during a step

import torch  # noqa: E402

PROTOCOL = 1
FOREVER = 10**9  # steps
OLD = "name a later commit: this one has no bench/probe.py, and lacks what that file imports"


class Training:
    """Data, model and optimiser of a run, as `segbench run` makes them, but for two things: one thread, and
    no data workers. A batch is made when the step wants it, by the process that is measured: a slower input
    pipeline is a slower revision, and no worker is at it during the other's turn.
    """

    def __init__(self, asked: Mapping[str, Any]) -> None:
        import bench
        from bench import device, recipe, source, workload
        from bench.group import ALONE
        from bench.learner import Learner

        self.package = Path(bench.__file__).parent
        self.recipe, work = recipe.load(asked["recipe"]), workload.load(asked["workload"])
        train = {**work.values["train"], "data_workers": 0}
        self.workload = replace(work, values={**work.values, "train": train})
        cores = () if asked["core"] is None else (asked["core"],)
        self.device = device.set_up(asked["device"], 1, False, cores)
        arguments = (self.recipe, self.workload, asked["seed"], self.device)
        self.batches = source.find(self._find_pictures(asked), *arguments, ALONE).batches(0, FOREVER)
        self.learner = Learner(*arguments, Path(asked["weights"]) if asked["weights"] else None)
        self.taken = 0

    def _find_pictures(self, asked: Mapping[str, Any]) -> Path | None:
        from bench import scenes

        data = self.workload.values["data"]
        if data["source"] != "scenes":
            return Path(asked["data"]) if asked["data"] else None
        counts = data["train_images"], data["val_images"]
        return scenes.ensure(scenes.cache_folder(), *counts, data["scenes_seed"])

    def introduce(self) -> dict[str, Any]:
        """What is measured, so that the driver can see whether the other does the same work."""
        return {
            "protocol": PROTOCOL,
            "probe": hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12],
            "package": str(self.package),
            "torch": torch.__version__,
            "batch_size": self.recipe.values["optim"]["batch_size"],
            "recipe": self.recipe.values,
            "workload": self.workload.values,
        }

    def take_step(self) -> dict[str, float]:
        """Seconds of the next step, on a CPU its batch included. A GPU computes while the next batch is made,
        so there the two are told apart: the step by events on the device, the batch by the clock.
        """
        began = time.perf_counter()
        if self.device.type == "cpu":
            self._train(next(self.batches))
            return {"step": time.perf_counter() - began}
        drawn = self.workload.values["data"]["source"] == "noise"  # on the device: part of the step
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if drawn:
            start.record()
        batch = next(self.batches)
        made = time.perf_counter()
        if not drawn:
            start.record()
        self._train(batch)
        end.record()
        end.synchronize()
        step = {"step": start.elapsed_time(end) / 1000}
        return step if drawn else {**step, "batch": made - began}

    def _train(self, batch: Any) -> None:
        self.learner.train_step(batch, self.taken, self.recipe.values["optim"]["lr"])
        self.taken += 1


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what anybody prints is no answer

    def answer(what: Mapping[str, Any]) -> None:
        print(json.dumps(what), file=answers)

    try:
        training = Training(json.loads(sys.stdin.readline()))
        gc.freeze()
        gc.enable()
        answer(training.introduce())
        for _ in iter(sys.stdin.readline, ""):
            answer(training.take_step())
    except BrokenPipeError:  # nobody listens any more
        sys.exit(1)
    except Exception as error:
        said = getattr(error, "message", None)  # of the revision's own BenchError
        hint = OLD if isinstance(error, ImportError) else getattr(error, "hint", "")
        answer({"error": said or f"{type(error).__name__}: {error}", "hint": hint})
        raise


if __name__ == "__main__":
    main()
