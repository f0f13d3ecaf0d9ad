"""Can this machine be trusted with a measurement? A line a question: ok, warn, fail, or unknown.

What shows without torch (clocks, memory, disk) is read here; a process that has torch times a kernel and says
what the machine and the GPUs did meanwhile. A fail is what no run would survive, a warn what makes its times
doubtful. `run` keeps the lines beside each record, in doctor.json: they are evidence, and take no part in
what may be compared with what.
"""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal

from bench import BenchError, machine, nvml, record, server, vitals
from bench.workload import Workload, check_data, check_devices, check_weights

FILE = "doctor.json"
STATES = ("ok", "warn", "fail", "unknown")

STOLEN_PCT = 1.0  # half of what `check` tolerates
MEMORY_MIB = 2048.0  # what two runs of `mini` take
SPACE_MIB = 1024.0  # checkpoints, twice
WRITTEN_MIB_PER_S = 20.0  # a checkpoint of ResNet-101 (0.5 GB) in less than half a minute
FILES_PER_S = 500.0  # a picture and a label for each of 250 images a second; spinning disks seek 100 times
CLOCK = 0.7  # of the highest; below it a device under load is held back
GPU_MEMORY = 0.85  # free beside a small kernel; less means that somebody else holds some
SPREAD = 0.1  # of the median, between the fastest and the slowest tenth of a kernel's times

AGAINST = "on a shared machine use `segbench check --against`"


@dataclass(frozen=True)
class Line:
    """The answer to one question: what was found, and for all that is not ok what to do about it."""

    check: str
    state: Literal["ok", "warn", "fail", "unknown"]
    found: str
    advice: str = ""


def examine(
    work: Workload,
    *,
    device: str = "auto",
    devices: int = 1,
    data: Path | None = None,
    results: Path,
    trainer: str = server.TRAINER,
    wait: Callable[[], None] = lambda: None,
) -> list[Line]:
    """The machine, its devices and its disks, in about a second once torch is loaded.

    `wait` is called a few times a second meanwhile; what it raises ends the examination.
    """
    installed = _installed()
    host = [_governor(), _memory(), *_disks(work, data, results)]
    if installed.state == "fail":
        return [installed, *host]
    try:
        seen = server.ask(server.start(trainer), trainer, "examine", device, devices, wait=wait)
    except BenchError as error:
        return [Line("device", "fail", error.message, error.hint), installed, *host]
    gpus = [_driver(seen), *_cards(seen)] if seen["facts"]["device"] == "cuda" else []
    return [
        _device(seen, device, work),
        _built_alike(seen, installed),
        *gpus,
        host[0],
        *_cores(seen),
        *host[1:],
        *_kernels(seen),
    ]


def look_for(
    work: Workload, data: Path | None, weights: Path | None, trainer: str = server.TRAINER
) -> list[Line]:
    """Whether the workload's pictures and weights are there; nothing is drawn or fetched."""
    return [_data(work, data), *_weights(work, weights, trainer)]


def keep(folder: Path, lines: Sequence[Line], resumed: bool) -> None:
    """Write the lines beside a record; those of a run that goes on after the earlier ones.

    BenchError: the disk is full or read-only.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    earlier = read(folder) if resumed else []
    kept = [*earlier, {"at": now, "lines": [asdict(line) for line in lines]}]
    record.write_atomic(folder / FILE, json.dumps(kept, indent=1) + "\n")


def read(folder: Path) -> list[dict[str, Any]]:
    """The examinations of a run, in order: dicts with `at` and `lines`; none where none was kept.

    BenchError: the file is damaged.
    """
    path = folder / FILE
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return [
            {"at": str(each["at"]), "lines": [_line(fields) for fields in each["lines"]]} for each in kept
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise BenchError(
            f"{path} cannot be read as what the doctor found: {error}", "delete it; the record needs it not"
        ) from error


def _line(fields: Mapping[str, Any]) -> dict[str, str]:
    """Written by another version, or by hand: no more than texts, and a state that is one."""
    line = {name: str(fields[name]) for name in ("check", "state", "found", "advice")}
    if line["state"] not in STATES:
        raise ValueError(f"state is {line['state']!r}")
    return line


# ------------------------------------------------------------------------------------------- device and torch


def _installed() -> Line:
    """torchvision's package names the torch it was built for: the very one, or the first that will do."""
    advice = "install versions that belong together: pip install --force-reinstall torch torchvision"
    try:
        torch, torchvision = metadata.version("torch"), metadata.version("torchvision")
    except metadata.PackageNotFoundError as error:
        return Line("torch", "fail", f"{error.name} is not installed", advice)
    found = f"torch {torch}, torchvision {torchvision}"
    for line in metadata.requires("torchvision") or ():
        named = re.match(r"torch\s*\(?(==|>=)\s*([\d.]+)", line)
        if named and not _meets(torch, named[1], named[2]):
            return Line("torch", "fail", f"{found}, which needs torch {named[1]} {named[2]}", advice)
    return Line("torch", "ok", found)


