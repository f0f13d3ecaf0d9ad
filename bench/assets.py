"""Where the files that travel with segbench lie: recipes, workloads and packaged weights.

A wheel carries them inside the package; in a checkout the recipes stand at the repository root, where a
reader looks for them. One resolver knows both places, and prefers the package's own copy.
"""

from __future__ import annotations

from pathlib import Path

from bench import BenchError

PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """The folder `name` ("recipes", "recipes/workloads", "weights"). BenchError: neither place has it."""
    for root in (PACKAGE, PACKAGE.parent):
        if (root / name).is_dir():
            return root / name
    raise BenchError(
        f"this copy of segbench has no folder {name}, neither in {PACKAGE} nor beside it",
        "install it again, or run it from a complete clone of the repository",
    )
