"""The resolver finds the same files in a checkout and in an installed wheel."""

from __future__ import annotations

import importlib.util
import shutil
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

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


@pytest.fixture
def installed(tmp_path: Path) -> ModuleType:
    """The resolver in a tree such as the wheel makes: what pyproject.toml puts where, and no repository."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source, target in wheel["force-include"].items():
        shutil.copytree(ROOT / source, tmp_path / "site-packages" / target)
    return _planted(tmp_path / "site-packages" / "bench")


def test_a_checkout_keeps_its_recipes_at_the_root() -> None:
    assert assets.folder("recipes") == ROOT / "recipes"
    assert assets.folder("recipes/workloads") == ROOT / "recipes" / "workloads"


@pytest.mark.parametrize("name", ["recipes", "recipes/workloads"])
def test_a_wheel_carries_the_same_files_inside_the_package(installed: ModuleType, name: str) -> None:
    folder = installed.folder(name)
    assert folder == Path(installed.__file__ or "").parent / name
    originals = sorted((ROOT / name).glob("*.toml"))
    assert [path.name for path in sorted(folder.glob("*.toml"))] == [path.name for path in originals]
    assert all((folder / path.name).read_bytes() == path.read_bytes() for path in originals)


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