def _meets(version: str, relation: str, named: str) -> bool:
    ours, theirs = (
        [int(part) for part in re.findall(r"\d+", each.partition("+")[0])[:3]] for each in (version, named)
    )
    return ours == theirs if relation == "==" else ours >= theirs


def _built_alike(seen: Mapping[str, Any], installed: Line) -> Line:
    facts = seen["facts"]
    cuda, theirs = seen["torch_cuda"], seen["torchvision_cuda"]
    if cuda and theirs and cuda != theirs:
        return Line(
            "torch",
            "warn",
            f"{installed.found}: built for CUDA {cuda} and {theirs}",
            "install both from the same index, for the same CUDA",
        )
    with_cuda = f", CUDA {facts['cuda']}, cuDNN {facts['cudnn']}" if facts["device"] == "cuda" else ""
    return Line("torch", "ok", f"{installed.found}{with_cuda}")


def _device(seen: Mapping[str, Any], wanted: str, work: Workload) -> Line:
    facts = seen["facts"]
    try:
        check_devices(work, facts["device_count"])
    except BenchError as error:
        return Line("device", "fail", error.message, error.hint)
    if facts["device"] == "cuda":
        return Line("device", "ok", f"{facts['device_count']} x {facts['gpu']}")
    cores = f"{facts['cores']} core{'s' * (facts['cores'] != 1)}"
    found = f"cpu: {facts['cpu'] or 'unknown processor'}, {cores}"
    if (precision := work.values["system"]["precision"]) != "float32":
        return Line(
            "device",
            "fail",
            f"{found}; {work.name} trains in {precision}, which a CPU does not",
            'use a machine with a GPU, or state precision = "float32" in a workload of your own',
        )
    gpus = nvml.count() if wanted == "auto" else 0
    if gpus:
        return Line(
            "device",
            "warn",
            f"{found}; torch does not see the {gpus} GPU{'s' if gpus > 1 else ''} of this machine",
            "install a torch that is built for CUDA, and see that CUDA_VISIBLE_DEVICES hides none",
        )
    return Line("device", "ok", found)


def _driver(seen: Mapping[str, Any]) -> Line:
    version = seen["facts"]["driver"]
    if version is None:
        return Line("driver", "unknown", str(seen["facts"]["unmeasured"].get("driver")))
    return Line("driver", "ok", str(version))


# ----------------------------------------------------------------------------------------------------- GPUs


def _cards(seen: Mapping[str, Any]) -> list[Line]:
    if not seen["cards"]:
        return [
            Line(
                "gpu",
                "warn",
                f"NVML does not tell: {seen['cards_problem']}",
                "see whether `nvidia-smi` works; without it a record has no figures of the GPU",
            )
        ]
    judges = (_clock, _throttling, _others_on, _power, _gpu_memory)
    return [judge(card) for card in seen["cards"] for judge in judges]


def _untold(check: str) -> Line:
    return Line(check, "unknown", "the driver does not tell")


def _clock(card: Mapping[str, Any]) -> Line:
    check, now, most = f"{card['name']} clock", card["sm_clock_mhz"], card["sm_clock_max_mhz"]
    if now is None or not most:
        return _untold(check)
    found = f"{now:.0f} of {most:.0f} MHz under load"
    if now < CLOCK * most:
        return Line(check, "warn", found, "see what holds it down: nvidia-smi -q -d CLOCK,PERFORMANCE")
    return Line(check, "ok", found)


