"""Repositories of a package that is measured without torch: its probe says what a step took."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PROBE = """
import json, os, signal, sys
from pathlib import Path
import bench

ROOT = Path(bench.__file__).parents[1]
asked = json.loads(sys.stdin.readline())
{setup}
print(json.dumps({{"protocol": {protocol}, "probe": "fake", "package": str(ROOT / "bench"), "torch": "2.0",
    "batch_size": 16, "recipe": {recipe}, "workload": {{}}}}), flush=True)
taken = 0
for _ in iter(sys.stdin.readline, ""):
    taken += 1
    {step}
    print(json.dumps({answer}), flush=True)
"""
PLAIN = {
    "setup": "",
    "protocol": 1,
    "recipe": '{"optim": {"batch_size": 16}}',
    "step": "pass",
    # seeds are pairs: a little spread, the same on both sides
    "answer": '{"step": 0.01 + 0.0001 * asked["seed"]}',
}
PROJECT = '[project]\nname = "segbench"\nversion = "0"\ndependencies = [{}]\n'


def git(folder: Path, *arguments: str) -> str:
    """What git says; the author is nobody."""
    nobody = {f"GIT_{who}_{what}": "nobody" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **nobody, "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(
        ("git", "-C", str(folder), *arguments), env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def write(root: Path, **parts: object) -> Path:
    """A package below `root` whose probe has these parts (of PLAIN)."""
    (root / "bench").mkdir(parents=True, exist_ok=True)
    (root / "recipes").mkdir(exist_ok=True)
    (root / "recipes" / "00-base.toml").touch()
    (root / "bench" / "__init__.py").touch()
    (root / "bench" / "probe.py").write_text(PROBE.format(**{**PLAIN, **parts}))
    (root / "pyproject.toml").write_text(PROJECT.format(""))
    return root


def commit(root: Path) -> str:
    """Commit all of `root`, which becomes a repository if it is none; the commit."""
    if not (root / ".git").exists():
        git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--allow-empty", "--message", "a commit")
    return git(root, "rev-parse", "HEAD")


def without_git_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that runs in a hook of this repository must not write into it."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
