"""The matrix of recipes and seeds, and what is to be done about each of its runs.

The plan says of every run whether it is there already, is to go on or is to begin, and stops before anything
is trained where a record on disk cannot be compared with what would be made now. What only torch can say is
asked of a process that has it (server.py).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench import BenchError, doctor, machine, record, server
from bench.recipe import Recipe
from bench.recipe import check as check_recipe
from bench.seat import ALONE, Seat
from bench.server import TRAINER
from bench.workload import Workload, check_data, check_devices, check_weights


@dataclass(frozen=True)
class Job:
    """All that the process of a run is given. `data`: the folder of the pictures; None for noise, and in a
    plan whose scenes the runner has yet to draw. `command`: the command line that asked for it. `facts`: the
    machine's fields of the record, as `facts(device)` of the trainer found them. `weights`: the folder or
    file that torchvision's weights are in; None: torch's own cache. `cache`: the folder that
    holds the pictures decoded; None: they are read from `data`. `examined`: what the doctor found before the
    matrix began."""

    recipe: Recipe
    workload: Workload
    seed: int
    folder: Path
    data: Path | None
    device: Literal["cpu", "cuda"]
    command: str
    deterministic: bool
    facts: Mapping[str, Any]
    weights: Path | None = None
    cache: Path | None = None
    runs_at_once: int = 1
    seat: Seat = ALONE
    all_cores: tuple[int, ...] = ()
    examined: tuple[doctor.Line, ...] = ()

    @property
    def cores(self) -> tuple[int, ...]:
        """The cores that the process of this device is pinned to; none: any."""
        each = len(self.all_cores) // self.seat.local_devices
        return self.all_cores[self.seat.local_rank * each :][:each]

    @property
    def key(self) -> tuple[str, int]:
        """(recipe, seed): what tells it from the other runs of its matrix."""
        return self.recipe.name, self.seed

    @property
    def results(self) -> Path:
        """The folder that holds the whole matrix."""
        return self.folder.parents[2]

    @property
    def log(self) -> Path:
        """Where the output of its process goes."""
        return self.folder / "log.txt"


# What its owner has changed where a record of one name differs in such a field.
FILES = {"recipe_fingerprint": "recipe", "workload_fingerprint": "workload"}

Action = Literal["train", "resume", "retry", "skip"]


@dataclass(frozen=True)
class Run:
    """One run of the matrix and what is to be done about it; `record`: what its folder holds, if anything."""

    job: Job
    action: Action
    record: Mapping[str, Any] | None


def plan(
    recipes: Sequence[Recipe],
    workload: Workload,
    seeds: int,
    results: Path,
    *,
    data: Path | None = None,
    cache: Path | None = None,
    weights: Path | None = None,
    device: str = "auto",
    seat: Seat = ALONE,
    command: str = "",
    deterministic: bool = False,
    trainer: str = TRAINER,
) -> list[Run]:
    """Every run of the matrix in the order in which it is to be trained. Writes nothing.

    Raises BenchError for an absent device, recipes that workload or device rule out, missing data, a cache
    of other pictures, a record that cannot be read, and a record that differs from what would be measured
    now.
    """
    if "reference" in results.parts:
        raise BenchError(
            f"{results} holds reference records, which no run may touch",
            "measure into another folder with --results, then copy what is to be kept",
        )
    _check(recipes, workload, data, weights, seat)
    if cache is not None:
        _check_cache(cache, workload, data)
    server.start(trainer)  # imports torch while the records are read
    for recipe, seed in order(recipes, seeds):
        find_record(record.run_folder(results, workload.name, recipe.name, seed))
    facts = {
        **survey(recipes, workload, data=data, weights=weights, device=device, seat=seat, trainer=trainer),
        **_settings(workload, deterministic),
        "device_count": seat.devices,
    }
    return [
        look(
            Job(
                recipe=recipe,
                workload=workload,
                seed=seed,
                folder=record.run_folder(results, workload.name, recipe.name, seed),
                data=data,
                device=facts["device"],
                command=command,
                deterministic=deterministic,
                facts=facts,
                weights=weights,
                cache=cache,
                runs_at_once=len(lanes(workload, facts["device"], seat)),
                seat=seat,
            )
        )
        for recipe, seed in order(recipes, seeds)
    ]


def survey(
    recipes: Sequence[Recipe],
    workload: Workload,
    *,
    data: Path | None = None,
    weights: Path | None = None,
    device: str = "auto",
    seat: Seat = ALONE,
    trainer: str = TRAINER,
) -> dict[str, Any]:
    """The machine's fields of the record, once it is clear that the recipes can be trained on it.

    Raises BenchError for an absent device, recipes that workload or device rule out, and missing data.
    """
    _check(recipes, workload, data, weights, seat)
    facts: dict[str, Any] = server.ask(server.start(trainer), trainer, "facts", device, seat.local_devices)
    for recipe in recipes:
        check_recipe(recipe, workload, facts["device"])
    return facts


def order(recipes: Sequence[Recipe], seeds: int) -> Iterator[tuple[Recipe, int]]:
    """Seed by seed, each beginning one recipe later, so that a drift of the machine lands on no one rung."""
    for seed in range(seeds):
        first = seed % len(recipes)
        for recipe in (*recipes[first:], *recipes[:first]):
            yield recipe, seed


def _check(
    recipes: Sequence[Recipe], workload: Workload, data: Path | None, weights: Path | None, seat: Seat
) -> None:
    """BenchError: something is wrong that shows without torch."""
    check_data(workload, data)
    check_weights(workload, weights)
    check_devices(workload, seat.devices)
    for recipe in recipes:
        check_recipe(recipe, workload)


def _check_cache(cache: Path, workload: Workload, data: Path | None) -> None:
    """BenchError: the pictures of `data` are not what is in it."""
    from bench.cache import Cache  # numpy and Pillow, which nothing else here needs

    if data is None:
        raise BenchError(f"workload {workload.name} makes its own pictures", "leave --cache out")
    Cache(cache, data)


def find_record(folder: Path) -> dict[str, Any] | None:
    """The record in `folder`, None where none was begun. BenchError: it cannot be read."""
    if (folder / "run.json").exists():
        return record.read(folder)
    if folder.exists() and not folder.is_dir():
        raise BenchError(f"{folder} is not a folder", "move it away, or name another folder with --results")
    return None


def look(job: Job) -> Run:
    """What is to be done about a run, from its record. BenchError: the record is of something else."""
    found = find_record(job.folder)
    if found is None:
        return Run(job, "train", None)
    for name, wanted in identity(job).items():
        if found[name] == wanted or (found[name] is None and found["status"] == "failed"):
            continue  # a run may fail before it knows its machine
        if file := FILES.get(name):
            raise BenchError(
                f"{job.folder} holds a run of before the {file} changed: {name} {_show(found[name])}, now "
                f"{_show(wanted)}",
                f"give the {file} file another name to keep both, or move that folder away",
            )
        raise BenchError(
            f"{job.folder} holds another run: its {name} is {_show(found[name])}, now it is {_show(wanted)}",
            f"keep both with --results {_free(job.results)}, or move that folder away",
        )
    actions: dict[str, Action] = {"finished": "skip", "diverged": "skip", "failed": "retry"}
    return Run(job, actions.get(found["status"], "resume"), found)


def identity(job: Job) -> dict[str, Any]:
    """The fields in which a record must agree before its run counts as this one."""
    wanted = {
        "workload": job.workload.name,
        "recipe": job.recipe.name,
        "seed": job.seed,
        "workload_fingerprint": job.workload.fingerprint,
        "recipe_fingerprint": job.recipe.fingerprint,
        "protocol": job.workload.values["evaluation"]["protocol"],
        "data_workers": job.workload.values["train"]["data_workers"],
        "deterministic": job.deterministic,
        "runs_at_once": job.runs_at_once,
        "data_cache": job.cache is not None,
    }
    if job.data is not None:
        wanted["data_fingerprint"] = _fingerprint(job.data)
    found = {name: job.facts[name] for name in record.MUST_MATCH if name in job.facts}
    return {**found, **_settings(job.workload, job.deterministic), **wanted}


@functools.cache
def _fingerprint(data: Path) -> str:
    from bench import dataset  # numpy and Pillow, which nothing else here needs

    return dataset.fingerprint(data)


def _settings(workload: Workload, deterministic: bool) -> dict[str, Any]:
    """What a run will set on its machine: a run that fails before it does so records it all the same."""
    settings: dict[str, Any] = {"cudnn_benchmark": False} if deterministic else {}
    if threads := workload.values["train"]["threads"]:
        settings["threads"] = threads
    return settings


def _show(value: Any) -> str:
    return "unknown" if value is None else str(value)


def _free(results: Path) -> Path:
    """A folder name beside `results` that is not in use."""
    number = 2
    while (free := results.with_name(f"{results.name}-{number}")).exists():
        number += 1
    return free


def lanes(workload: Workload, device: str, seat: Seat = ALONE) -> list[tuple[int, ...]]:
    """The cores of each run that may train at the same time; () is any core.

    On a CPU, as many runs as the workload says and the machine has cores for, each pinned to cores of its
    own, one a thread and a data worker: a small network gains little from a second thread but noise. Several
    devices of one run are pinned likewise, each to its own.
    """
    settings = workload.values["train"]
    width = seat.local_devices * (settings["threads"] + -(-settings["data_workers"] // seat.devices))
    usable = machine.usable_cores()
    count = min(settings["at_once"], len(usable) // width) if settings["threads"] else 1
    if seat.launched:  # in the order of the plan, so that all processes meet over one run
        count = min(count, 1)
    if device != "cpu" or count < (2 if seat.devices == 1 else 1):
        return [()]
    return [tuple(usable[lane * width : (lane + 1) * width]) for lane in range(count)]


@contextlib.contextmanager
def excused(seat: Seat, trainer: str = TRAINER) -> Iterator[None]:
    """Within, what ends this process before a run begins is told to the others that torchrun started: they
    would wait for it."""
    try:
        yield
    except BenchError as error:
        if seat.launched:
            # what ends this process is said, whatever else fails
            with contextlib.suppress(BenchError, RuntimeError):
                server.ask(server.start(trainer), trainer, "excuse", seat, error.message)
        raise
