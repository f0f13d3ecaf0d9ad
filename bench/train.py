"""Train one run, from set-up to record: the loop reads top to bottom in `train`.

Set-up opens the data, builds the model and warms up on random batches; then what the warm-up changed is put
back and the clock goes over to training with the first real step. Each evaluation is followed by a checkpoint
and the record, so a stop loses no more than the steps since.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import itertools
import os
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from bench import (
    STOPS,
    BenchError,
    artifacts,
    batches,
    checkpoint,
    device,
    machine,
    machines,
    optim,
    record,
    source,
    workload,
)
from bench import model as models
from bench.batches import Batch
from bench.clock import Clock
from bench.device import examine, facts
from bench.evaluate import Scored, Validation, score
from bench.group import Group, joined
from bench.learner import Learner
from bench.matrix import Job
from bench.meeting import excuse
from bench.pretrained import find as find_weights
from bench.progress import Progress
from bench.recipe import dump as dump_recipe
from bench.steps import Steps

__all__ = ["Interrupted", "examine", "excuse", "facts", "find_weights", "ready", "train"]

CHECKPOINT_S = 300.0  # where evaluations are further apart
TELL_S = 0.25
ASK_STEPS, ASK_S = 8, 1.0  # over several devices: at most, between two questions whether to save or stop
MOVED = "it was resumed on another number of machines"
UNSAID = "the run ended before all its machines could say what they had measured"
CODE = ("segbench_version", "git_commit", "git_dirty", "torch", "torchvision")  # fields of a record
SCORES = ("miou", "miou_official", "pixel_accuracy", "mean_accuracy")

Said = TypeVar("Said")


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to stop and has saved where it was."""


def ready(job: Job) -> None:
    """Have the weights at hand that `job` starts from, and see that they fit. BenchError: they do not."""
    Learner(job.recipe, job.workload, job.seed, torch.device("cpu"), job.weights)


def train(job: Job, tell: Callable[[Progress], None]) -> None:
    """Train `job` to its end, going on from its checkpoint if there is one; `tell` hears of progress.

    The record says how it ended: finished or diverged on return, failed or interrupted where this raises.
    Raises Interrupted on one of STOPS, after a checkpoint; BenchError for data, weights or a disk that
    will not do.
    """
    began = time.perf_counter()
    run = None
    threads = job.workload.values["train"]["threads"] or job.facts["threads"]
    where = device.set_up(job.device, threads, job.deterministic, job.cores, job.seat.local_rank)
    with _stop_requests() as stop, contextlib.ExitStack() as exits:
        try:
            opened = _open(job, tell, began, where)
            opened.begin(exits.enter_context(joined(job.seat, where)))
            run = opened
            run.warm_up()
            run.enter("train")
            if run.owes_evaluation():
                run.evaluate(stop)
                run.go_on()
            for batch in run.batches():
                lr = optim.learning_rate(run.recipe["optim"], run.step, run.steps)
                loss = run.learner.train_step(batch, run.step, lr)
                run.log.end(loss, lr)
                run.step += 1
                run.log.drain()
                if run.owes_evaluation():
                    run.evaluate(stop)
                wish = run.agree(run.wish(stop))
                if wish == "diverged":
                    return run.give_up()
                if wish == "stop" and run.step < run.steps:
                    raise Interrupted
                if wish == "save":
                    run.save()
                run.go_on()
            run.finish()
        except BaseException as error:
            cause = batches.told(error)
            with contextlib.suppress(BenchError):  # a full disk must not hide what filled it
                _record_failure(job, run, cause)
            if cause is not error:
                raise cause from error
            raise
        finally:
            if run is not None:
                run.telemetry.stop()


