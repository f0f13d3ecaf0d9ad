"""What tests share without importing it, and what holds for all: coverage leaves out those of the half with
torch, as it does that half."""

from __future__ import annotations

import atexit
import gc
import os
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["coverage"]["run"]
WHOLE_RUNS = {"kill", "share", "real", "peers", "cuda"}  # tests of that half, and of no module alone
EVERYWHERE = {"messages", "reference"}  # what they pass through is tested by its own tests, in less time
UNMEASURED = {Path(name).stem for name in SETTINGS["omit"]} | WHOLE_RUNS | EVERYWHERE


def pytest_configure(config: pytest.Config) -> None:
    """GPUs are shown to tests/test_cuda.py alone, and only where it runs by itself: once torch has learned
    anything beside one, no process that is forked from it can, and what is left to the machine goes there."""
    if not all(name.split("::")[0].endswith("test_cuda.py") for name in config.args):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A tracer is called at every function of torch, too, which is most of what such a test does."""
    for item in items:
        if item.path.stem.removeprefix("test_") in UNMEASURED:
            item.add_marker(pytest.mark.no_cover)


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder that is empty, and gone afterwards."""
    monkeypatch.setenv("SEGBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


gc.disable()  # until all is imported, which is no garbage


def pytest_collection_finish() -> None:
    """What is loaded by now stays: no collector needs to look at it, least of all in each process forked."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)  # or triton tells of all that it has that it was leaked