def _throttling(card: Mapping[str, Any]) -> Line:
    check, reasons = f"{card['name']} throttling", card["held_down_by"]
    if reasons is None:
        return _untold(check)
    heat = "" if card["temperature_c"] is None else f", {card['temperature_c']:.0f} °C"
    if reasons:
        return Line(
            check,
            "warn",
            f"clocks are held down by {', '.join(reasons)}{heat}",
            "improve cooling or raise the power limit",
        )
    return Line(check, "ok", f"none{heat}")


def _others_on(card: Mapping[str, Any]) -> Line:
    check, others = f"{card['name']} others", card["others"]
    if others is None:
        return _untold(check)
    if others:
        processes = "other process computes" if others == 1 else "other processes compute"
        return Line(
            check, "warn", f"{others} {processes} on it", "end what `nvidia-smi` shows, or wait for it"
        )
    return Line(check, "ok", "no other process on it")


def _power(card: Mapping[str, Any]) -> Line:
    check, limit, usual = f"{card['name']} power limit", card["power_limit_w"], card["power_limit_default_w"]
    if limit is None or usual is None:
        return _untold(check)
    if limit < usual:
        return Line(
            check, "warn", f"{limit:.0f} W, by default {usual:.0f} W", f"sudo nvidia-smi -pl {usual:.0f}"
        )
    return Line(check, "ok", f"{limit:.0f} W")


def _gpu_memory(card: Mapping[str, Any]) -> Line:
    check, free, total = f"{card['name']} memory", card["memory_free_mib"], card["memory_mib"]
    if free is None or not total:
        return _untold(check)
    found = f"{free / 1024:.1f} of {total / 1024:.1f} GiB free"
    if free < GPU_MEMORY * total:
        return Line(check, "warn", found, "end what holds it: `nvidia-smi` shows who does")
    return Line(check, "ok", found)


# ----------------------------------------------------------------------------------------------------- host


def _governor() -> Line:
    found = vitals.governors()
    if not found:
        return Line("clocks", "unknown", "the kernel does not set them: a virtual machine's host does")
    if found == ["performance"]:
        return Line("clocks", "ok", "governor performance")
    return Line(
        "clocks",
        "warn",
        f"governor {', '.join(found)}: clocks follow the load",
        "sudo cpupower frequency-set -g performance",
    )


def _cores(seen: Mapping[str, Any]) -> list[Line]:
    return [_load(seen["others_pct"]), _steal(seen["stolen_pct"])]


def _load(others: float | None) -> Line:
    before = f"load average {os.getloadavg()[0]:.1f}"
    if others is None:
        return Line("load", "unknown", f"looked too briefly; {before}")
    found = f"other programs take {others:.0f} % of the cores; {before}"
    if others > 100 * machine.OTHERS:
        return Line("load", "warn", found, f"close them, or wait for them; {AGAINST}")
    return Line("load", "ok", found)


def _steal(stolen: float | None) -> Line:
    if stolen is None:
        return Line("steal", "unknown", "looked too briefly")
    found = f"{stolen:.1f} % of the work waited while the host served other machines"
    if stolen > STOLEN_PCT:
        return Line("steal", "warn", found, f"measure on a host of your own; {AGAINST}")
    return Line("steal", "ok", found)


def _memory() -> Line:
    free, total = vitals.memory_mib()
    found = f"{free / 1024:.1f} of {total / 1024:.1f} GiB free"
    if free < MEMORY_MIB:
        return Line("memory", "warn", found, "close other programs: a machine that swaps measures its disk")
    return Line("memory", "ok", found)


def _disks(work: Workload, data: Path | None, results: Path) -> list[Line]:
    """Where records go; and where pictures are read from, unless runs keep them all in memory."""
    lines = [_results(results)]
    settings = work.values["data"]
    if settings["source"] == "folder" and not settings["in_memory"] and data is not None:
        lines.append(_reading(data))
    return lines