class Run:
    """The state of a run in progress: where it is, what it has measured, what it has written.

    Made, it has opened its data and started the workers; with `begin` it meets the other devices.
    """

    def __init__(
        self, job: Job, listener: Callable[[Progress], None], began: float, where: torch.device
    ) -> None:
        self.job, self.listener, self.device, self._began = job, listener, where, began
        self.group = Group(job.seat.rank, job.seat.devices)  # that cannot talk yet
        self.recipe, self.workload = job.recipe.values, job.workload.values
        self.batch_size = self.recipe["optim"]["batch_size"]
        self._open_data()
        self._saved = self._find_checkpoint()
        # Workers are forked before anything starts a thread, and long before the clock of training runs.
        self._loader = self.source.batches(self._saved["step"], self.steps)

    def begin(self, group: Group) -> None:
        """Meet the other devices, build what learns, and go on from the checkpoint.

        BenchError: the devices would not train the same.
        """
        job, self.group = self.job, group
        same = ("torch", "segbench_version", "git_commit", "gpu")
        told = {**self.checkpoint_of, **{name: job.facts[name] for name in same}}
        told |= {"data_cache": job.cache is not None, "step": self._saved["step"]}
        _compare(group.gather(told))
        self.learner = Learner(job.recipe, job.workload, job.seed, self.device, job.weights, group)
        self._restore(self._saved, self._began)
        del self._saved
        self._write_beginning()

    def _open_data(self) -> None:
        job, settings = self.job, self.workload["train"]
        self.source = source.find(
            job.data, job.recipe, job.workload, job.seed, self.device, self.group, job.cache
        )
        self.train_images, self.validation = self.source.train_images, self.source.validation
        self.classes: list[str] = self.workload["data"]["classes"]
        self.steps = settings["epochs"] * self.train_images // self.batch_size
        count = self.workload["evaluation"]["evaluations"]
        if self.steps < count:
            raise BenchError(
                f"{settings['epochs']} x {self.train_images} images give fewer batches of {self.batch_size} "
                f"than there are evaluations: {self.steps}, not {count}",
                "use a smaller batch_size, or give the workload more epochs, images or fewer evaluations",
            )
        self.evaluation_steps = {round(self.steps * part / count) for part in range(1, count + 1)}

    def _find_checkpoint(self) -> dict[str, Any]:
        """What to go on from: the checkpoint, or a beginning in a clean folder."""
        job, folder = self.job, self.job.folder
        self.checkpoint_of = {
            "seed": job.seed,
            "recipe_fingerprint": job.recipe.fingerprint,
            "workload_fingerprint": job.workload.fingerprint,
            "data_fingerprint": self.source.fingerprint,
        }
        saved = checkpoint.load(folder, tidy=self.group.leads, **self.checkpoint_of)
        before = record.read(folder) if (folder / "run.json").exists() else record.blank()
        lost = _lost_seconds(folder, saved["telemetry"]["t"] if saved else 0.0)
        changed = any(before[name] != job.facts[name] for name in CODE) and before["status"] is not None
        self.code_changed = saved is not None and (changed or "code_changed" in before["warnings"])
        if saved is None:
            if self.group.leads:
                _clean(folder)
            saved = dict.fromkeys(("learner", "log", "confusion", "clock", "telemetry"))
            saved.update(step=0, evals=[], waited_s=0.0, checkpoints=0)
            self.history = {"started_at": _now(), "resumed": 0, "lost_s": before["lost_s"] + lost}
        else:
            self.history = {
                "started_at": saved["started_at"],
                "resumed": before["resumed"] + 1,  # the record counts what came after the checkpoint, too
                "lost_s": before["lost_s"] + lost,
            }
        return saved

    def _restore(self, saved: Mapping[str, Any], began: float) -> None:
        if saved["learner"] is not None:
            self.learner.load(saved["learner"])
        self.step: int = saved["step"]
        self.log = Steps(self.steps, self.device, saved["log"])
        self.evals: list[dict[str, Any]] = saved["evals"]
        self.confusion: Tensor | None = saved["confusion"]  # of the last evaluation
        self.waited_s: float = saved["waited_s"]
        self.checkpoints: int = saved["checkpoints"]
        self.clock = Clock(wait=lambda: device.wait_for(self.device), state=saved["clock"], started=began)
        self.saved_at, self.told_at, self.ask_at = self.clock.seconds("train"), 0.0, 0
        self._begin_telemetry(saved)

    def _begin_telemetry(self, saved: Mapping[str, Any]) -> None:
        """The first device of each machine samples it, going on from what was measured in its place."""
        job, folder = self.job, self.job.folder
        pids, places = zip(*self.group.gather((os.getpid(), job.seat.local_rank)), strict=True)
        ranks = machines.split(places)
        self.layout = [len(each) for each in ranks]  # devices of each machine
        number = next(number for number, each in enumerate(ranks) if job.seat.rank in each)
        begun = saved["telemetry"] is not None
        # An older checkpoint knows of one machine alone.
        states, was = [saved["telemetry"], *saved.get("elsewhere", [])], saved.get("machines", [len(pids)])
        self.moved = begun and (saved.get("moved", False) or was != self.layout)
        at_checkpoint = {"t": states[0]["t"]} if begun else None
        if begun and self.group.leads:
            known = [machines.rows(folder, each) for each in range(len(ranks))]
            for path in set(machines.all_rows(folder)) - set(known):  # of machines that are no more
                machine.open_rows(path, states[0]["t"]).close()
        self.telemetry: machine.Telemetry | machine.NoTelemetry = machine.NoTelemetry()
        if job.seat.local_rank == 0:
            self.telemetry = machine.Telemetry(
                machines.rows(folder, number),
                device.uuids(self.device, job.seat.local_devices),
                states[number] if number < len(states) else at_checkpoint,
                others=[pids[rank] for rank in ranks[number][1:]],
                cores=job.all_cores,
            )
        self.telemetry.start()
        self.hear()

    def _write_beginning(self) -> None:
        """The files that say what is being trained."""
        self.identity = {
            **_identity(self.job),
            **self.checkpoint_of,
            **self.history,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "replicas": self.workload["train"]["replicas"],
            "epochs": self.workload["train"]["epochs"],
            "train_images": self.train_images,
            "val_images": len(self.validation),
            "parameters": sum(parameter.numel() for parameter in self.learner.model.parameters()),
            "target_miou": self.workload["evaluation"]["target_miou"],
            "threads": torch.get_num_threads(),
            "runs_at_once": self.job.runs_at_once,
            "data_workers": self.workload["train"]["data_workers"],
            "cudnn_benchmark": self.device.type == "cuda" and torch.backends.cudnn.benchmark,
            "deterministic": self.job.deterministic,
        }
        folder = self.job.folder
        if not self.group.leads:
            return
        record.write_atomic(folder / "recipe.toml", dump_recipe(self.job.recipe))
        record.write_atomic(folder / "workload.toml", workload.dump(self.job.workload))
        record.write_evals(folder, self.evals)
        if self.step:  # a kill may have come between the checkpoint and its rows
            self.log.write(folder / "steps.csv")
        self.write("running")

    # ------------------------------------------------------------------------------------- what the loop does

    def warm_up(self) -> None:
        """Make everything ready for the first real step, and find out what the device can do."""
        # torch lets convolutions round to TF32 where it may, so that is the peak to be measured against
        rounded = self.job.facts["tf32"] and self.learner.precision == "float32"
        precision = "tf32" if rounded else self.learner.precision
        self.learner.warm_up(self.validation)
        self.identity["flops_per_image"] = models.training_flops(
            self.workload["model"], len(self.classes), self.workload["train"]["crop"]
        )
        self.identity["peak_measured_tflops"] = device.measured_peak_tflops(self.device, precision)
        gpu = self.job.facts["gpu"]
        self.identity["peak_nominal_tflops"] = machine.nominal_peak_tflops(gpu, precision) if gpu else None

    def batches(self) -> Iterator[Batch]:
        """The batches that are still to come; the time spent waiting for them adds to `waited_s`."""
        while True:
            began = time.perf_counter()
            batch = next(self._loader, None)
            self.waited_s += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def enter(self, phase: str) -> None:
        """Change the phase of clock and telemetry; reading sensors never counts as training."""
        if phase == "train":
            self.telemetry.enter(phase)
            self.clock.enter(phase)
            self.log.begin()
        else:
            self.clock.enter(phase)
            self.telemetry.enter(phase)
            self.log.drain(wait=True)

    def go_on(self) -> None:
        """Back to training, if the step was followed by something else, and tell how far the run is."""
        if self.clock.phase != "train":
            self.enter("train")
        self.tell()

    def hear(self) -> None:
        """Have what each machine has measured until now; those of several come here at the same step."""
        own = self.telemetry.summary()
        host, devices = platform.node(), self.job.seat.local_devices
        self.reports = self._of_machines(own and machines.Report(host, devices, own))
        self.heard_at = self.step

    def _of_machines(self, own: Said | None) -> list[Said]:
        """What each machine says; `own`: what this device says for its own, if it is the first there."""
        said = self.group.gather(own) if len(self.layout) > 1 else [own]
        return [each for each in said if each is not None]

    def owes_evaluation(self) -> bool:
        """Whether the step just done is to be followed by an evaluation; also where that was cut short."""
        last = self.evals[-1]["step"] if self.evals else 0
        return self.step in self.evaluation_steps and last < self.step

    def evaluate(self, stop: _Stop) -> None:
        """Score the validation set, then save everything; nothing where a loss was not finite.

        Raises Interrupted where somebody says stop meanwhile, on all devices once each has left off.
        """
        self.enter("eval")
        if self.log.bad:
            return
        self.tell(force=True)
        confusion = self.learner.evaluate(_until(stop, self.validation))
        if any(self.group.gather(stop.requested)):
            raise Interrupted
        self.confusion = confusion
        scores = score(confusion)
        since = self.evals[-1]["step"] if self.evals else 0
        self.enter("checkpoint")
        self.evals.append(
            {
                "step": self.step,
                "epoch": self.step * self.batch_size / self.train_images,
                "images": self.step * self.batch_size,
                **{name: scores[name] for name in SCORES},
                "loss": self.log.mean_loss(since),
                "train_s": self.clock.seconds("train"),
                "wall_s": self.clock.wall(),
                "per_class_iou": dict(zip(self.classes, scores["iou"], strict=True)),
            }
        )
        self.save()
        self.tell(force=True)

    def save(self) -> None:
        """Checkpoint and record, by the first device alone; nothing where a loss was not finite. All devices
        come here at the same step."""
        self.enter("checkpoint")
        self.hear()
        states = self._of_machines(self.telemetry.state())
        if self.log.bad or not self.group.leads:
            self.saved_at = self.clock.seconds("train")
            return
        self.saved_at = self.clock.seconds("train")
        self.checkpoints += 1
        content = {
            **self.checkpoint_of,
            "started_at": self.history["started_at"],
            "step": self.step,
            "learner": self.learner.state(),
            "log": self.log.filled(),
            "evals": self.evals,
            "confusion": self.confusion,
            "waited_s": self.waited_s,
            "checkpoints": self.checkpoints,
            "clock": self.clock.state(),
            "telemetry": states[0],
            "elsewhere": states[1:],
            "machines": self.layout,
            "moved": self.moved,
        }
        checkpoint.save(self.job.folder, content)
        record.write_evals(self.job.folder, self.evals)
        self.log.write(self.job.folder / "steps.csv")
        self.write("running")

    def finish(self) -> None:
        """All steps are done: write what only the end can show, then the record, then drop the checkpoint."""
        self._measure_no_more()
        folder = self.job.folder
        if not self.group.leads:
            return
        assert self.confusion is not None, "the last step is followed by an evaluation"
        artifacts.write_confusion(folder / "confusion.csv", self.confusion, self.classes)
        count = self.workload["evaluation"]["samples"]
        if count and isinstance(self.validation, Validation):  # noise is nothing to look at
            artifacts.write_samples(folder / "samples", self.learner, self.validation, count)
        self._end("finished")

    def wish(self, stop: _Stop) -> str:
        """What this device would do after the step just done: end the run as "diverged" or by a "stop",
        "save", which only the first says, or "": go on."""
        if self.log.bad:
            return "diverged"
        if stop.requested:
            return "stop"
        due = self.clock.seconds("train") - self.saved_at > CHECKPOINT_S
        return "save" if due and self.group.leads else ""

    def agree(self, wish: str) -> str:
        """What all devices do now, the gravest of their wishes.

        Over several devices they ask each other every few steps, all at the same ones: at every step where
        one takes long.
        """
        if self.group.devices == 1:
            return wish
        if self.step < self.ask_at and self.step not in self.evaluation_steps:
            return ""
        said = self.group.gather((wish, self.clock.seconds("train") / self.step))
        slowest = max(seconds for _, seconds in said)
        self.ask_at = self.step + max(1, min(ASK_STEPS, int(ASK_S / slowest)))
        return max((each for each, _ in said), key=("", "save", "stop", "diverged").index)

    def give_up(self) -> None:
        """The loss left the numbers: that is a result, and the end of the run."""
        self._measure_no_more()
        if not self.group.leads:
            return
        assert self.log.bad is not None, "the loss is the same on all devices"
        step, loss = self.log.bad
        self.log.write(self.job.folder / "steps.csv")
        self._end("diverged", f"the loss of step {step} of {self.steps} is {loss}")

    def _measure_no_more(self) -> None:
        """The last step is done on all devices: the first hears what the others' machines have measured."""
        self.enter("checkpoint")
        if not self.group.leads:
            self.telemetry.stop()
        self.hear()

    def _end(self, status: str, error: str | None = None) -> None:
        self.telemetry.stop()
        self.write(status, error)
        checkpoint.remove(self.job.folder)

    def tell(self, force: bool = False) -> None:
        """Tell how far the run is, a few times a second at most."""
        now = time.perf_counter()
        if not force and now - self.told_at < TELL_S:
            return
        self.told_at = now
        seconds = self.clock.state()
        rate = self.step / seconds["train"]
        extra = (seconds["eval"] + seconds["checkpoint"]) / max(1, len(self.evals))
        left = (self.steps - self.step) / rate + extra * (len(self.evaluation_steps) - len(self.evals))
        miou = self.evals[-1]["miou"] if self.evals else None
        self.listener(Progress(self.clock.phase, self.step, self.steps, rate * self.batch_size, miou, left))

    # ------------------------------------------------------------------------------------------- the record

    def write(self, status: str, error: str | None = None) -> None:
        """Write run.json as things stand; the first device keeps it."""
        if not self.group.leads:
            return
        if len(self.layout) == 1:  # of several, what they have last said, all at one step
            self.hear()
        hardware, reasons, warnings = machines.combine(self.reports)
        if self.step > self.heard_at:
            unsaid = [name for name, reason in reasons.items() if machine.NO_SAMPLE in reason]
            reasons |= dict.fromkeys(unsaid, UNSAID)
        if self.moved:  # their sums do not go on where they were begun
            hardware, reasons = {}, dict.fromkeys(hardware, MOVED)
        if self.source.fingerprint is None:
            reasons["data_fingerprint"] = "the data is noise"
        if self.history["resumed"]:
            warnings.append("resumed")
        if self.code_changed:
            warnings.append("code_changed")
        if self.identity["git_dirty"]:
            warnings.append("git_dirty")
        if len(self.evaluation_steps) < 5 and self.source.fingerprint:  # noise has no time to target
            warnings.append("few_evaluations")
        run = {
            **self.identity,
            **self._quality(),
            **self._times(),
            **hardware,
            "status": status,
            "error": error,
        }
        run["warnings"] = [name for name in record.WARNINGS if name in warnings]
        run["unmeasured"] = _reasons(run, {**self.job.facts["unmeasured"], **reasons})
        record.write(self.job.folder, run)

    def _quality(self) -> dict[str, Any]:
        """Scores of the last evaluation, and when the target was reached."""
        if not self.evals:
            return {}
        last = self.evals[-1]
        known = {f"final_{name}": last[name] for name in (*SCORES, "loss") if name in last}
        known["best_miou"] = max(row["miou"] for row in self.evals)
        known["per_class_iou"] = last["per_class_iou"]
        reached = [row for row in self.evals if row["miou"] >= self.identity["target_miou"]]
        if reached:
            known["time_to_target_train_s"] = reached[0]["train_s"]
            known["time_to_target_wall_s"] = reached[0]["wall_s"]
            known["steps_to_target"] = reached[0]["step"]
        return known

    def _times(self) -> dict[str, Any]:
        """Seconds a phase, and the speed of the steps so far."""
        seconds = self.clock.state()
        known = {f"{phase}_s": value for phase, value in seconds.items()}
        known.update(steps_done=self.step, checkpoints=self.checkpoints, wall_s=sum(seconds.values()))
        if not self.log.done or not seconds["train"]:
            return known
        rate = self.log.done * self.batch_size / seconds["train"]
        known.update(
            images_per_s=rate,
            step_ms_p50=self.log.ms_quantile(0.5),
            step_ms_p95=self.log.ms_quantile(0.95),
            data_wait_pct=100 * self.waited_s / seconds["train"],
        )
        for share, peak in (("mfu_pct", "peak_measured_tflops"), ("mfu_nominal_pct", "peak_nominal_tflops")):
            if self.identity.get(peak):
                allowed = self.identity[peak] * 1e12 * self.group.devices
                known[share] = 100 * rate * self.identity["flops_per_image"] / allowed
        return known


