"""Processes that have torch, where torch does not load. How they are asked is in test_matrix.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
from bench import BenchError, server
if __name__ == "__main__":
    try:
        server.ask(server.start("broken"), "broken", "facts")
    except BenchError as error:
        print(error.message, "|", error.hint)
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("ImportError('libcudart.so.13')", "libcudart.so.13"),
        ("OSError('libcudart.so.13')", "see the message above"),
        ("RuntimeError('operator torchvision::nms does not exist')", "see the message above"),
    ],
)
def test_torch_that_does_not_load_is_said_in_a_line(tmp_path: Path, fault: str, said: str) -> None:
    (tmp_path / "broken.py").write_text(f"raise {fault}\n")
    (tmp_path / "ask.py").write_text(ASK)
    done = subprocess.run(
        [sys.executable, "ask.py"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
        env={"PYTHONPATH": f"{Path(__file__).parents[1]}:{tmp_path}"},
    )  # fmt: skip
    assert done.stdout.startswith(f"torch or torchvision does not load: {said} | install versions")


def test_nobody_looks_for_garbage_in_what_the_server_has_imported(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(
        "import gc\nkept = [[] for _ in range(10**6)]\n"
        "def facts():\n"
        "    return gc.isenabled(), gc.get_freeze_count() > 10**6, len(gc.get_objects()) < 10**5\n"
    )
    (tmp_path / "ask.py").write_text(
        "from bench import server\n"
        "if __name__ == '__main__':\n    print(server.ask(server.start('large'), 'large', 'facts'))\n"
    )
    done = subprocess.run(
        [sys.executable, "ask.py"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
        env={"PYTHONPATH": f"{Path(__file__).parents[1]}:{tmp_path}"},
    )  # fmt: skip
    assert done.stdout == "(True, True, True)\n"


ENDS = """
import os
from multiprocessing import forkserver
from bench import server
if __name__ == "__main__":
    print(server.ask(server.start("wordy"), "wordy", "facts"))
    os.close(forkserver._forkserver._forkserver_alive_fd)
    print(os.waitstatus_to_exitcode(os.waitpid(forkserver._forkserver._forkserver_pid, 0)[1]))
"""


def test_what_the_server_has_imported_has_no_last_word(tmp_path: Path) -> None:
    """Triton's would be that all that the collector was kept from was leaked. Here it is to abort."""
    (tmp_path / "wordy.py").write_text(
        "import ctypes\n"
        "ctypes.pythonapi.Py_AtExit(ctypes.CDLL(None).abort)\n"
        "def facts():\n    return 'fine'\n"
    )
    (tmp_path / "ask.py").write_text(ENDS)
    done = subprocess.run(
        [sys.executable, "ask.py"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
        env={"PYTHONPATH": f"{Path(__file__).parents[1]}:{tmp_path}"},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("fine\n0\n", "")


BLOCKED = """
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from bench import STOPS, server
if __name__ == "__main__":
    server.start("json")
    helpers = resource_tracker._resource_tracker._pid, forkserver._forkserver._forkserver_pid
    for status in (Path(f"/proc/{pid}/status").read_text() for pid in helpers):
        blocked, ignored = (int(status.split(f"Sig{kind}:")[1].split()[0], 16) for kind in ("Blk", "Ign"))
        print(all((blocked | ignored) >> (number - 1) & 1 for number in STOPS))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_what_stops_a_command_stops_no_helper_that_its_runs_need(tmp_path: Path) -> None:
    (tmp_path / "ask.py").write_text(BLOCKED)
    done = subprocess.run(
        [sys.executable, "ask.py"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.stdout == "True\n" * 2


def test_a_folder_of_temporary_files_too_deep_for_a_socket_is_said_in_a_line(tmp_path: Path) -> None:
    """From 3.14 on Python takes another folder then, and gets as far as the import."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    (tmp_path / "ask.py").write_text(ASK)
    done = subprocess.run(
        [sys.executable, "ask.py"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(deep)},
    )  # fmt: skip
    if sys.version_info >= (3, 14):
        assert done.stdout.startswith("torch or torchvision does not load: No module named 'broken' |")
    else:
        assert done.stdout.startswith("cannot make a socket in the folder of temporary files: AF_UNIX path")
        assert "TMPDIR" in done.stdout
