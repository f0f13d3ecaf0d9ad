"""The host at this moment: other programs by the kernel's counters, governors, disks."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from bench import BenchError, machine, vitals

Core = namedtuple("Core", "user system idle steal")  # noqa: PYI024 - as psutil's are


class Host:
    """Two usable cores and one more, whose counters a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cores = [Core(5.0, 1.0, 9.0, 0.5)] * 3
        self.own = 1.0
        monkeypatch.setattr(machine, "usable_cores", lambda: [0, 2])
        monkeypatch.setattr(psutil, "cpu_times", lambda percpu: self.cores)
        monkeypatch.setattr(os, "times", lambda: (self.own, 0.0, 0.0, 0.0, 0.0))

    def pass_time(self, *cores: tuple[float, float, float, float], own: float) -> None:
        moved = zip(self.cores, cores, strict=True)
        self.cores = [Core(*(sum(pair) for pair in zip(core, more, strict=True))) for core, more in moved]
        self.own += own


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


def test_others_are_what_was_busy_and_not_ours_on_the_usable_cores(host: Host) -> None:
    window = vitals.Window()
    host.pass_time((0.6, 0.2, 0.2, 0.0), (1.0, 0.0, 0.0, 0.0), (0.4, 0.0, 0.4, 0.2), own=0.9)
    others, stolen = window.close()
    assert others == pytest.approx(100 * (1.2 - 0.9) / 2.0)
    assert stolen == pytest.approx(100 * 0.2 / (1.2 + 0.2))


def test_without_a_tick_nothing_is_known(host: Host) -> None:
    assert vitals.Window().close() == (None, None)


def test_ticks_that_are_rounded_are_never_less_than_nothing(host: Host) -> None:
    window = vitals.Window()
    host.pass_time((0.1, 0.0, 0.9, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 1.0, 0.0), own=0.104)
    assert window.close() == (0.0, 0.0)


def test_governors_are_those_of_the_usable_cores(host: Host, tmp_path: Path) -> None:
    assert vitals.governors(tmp_path) == []
    for core, governor in enumerate(("performance", "powersave", "schedutil")):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
    assert vitals.governors(tmp_path) == ["performance", "schedutil"]


def test_files_are_read_whole_until_the_time_is_up(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(4)]
    for file in files:
        file.write_bytes(bytes(2**19))
    count, mib, seconds = vitals.read_files(files, seconds=3600.0)
    assert (count, mib) == (4, 2.0)
    assert seconds > 0
    assert vitals.read_files(files, seconds=0.0)[0] == 1
    assert vitals.read_files([]) == (0, 0.0, 0.0)


def test_a_disk_is_written_and_read_above_a_folder_that_is_not_there(tmp_path: Path) -> None:
    written, read = vitals.write_and_read(tmp_path / "results" / "local")
    assert min(written, read) > 0
    assert list(tmp_path.iterdir()) == []
    assert vitals.free_mib(tmp_path / "results") > 0


def test_a_disk_that_takes_no_file_is_the_users_to_mend() -> None:
    with pytest.raises(BenchError, match="cannot write /proc"):
        vitals.write_and_read(Path("/proc/results"))


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results").touch()
    with pytest.raises(BenchError, match=f"cannot write {tmp_path / 'results'}: Not a directory"):
        vitals.write_and_read(tmp_path / "results" / "local")


def test_memory_that_is_free_is_a_part_of_all() -> None:
    free, total = vitals.memory_mib()
    assert 0 < free < total
