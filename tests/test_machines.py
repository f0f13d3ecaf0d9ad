"""Several machines in one record: who is on which, whose rows lie where, what their figures make together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import machines, record
from bench.machines import Report

HARDWARE = [field.name for field in record.FIELDS if field.group == "hardware"]
FIGURES = dict(zip(HARDWARE, (90.0, 60.0, 2000.0, 800.0, 40.0, 2.0, 50.0, 700.0, 0.1), strict=True))
LESS = dict(zip(HARDWARE, (60.0, 30.0, 3000.0, 200.0, 10.0, 5.0, 20.0, 300.0, 0.3), strict=True))


def report(host: str, devices: int, figures: dict[str, float], *warnings: str, **lacking: str) -> Report:
    """What a machine says that lacks some figures, each for a reason."""
    values = {name: None if name in lacking else value for name, value in figures.items()}
    return Report(host, devices, (values, lacking, list(warnings)))


@pytest.mark.parametrize(
    ("local_ranks", "ranks"),
    [
        ([0], [[0]]),
        ([0, 1, 2], [[0, 1, 2]]),
        ([0, 0], [[0], [1]]),
        ([0, 1, 0, 0, 1, 2], [[0, 1], [2], [3, 4, 5]]),
    ],
)
def test_a_machine_begins_with_each_first_process(local_ranks: list[int], ranks: list[list[int]]) -> None:
    assert [list(each) for each in machines.split(local_ranks)] == ranks


def test_every_machine_has_rows_of_its_own_and_all_are_found_in_order(tmp_path: Path) -> None:
    assert machines.all_rows(tmp_path) == []
    paths = [machines.rows(tmp_path, number) for number in range(12)]
    assert [path.name for path in paths[:2]] == ["telemetry.csv", "telemetry-1.csv"]
    for path in reversed(paths):
        path.touch()
    (tmp_path / "telemetry-mine.csv").touch()
    assert machines.all_rows(tmp_path) == paths


def test_figures_are_those_of_all_devices_of_all_machines() -> None:
    figures, reasons, warnings = machines.combine(
        [report("a", 3, FIGURES, "throttled"), report("b", 1, LESS, "machine_busy", "throttled")]
    )
    assert reasons == {}
    assert warnings == ["machine_busy", "throttled"]  # in the order of the record
    assert figures == {
        "gpu_busy_pct": 82.5,
        "gpu_sm_active_pct": 52.5,
        "gpu_memory_peak_mib": 3000.0,
        "gpu_power_w": 1000.0,
        "gpu_energy_kj": 50.0,
        "gpu_throttled_s": 5.0,
        "cpu_busy_pct": 35.0,
        "memory_peak_mib": 1000.0,
        "telemetry_cost_pct": 0.3,
    }


def test_one_machine_says_what_it_says() -> None:
    only = report("a", 2, FIGURES, "throttled", gpu_power_w="gpu0: refused")
    assert machines.combine([only]) == only.summary


def test_what_one_machine_lacks_is_unknown_and_the_reason_names_it() -> None:
    lacking = report("node-1", 1, LESS, gpu_energy_kj="gpu0: refused")
    for reports in ([report("node-0", 1, FIGURES), lacking], [lacking, report("node-0", 1, FIGURES)]):
        figures, reasons, _ = machines.combine(reports)
        assert figures["gpu_energy_kj"] is None
        assert reasons == {"gpu_energy_kj": "node-1: gpu0: refused"}
        assert figures["gpu_power_w"] == 1000.0


def test_a_reason_that_all_machines_give_names_none() -> None:
    two = [report(host, 1, FIGURES, gpu_energy_kj="the run used no GPU") for host in "ab"]
    assert machines.combine(two)[1] == {"gpu_energy_kj": "the run used no GPU"}
    other = replace(two[0], summary=(*two[0].summary[:1], {"gpu_energy_kj": "gpu1: refused"}, []))
    assert machines.combine([two[1], other])[1] == {"gpu_energy_kj": "b: the run used no GPU"}
