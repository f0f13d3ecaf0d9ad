"""The resolver finds the same files in a checkout and in an installed wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import bench
from bench import BenchError, assets

ROOT = Path(__file__).resolve().parent.parent


def _planted(package: Path) -> ModuleType:
    """A copy of the resolver that lives in the folder `package`."""
    package.mkdir(parents=True, exist_ok=True)
    file = shutil.copy(assets.__file__, package / "assets.py")
    spec = importlib.util.spec_from_file_location("planted_assets", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install` would unpack: the wheel of this tree, built by way of the sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build"]
    subprocess.run([*build, "-t", "sdist", "-d", folder], cwd=ROOT, check=True, capture_output=True)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    subprocess.run([*build, "-t", "wheel", "-d", folder], cwd=source, check=True, capture_output=True)
    [archive] = folder.glob("*.whl")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder / "site-packages")
    return folder / "site-packages"


def test_a_checkout_keeps_its_recipes_at_the_root() -> None:
    assert assets.folder("recipes") == ROOT / "recipes"
    assert assets.folder("recipes/workloads") == ROOT / "recipes" / "workloads"


def test_a_wheel_carries_all_that_a_run_needs_inside_the_package(wheel: Path) -> None:
    """Modules, recipes of every ladder, workloads, published figures, weights; and nothing else."""
    packed = {path.relative_to(wheel / "bench"): path.read_bytes() for path in files(wheel / "bench")}
    tracked = {path.relative_to(ROOT / "bench"): path.read_bytes() for path in files(ROOT / "bench")}
    tracked |= {path.relative_to(ROOT): path.read_bytes() for path in files(ROOT / "recipes")}
    assert packed == tracked
    names = {path.as_posix() for path in packed}
    assert names >= {"weights/mini-v1.pt", "recipes/workloads/mini.toml", "recipes/published/ade20k.toml"}


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["recipes"], "07-no-sync-bn"),
        (["recipes", "show", "00"], "weight_decay = 0.0005"),
        (["--version"], f"segbench {bench.__version__}, torch "),
        (["run", "--recipe", "00", "--seeds", "1", "--dry-run"], "1 of 1 runs to train on "),
    ],
)
def test_an_installed_wheel_works_in_a_folder_that_is_no_checkout(
    wheel: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(wheel)},
    )  # fmt: skip
    assert said in done.stdout


def test_the_command_of_a_wheel_is_the_command_line(wheel: Path) -> None:
    [entries] = wheel.glob("segbench-*.dist-info/entry_points.txt")
    assert "segbench = bench.cli:main" in entries.read_text()
    assert callable(importlib.import_module("bench.cli").main)


def test_the_package_copy_comes_before_a_folder_beside_the_package(tmp_path: Path) -> None:
    resolver = _planted(tmp_path / "bench")
    (tmp_path / "recipes").mkdir()
    assert resolver.folder("recipes") == tmp_path / "recipes"
    (tmp_path / "bench" / "recipes").mkdir()
    assert resolver.folder("recipes") == tmp_path / "bench" / "recipes"


def test_the_current_folder_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert assets.folder("recipes") == ROOT / "recipes"


def test_a_folder_that_neither_place_has_is_named() -> None:
    with pytest.raises(BenchError, match="no folder nowhere"):
        assets.folder("nowhere")
