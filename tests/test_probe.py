"""What a probe times: on a CPU the whole turn by the clock, on a GPU the step by events on the device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import assets, probe


class Machine:
    """A fake clock and a fake GPU. Making a batch takes the processor 2 s; the step is handed over at once
    and takes the device 5 s; what is drawn on the device takes it 3 s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, device: str, drawn: bool = False) -> None:
        self.processor = self.finished = 0.0  # when the device will have done what was handed to it
        self.steps: list[tuple[int, float]] = []
        monkeypatch.setattr(probe.time, "perf_counter", lambda: self.processor)
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event(self))
        self.training = object.__new__(probe.Training)
        self.training.device, self.training.taken = torch.device(device), 0
        self.training.recipe = SimpleNamespace(values={"optim": {"lr": 0.5}})
        self.training.workload = SimpleNamespace(values={"data": {"source": "noise" if drawn else "folder"}})
        self.training.batches = self.make(drawn)
        self.training.learner = SimpleNamespace(train_step=self.train)

    def make(self, drawn: bool) -> Any:
        while True:
            if drawn:
                self.work(3.0)
            else:
                self.processor += 2.0
            yield "a batch"

    def train(self, batch: str, step: int, lr: float) -> None:
        self.steps.append((step, lr))
        self.work(5.0)
        if self.training.device.type == "cpu":
            self.processor = self.finished

    def work(self, seconds: float) -> None:
        self.finished = max(self.finished, self.processor) + seconds


class Event:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def record(self) -> None:
        self.time = max(self.machine.processor, self.machine.finished)

    def synchronize(self) -> None:
        self.machine.processor = max(self.machine.processor, self.time)

    def elapsed_time(self, end: Event) -> float:
        return 1000 * (end.time - self.time)


def test_on_a_cpu_a_turn_is_the_step_and_the_making_of_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, "cpu")
    assert [machine.training.take_step() for _ in range(2)] == [{"step": 7.0}] * 2
    assert machine.steps == [(0, 0.5), (1, 0.5)]


def test_on_a_gpu_the_step_is_timed_on_the_device_and_the_batch_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch, "cuda")
    assert [machine.training.take_step() for _ in range(2)] == [{"step": 5.0, "batch": 2.0}] * 2
    assert machine.processor == 14.0  # it waited: the next turn is the other side's


def test_noise_that_the_gpu_draws_is_part_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, "cuda", drawn=True)
    assert machine.training.take_step() == {"step": 8.0}


def ask(root: Path, text: str) -> subprocess.CompletedProcess[str]:
    """A conversation with the probe of the package in `root`."""
    return subprocess.run(
        [sys.executable, "-P", str(assets.PACKAGE / "probe.py")],
        env={**os.environ, "PYTHONPATH": str(root)}, input=text, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


ASKED = {
    "recipe": "99",
    "workload": "mini",
    "data": None,
    "weights": None,
    "device": "cpu",
    "core": None,
    "seed": 0,
}


def test_what_the_revision_refuses_is_said_with_its_own_hint() -> None:
    done = ask(assets.PACKAGE.parent, json.dumps(ASKED) + "\n")
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["error"] == 'there is no recipe "99"'
    assert said["hint"]


def test_a_package_without_what_is_asked_of_it_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").touch()
    done = ask(tmp_path, json.dumps(ASKED) + "\n")
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["error"].startswith("ImportError: cannot import name 'device' from 'bench'")
    assert said["hint"] == probe.OLD


TALKATIVE = """
import gc
import os
from bench import probe

class Training:
    def __init__(self, asked):
        os.write(1, b"noise of a library")

    def introduce(self):
        print("more noise")
        return {"protocol": 1}

    def take_step(self):
        return {"enabled": gc.isenabled(), "frozen": gc.get_freeze_count() > 100_000}

probe.Training = Training
probe.main()
"""


def test_the_end_of_the_input_is_the_end_and_what_is_printed_is_no_answer() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TALKATIVE], input="{}\n\n\n", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    introduced, *steps = map(json.loads, done.stdout.splitlines())
    assert introduced == {"protocol": 1}
    assert steps == [{"enabled": True, "frozen": True}] * 2  # nobody looks through torch during a step
    assert done.stderr.count("noise") == 2