class _Stop:
    """Whether somebody asked this process to stop."""

    requested = False

    def request(self, *_: object) -> None:
        self.requested = True


def _until(stop: _Stop, validation: Scored) -> Scored:
    """The validation set as long as nobody says stop."""
    return itertools.takewhile(lambda _: not stop.requested, validation)


@contextlib.contextmanager
def _stop_requests() -> Iterator[_Stop]:
    """Turn STOPS into a flag that the loop looks at between steps."""
    stop = _Stop()
    before = {number: signal.signal(number, stop.request) for number in STOPS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open(job: Job, tell: Callable[[Progress], None], began: float, where: torch.device) -> Run:
    """A run with its data open; where that fails, those that torchrun started elsewhere hear why."""
    try:
        return Run(job, tell, began, where)
    except BaseException as error:
        if job.seat.launched:
            excuse(job.seat, _said(error))
        raise


def _compare(said: list[dict[str, Any]]) -> None:
    """BenchError: the devices of a run do not say the same."""
    for rank, other in enumerate(said):
        for name, value in said[0].items():
            if other[name] != value:
                raise BenchError(
                    f"device {rank} has another {name}, {other[name]}, than device 0, {value}",
                    "give all processes of a run the same segbench, recipe, workload, data and results",
                )


def _identity(job: Job) -> dict[str, Any]:
    """The fields of a record that are known before anything is opened."""
    return {
        **{name: value for name, value in job.facts.items() if name in record.FIELD},
        "protocol": job.workload.values["evaluation"]["protocol"],
        "workload": job.workload.name,
        "recipe": job.recipe.name,
        "seed": job.seed,
        "recipe_fingerprint": job.recipe.fingerprint,
        "workload_fingerprint": job.workload.fingerprint,
        "command": job.command,
        "data_cache": job.cache is not None,
    }


def _record_failure(job: Job, run: Run | None, error: BaseException) -> None:
    """Write into the record why the run ended early; the first device keeps it."""
    if run is not None and isinstance(error, Interrupted):  # which all devices raise at the same step
        run.save()
        run.telemetry.stop()
        run.write("interrupted", "asked to stop")
        return
    if job.seat.rank:
        return
    message = _said(error)
    if run is None:
        found = record.read(job.folder) if (job.folder / "run.json").exists() else {"started_at": _now()}
        known = {**found, **_identity(job), "status": "failed", "error": message}
        record.write(job.folder, {**known, "unmeasured": _reasons(known, job.facts["unmeasured"])})
    else:
        run.write("failed", message)


def _said(error: BaseException) -> str:
    return error.message if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"


def _reasons(run: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, str]:
    """Field -> why it is null, for every field of the record that is."""
    no_peak = "the maker's peak of this device is not known"
    no_checkout = "segbench does not run from a checkout"
    reasons = {
        "mfu_nominal_pct": no_peak,
        "peak_nominal_tflops": no_peak,
        "git_commit": no_checkout,
        "git_dirty": no_checkout,
        **known,
    }
    finished = run["status"] == "finished"
    if finished:
        target = ("time_to_target_train_s", "time_to_target_wall_s", "steps_to_target")
        reasons.update(dict.fromkeys(target, "the target was not reached"))
    otherwise = "not known" if finished else f"the run is {run['status']}"
    stated = {"schema", "unmeasured", "error", "warnings", "resumed", "lost_s"}
    empty = [name for name in record.FIELD if run.get(name) is None and name not in stated]
    return {name: reasons.get(name, otherwise) for name in empty}


def _lost_seconds(folder: Path, kept: float) -> float:
    """Seconds of training after the checkpoint, which was made at `kept` on telemetry's time axis, as far as
    telemetry saw them: a row of it ends an interval that lies in one phase."""
    lost, before = 0.0, kept
    try:
        # of the first machine, since all are in one phase
        with open(machines.rows(folder, 0), newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                instant = float(row["t"])
                if row["phase"] == "train" and instant > before:
                    lost += instant - before
                before = max(before, instant)
    except (OSError, ValueError, KeyError, TypeError):
        return lost  # none yet, or the last row was cut off
    return lost


def _clean(folder: Path) -> None:
    """Remove what an earlier, lost attempt at this run left behind."""
    files = [folder / name for name in ("evals.jsonl", "steps.csv", "confusion.csv")]
    for path in (*files, *machines.all_rows(folder)):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "samples", ignore_errors=True)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
