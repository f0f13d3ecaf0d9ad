"""Revisions of this package that can be run: the checkout as it is, and another commit laid out beside it.

The other one lies in a git worktree in a temporary folder that is gone afterwards. It runs with this Python
where both declare the same dependencies, else in a virtual environment of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import CANNOT_JUDGE, STOPS, BenchError, assets
from bench.archive import Watch

BUSY_S = 60.0  # how long git may take over a question


@dataclass(frozen=True)
class Revision:
    """`root` holds the package and goes on the path of `python`; `name` is what a sentence calls it."""

    name: str
    commit: str
    root: Path
    python: str = sys.executable
    dirty: bool = False


def here(package: Path = assets.PACKAGE) -> Revision:
    """The checkout that `package` lies in, as it is on disk. BenchError, code 4: it lies in none."""
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "HEAD")
        changed = _git(package, "status", "--porcelain", "--", ".", ":/recipes")
    except BenchError as error:
        raise BenchError(
            f"segbench does not run from a git checkout ({package}): {error.message}",
            error.hint or "clone the repository and install it from there: pip install -e .",
            CANNOT_JUDGE,
        ) from error
    name = f"the working tree ({commit[:7]}{' with changes' if changed else ''})"
    return Revision(name, commit, package.parent, dirty=bool(changed))


@contextlib.contextmanager
def beside(ref: str, own: Revision, watch: Watch) -> Iterator[Revision]:
    """The commit `ref` of the repository of `own`, on disk as long as the context lasts.

    BenchError, code 4: there is no such commit, or the packages that it needs cannot be installed.
    """
    commit = _resolve(ref, own)
    place = Path(tempfile.gettempdir()) / f"segbench-{uuid.uuid4().hex[:12]}"
    tree = place / "tree"
    within = Path(_git(own.root, "rev-parse", "--show-prefix"))
    name = ref if commit.startswith(ref) else f"{ref} ({commit[:7]})"
    try:
        place.mkdir()
        _git(own.root, "worktree", "add", "--detach", "--quiet", str(tree), commit)
        root = tree / within
        if not (root / "bench" / "__init__.py").is_file():
            raise BenchError(f"{name} has no segbench in it", "name a later commit", CANNOT_JUDGE)
        yield Revision(name, commit, root, _find_python(root, own.root, place / "venv", name, watch))
    finally:
        try:
            with _undisturbed():
                _remove(own.root, place, tree)
        finally:  # a second signal may have come before the first could be held back
            shutil.rmtree(place, ignore_errors=True)


def _resolve(ref: str, own: Revision) -> str:
    try:
        return _git(own.root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    except BenchError as error:
        raise BenchError(
            f"{own.root} has no commit {ref!r}",
            "a shallow clone holds few commits: git fetch --unshallow, or fetch-depth in a workflow",
            CANNOT_JUDGE,
        ) from error


def _remove(repository: Path, place: Path, tree: Path) -> None:
    """Take the worktree back, and what git keeps of it."""
    with contextlib.suppress(BenchError):  # it may not have come so far
        _git(repository, "worktree", "remove", "--force", "--force", str(tree))
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(BenchError):
        _git(repository, "worktree", "prune")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that would stop what goes on wait until it is done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _git(at: Path, *arguments: str) -> str:
    """What git answers in the folder `at`. BenchError, code 4: no git, or what git says is wrong."""
    # In a hook GIT_DIR and the like name another repository; hooks of this one have no business here.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ("git", "--no-optional-locks", "-c", f"core.hooksPath={os.devnull}", "-C", str(at), *arguments)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=BUSY_S
        )
    except FileNotFoundError as error:
        raise BenchError("there is no git here", "install git", CANNOT_JUDGE) from error
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"git {arguments[0]} took more than {BUSY_S:.0f} s", "", CANNOT_JUDGE) from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"git {arguments[0]} failed"]
        raise BenchError(said[0].removeprefix("fatal: "), "", CANNOT_JUDGE)
    return done.stdout.strip()


# ---- the environment ---------------------------------------------------------------------------


def _find_python(root: Path, own: Path, folder: Path, name: str, watch: Watch) -> str:
    """This Python, or that of a virtual environment made in `folder`."""
    wanted = dependencies(root)
    if wanted == dependencies(own):
        return sys.executable
    tell = watch(f"{name} needs other packages: making an environment with pip", "steps")
    python = str(folder / "bin" / "python")
    commands = (
        (sys.executable, "-m", "venv", str(folder)),
        (python, "-m", "pip", "install", "--quiet", *wanted),
    )
    for number, command in enumerate(commands, 1):
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            errors = [line for line in said if line.startswith("ERROR")] or said or ["no reason given"]
            raise BenchError(
                f"cannot make an environment for {name}: {errors[0]}",
                f"see that pip can install {', '.join(wanted)}",
                CANNOT_JUDGE,
            )
        tell(number, len(commands))
    return python


def dependencies(root: Path) -> list[str]:
    """What the project in `root` declares that it needs, sorted; nothing where it declares nothing."""
    try:
        declared = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        found = declared["project"]["dependencies"]
        return sorted("".join(each.split()).lower() for each in found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
