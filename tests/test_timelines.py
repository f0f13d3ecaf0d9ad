"""What the sensors said over time: one curve of several devices, thinned, and nothing from nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import timelines
from bench.ladder import Run, Rung, read
from tests import fake_records

HEAD = "t,phase,device,busy_pct,memory_mib,power_w\n"


@pytest.fixture
def rung(tmp_path: Path) -> Rung:
    fake_records.make(tmp_path, seeds=1, rungs=("00",))
    return read(tmp_path)[0].rungs[0]


def sense(rung: Rung, rows: str) -> timelines.Telemetry | None:
    run: Run = rung.runs[0]
    (run.folder / "telemetry.csv").write_text(HEAD + rows)
    return timelines._telemetry(run)


def test_devices_make_one_curve_each_quantity_in_its_own_way(rung: Rung) -> None:
    rows = "".join(
        f"{t},train,cpu,99,500,\n{t},train,gpu0,{90 - t},1000,300\n{t},train,gpu1,{50 - t},{2000 + t},100\n"
        for t in range(1, 11)
    )
    told = sense(rung, rows)
    assert told is not None
    assert told.device == "GPU"
    seconds, busy = told.curves["busy_pct"]
    assert seconds == pytest.approx(np.arange(10) + 0.5)
    assert busy == pytest.approx(70 - np.arange(1, 11))
    assert told.curves["memory_mib"][1] == pytest.approx(2000 + np.arange(1, 11))
    assert told.curves["power_w"][1] == pytest.approx([400] * 10)


def test_a_mean_is_weighted_by_time_and_a_peak_is_kept(rung: Rung) -> None:
    told = sense(rung, "0.2,setup,cpu,0,900,\n1,train,cpu,100,100,\n2,train,cpu,50,200,\n")
    assert told is not None
    assert told.curves["busy_pct"][1] == pytest.approx([80, 50])
    assert told.curves["memory_mib"][1] == pytest.approx([900, 200])
    assert "power_w" not in told.curves


def test_what_one_device_does_not_know_does_not_hide_the_others(rung: Rung) -> None:
    told = sense(rung, "1,train,gpu0,,1000,\n1,train,gpu1,40,,\n2,train,gpu0,60,1000,\n2,train,gpu1,40,,\n")
    assert told is not None
    assert told.curves["busy_pct"][1] == pytest.approx([40, 50])
    assert told.curves["memory_mib"][1] == pytest.approx([1000, 1000])


def test_devices_of_several_machines_make_one_curve(rung: Rung) -> None:
    """Also where one of them crashed before its first row."""
    folder = rung.runs[0].folder
    (folder / "telemetry-1.csv").write_text(HEAD + "1,train,gpu0,40,3000,100\n2,train,gpu0,50,2000,100\n")
    (folder / "telemetry-2.csv").write_text(HEAD)
    told = sense(rung, "1,train,cpu,99,500,\n1,train,gpu0,80,1000,300\n2,train,gpu0,90,2500,300\n")
    assert told is not None
    assert told.device == "GPU"
    assert told.curves["busy_pct"][1] == pytest.approx([60, 70])
    assert told.curves["memory_mib"][1] == pytest.approx([3000, 2500])
    assert told.curves["power_w"][1] == pytest.approx([400, 400])


def test_memory_of_processes_on_several_machines_adds_up(rung: Rung) -> None:
    (rung.runs[0].folder / "telemetry-1.csv").write_text(HEAD + "1,train,cpu,40,300,\n2,train,cpu,50,200,\n")
    told = sense(rung, "1,train,cpu,80,500,\n2,train,cpu,90,600,\n")
    assert told is not None
    assert told.device == "CPU"
    assert told.curves["busy_pct"][1] == pytest.approx([60, 70])
    assert told.curves["memory_mib"][1] == pytest.approx([800, 800])


def test_evaluations_are_spans_of_time(rung: Rung) -> None:
    told = sense(rung, "1,train,cpu,90,,\n1.5,eval,cpu,50,,\n3,train,cpu,90,,\n")
    assert told is not None
    assert told.evaluations.tolist() == [[1.0, 0.5]]


def test_a_line_that_a_crash_cut_off_is_left_out(rung: Rung) -> None:
    told = sense(rung, "1,train,cpu,90,,\n2,train,cpu,80,,\n3,tra")
    assert told is not None
    assert told.end == 2.0


@pytest.mark.parametrize(
    "rows", ["", "1,train,cpu,many,,\n", "x,train,cpu,90,,\n", "nan,train,cpu,90,,\n", "0,train,cpu,90,,\n"]
)
def test_telemetry_that_says_nothing_is_none(rung: Rung, rows: str) -> None:
    assert sense(rung, rows) is None