def _results(results: Path) -> Line:
    try:
        written, read_back = vitals.write_and_read(results)
    except BenchError as error:
        return Line("results disk", "fail", error.message, error.hint)
    space = vitals.free_mib(results)
    found = f"{space / 1024:.1f} GiB free, writes {written:.0f} MiB/s, reads {read_back:.0f} MiB/s"
    if space < SPACE_MIB:
        return Line("results disk", "warn", found, "free some space, or name another disk with --results")
    if written < WRITTEN_MIB_PER_S:
        return Line("results disk", "warn", found, "name a faster disk with --results")
    return Line("results disk", "ok", found)


def _reading(data: Path) -> Line:
    from bench import dataset  # numpy and Pillow, which nothing else here needs

    try:
        pictures = dataset.find_pictures(data, "training")
        step = max(1, len(pictures) // 997)  # far apart, so that reading ahead does not help
        files, mib, seconds = vitals.read_files([*pictures[::step], *pictures])
    except (BenchError, OSError) as error:
        return Line("data disk", "fail", str(error), "name a folder that can be read with --data")
    if not files:
        return Line("data disk", "unknown", f"{data} has no pictures for training")
    found = f"{files / seconds:.0f} pictures/s and {mib / seconds:.0f} MiB/s by one reader"
    if files / seconds < FILES_PER_S:
        return Line("data disk", "warn", found, "copy the data set to a local solid-state disk")
    return Line("data disk", "ok", found)


def _kernels(seen: Mapping[str, Any]) -> list[Line]:
    facts = seen["facts"]
    lines = []
    for number, times in enumerate(seen["kernel_ms"]):
        check = "kernel" if len(seen["kernel_ms"]) == 1 else f"gpu{number} kernel"
        if len(times) < 10:
            found = f"so slow that it ran {len(times)} times"
            lines.append(Line(check, "warn", found, "close other programs and look again"))
            continue
        tenths = quantiles(times, n=10)
        spread = (tenths[-1] - tenths[0]) / median(times)
        threads = facts["threads"]
        with_threads = f", {threads} thread{'s' * (threads != 1)}" if facts["device"] == "cpu" else ""
        found = (
            f"a convolution takes {median(times):.3g} ms, four fifths of them {tenths[0]:.3g} to "
            f"{tenths[-1]:.3g}: spread {100 * spread:.0f} % (n = {len(times)}{with_threads})"
        )
        if spread > SPREAD:
            advice = f"find what disturbs it, above or in `top`, and look again; {AGAINST}"
            lines.append(Line(check, "warn", found, advice))
        else:
            lines.append(Line(check, "ok", found))
    return lines


# ------------------------------------------------------------------------------------------ data and weights


def _data(work: Workload, data: Path | None) -> Line:
    from bench import scenes, verification  # numpy and Pillow, which nothing else here needs

    settings = work.values["data"]
    try:
        check_data(work, data)
        if data is not None:
            pairs = verification.find(data, work)
            seen = "found sound before" if verification.is_verified(pairs, work) else "not looked at yet"
            return Line("data", "ok", f"{len(pairs):,} pairs for {work.name} in {data}, {seen}")
    except BenchError as error:
        return Line("data", "fail", error.message, error.hint)
    if settings["source"] == "noise":
        return Line("data", "ok", f"{work.name} is trained on noise, made on the device")
    counts = settings["train_images"], settings["val_images"]
    folder = scenes.folder_of(scenes.cache_folder(), *counts, settings["scenes_seed"])
    there = f"in {folder}" if folder.exists() else "drawn by the first run"
    return Line("data", "ok", f"{sum(counts):,} scenes for {work.name}, {there}")


def _weights(work: Workload, weights: Path | None, trainer: str) -> list[Line]:
    if work.values["data"]["source"] == "noise":
        return []
    model = work.values["model"]
    lines = []
    try:
        check_weights(work, weights)
        for name in sorted({model["v1"], model["v2"]}):
            arguments = model["backbone"], name, weights
            path, there = server.ask(server.start(trainer), trainer, "find_weights", *arguments)
            if there:
                where = "packaged" if model["backbone"] == "narrow" else f"in {path}"
                lines.append(Line("weights", "ok", f"{name}, {where}"))
            else:
                advice = "the first run fetches it; without a network name its folder with --weights"
                lines.append(Line("weights", "warn", f"{name} is not here: {path}", advice))
    except BenchError as error:
        lines.append(Line("weights", "fail", error.message, error.hint))
    return lines
