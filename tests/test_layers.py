"""The shape of the package: flat, layered, and torch only where training is."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

import bench

PACKAGE = Path(bench.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))

# A row a layer, from the top: modules with torch | modules without. A module imports from the rows below
# it and from its right in its own row; one without torch never imports one with it, wherever that stands.
LAYERS = """
    | __main__ cli completion
    train artifacts probe \
        | report figures curves mistakes gallery timelines labels ink tables arrival contrasts ladder \
        bulletin sheet against check runner training matrix progress doctor prepare duel revision
    source learner batchnorm group meeting noise evaluate steps batches replicas transform pretrained model \
        operators optim checkpoint device \
        | server vitals verification machines machine nvml cache dataset download draft archive scenes \
        places scenery brush streams
    | soundness workload recipe settings assets record stats clock seat mailbox gc_off gc_on outlet
    | __init__
"""
# `bench.load` is the public door to `record`, opened when somebody knocks.
EXCEPTIONS = {("__init__", "record")}

ROWS = [[half.split() for half in row.split("|")] for row in LAYERS.strip().splitlines()]
PLACE = {
    name: (number, place)
    for number, (left, right) in enumerate(ROWS)
    for place, name in enumerate(left + right)
}
WITH_TORCH = {name for left, _ in ROWS for name in left}


def imports(source: str) -> set[str]:
    """What the code imports anywhere, even inside functions: modules of bench by their bare names
    (`bench` itself as `__init__`), anything else by its top-level package."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.level or node.module == "bench"):
            module = f"bench.{node.module}" if node.level and node.module else "bench"
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return {_shortened(name) for name in found}


def _shortened(name: str) -> str:
    package, _, rest = name.partition(".")
    if package != "bench":
        return package
    module = rest.partition(".")[0]
    return module if module in PLACE or module in MODULES else "__init__"


def offences(module: str, source: str) -> list[str]:
    """Every import in the source of `module` that its place in the table forbids, in words."""
    found = []
    for name in sorted(imports(source)):
        if name in ("torch", "torchvision") and module not in WITH_TORCH:
            found.append(f"{module} belongs to the half without torch and imports {name}")
        if name not in PLACE or name == module or (module, name) in EXCEPTIONS:
            continue
        if PLACE[name][0] < PLACE[module][0]:
            found.append(f"{module} imports {name} from a layer above it")
        elif PLACE[name] < PLACE[module]:
            found.append(f"{module} imports {name} from its left")
        if name in WITH_TORCH and module not in WITH_TORCH:
            found.append(f"{module} belongs to the half without torch and imports {name}, which has it")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_place_in_the_table(module: str) -> None:
    assert module in PLACE, f"give bench/{module}.py a place in LAYERS of {Path(__file__).name}"


@pytest.mark.parametrize("module", [name for name in MODULES if name in PLACE])
def test_modules_import_only_downwards_and_to_the_right(module: str) -> None:
    assert offences(module, (PACKAGE / f"{module}.py").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "offence"),
    [
        ("record", "from bench import runner", "record imports runner from a layer above it"),
        ("clock", "import bench.stats", "clock imports stats from its left"),
        ("assets", "def f():\n    from bench.recipe import load", "assets imports recipe from its left"),
        ("clock", "from .cli import main", "clock imports cli from a layer above it"),
        ("clock", "from . import cli", "clock imports cli from a layer above it"),
        (
            "tables",
            "def f():\n    import torch.nn",
            "tables belongs to the half without torch and imports torch",
        ),
        (
            "stats",
            "from torchvision import io",
            "stats belongs to the half without torch and imports torchvision",
        ),
        ("runner", "from bench import train", "runner imports train from its left"),
        (
            "runner",
            "import bench.model",
            "runner belongs to the half without torch and imports model, which has it",
        ),
    ],
)
def test_a_wrong_import_is_noticed(module: str, source: str, offence: str) -> None:
    assert offence in offences(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("recipe", "from bench import BenchError, settings"),
        ("train", "import torch\nfrom bench import model, record, runner"),
        ("__init__", "def load():\n    from bench import record"),
    ],
)
def test_a_right_import_is_no_offence(module: str, source: str) -> None:
    assert offences(module, source) == []


def test_only_the_half_with_torch_is_spared_the_strict_type_check() -> None:
    overrides = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["mypy"]["overrides"]
    spared = [module for each in overrides for module in each["module"] if module.startswith("bench.")]
    assert sorted(spared) == sorted(f"bench.{module}" for module in WITH_TORCH)


def test_the_half_without_torch_is_what_coverage_is_measured_of() -> None:
    run = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["coverage"]["run"]
    assert run["branch"]
    assert sorted(run["omit"]) == sorted(f"bench/{module}.py" for module in WITH_TORCH)


def test_the_package_is_flat() -> None:
    assert list(PACKAGE.glob("*/**/*.py")) == []


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_in_its_first_line_what_its_job_is(module: str) -> None:
    text = ast.get_docstring(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8")))
    assert text
    assert text.splitlines()[0].endswith((".", "?", ":"))


@pytest.mark.parametrize("word", ["util", "common", "helper", "manager", "misc"])
def test_no_module_has_a_name_that_says_nothing(word: str) -> None:
    assert [module for module in MODULES if word in module] == []
