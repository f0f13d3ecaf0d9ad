"""Another commit, laid out where it can be run, and gone afterwards."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import BenchError, revision
from tests import fake_revision
from tests.fake_revision import git


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository of two commits, tagged `first` and `second`; afterwards nothing may be left over of any
    worktree."""
    fake_revision.without_git_variables(monkeypatch)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    root = fake_revision.write(tmp_path / "checkout")
    for name in ("first", "second"):
        (root / "bench" / "model.py").write_text(f"# {name}\n")
        fake_revision.commit(root)
        git(root, "tag", name)
    yield root
    assert list((tmp_path / "temporary").iterdir()) == []
    if (root / ".git").is_dir():
        assert len(git(root, "worktree", "list").splitlines()) == 1
        assert not list((root / ".git").glob("worktrees/*"))


def watch(what: str, unit: str) -> object:
    return lambda done, total: None


def own(checkout: Path) -> revision.Revision:
    return revision.here(checkout / "bench")


# This checkout


def test_the_checkout_is_named_by_its_commit_and_says_when_it_was_changed(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert own(checkout) == revision.Revision(f"the working tree ({head[:7]})", head, checkout)
    (checkout / "bench" / "new.py").touch()
    assert own(checkout).dirty
    assert own(checkout).name == f"the working tree ({head[:7]} with changes)"


def test_results_beside_the_code_are_no_change(checkout: Path) -> None:
    (checkout / "results").mkdir()
    (checkout / "results" / "run.json").touch()
    assert not own(checkout).dirty


def test_a_package_outside_of_git_cannot_be_judged(tmp_path: Path) -> None:
    package = fake_revision.write(tmp_path) / "bench"
    with pytest.raises(
        BenchError, match=r"does not run from a git checkout .*not a git repository"
    ) as caught:
        revision.here(package)
    assert caught.value.code == 4
    assert "clone" in caught.value.hint


def test_a_package_installed_inside_another_checkout_is_not_of_it(checkout: Path) -> None:
    installed = checkout / "venv" / "bench"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    with pytest.raises(BenchError, match="does not run from a git checkout"):
        revision.here(installed)


def test_without_git_there_is_nothing_to_compare_with(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(BenchError, match="there is no git here") as caught:
            own(checkout)
    assert (caught.value.code, caught.value.hint) == (4, "install git")


# The other commit


@pytest.mark.parametrize("ref", ["first", "HEAD~1", "HEAD^1"])
def test_the_other_commit_lies_in_a_folder_of_its_own_and_is_gone_afterwards(
    checkout: Path, ref: str
) -> None:
    commit = git(checkout, "rev-parse", "first")
    with revision.beside(ref, own(checkout), watch) as other:
        assert other.name == f"{ref} ({commit[:7]})"
        assert (other.commit, other.python, other.dirty) == (commit, sys.executable, False)
        assert (other.root / "bench" / "model.py").read_text() == "# first\n"
        assert (checkout / "bench" / "model.py").read_text() == "# second\n"
    assert not other.root.exists()


def test_a_commit_is_called_by_what_was_typed_of_it(checkout: Path) -> None:
    short = git(checkout, "rev-parse", "--short=9", "first")
    with revision.beside(short, own(checkout), watch) as other:
        assert other.name == short


def test_changes_that_are_not_committed_stay_on_this_side(checkout: Path) -> None:
    (checkout / "bench" / "model.py").write_text("# changed\n")
    with revision.beside("HEAD", own(checkout), watch) as other:
        assert (other.root / "bench" / "model.py").read_text() == "# second\n"
    assert (checkout / "bench" / "model.py").read_text() == "# changed\n"


@pytest.mark.parametrize("ending", [RuntimeError, KeyboardInterrupt])
def test_whatever_happens_it_is_gone_afterwards(checkout: Path, ending: type[BaseException]) -> None:
    with pytest.raises(ending), revision.beside("first", own(checkout), watch) as other:
        raise ending
    assert not other.root.exists()


def test_a_stop_while_it_is_laid_out_leaves_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run

    def interrupted(command: tuple[str, ...], **options: object) -> object:
        done = real(command, **options)  # type: ignore[call-overload]
        if "add" in command:
            raise KeyboardInterrupt
        return done

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", interrupted)
        with pytest.raises(KeyboardInterrupt), revision.beside("first", own(checkout), watch):
            pass


def test_a_package_below_the_top_of_its_repository_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_revision.without_git_variables(monkeypatch)
    root = fake_revision.write(tmp_path / "repository" / "tools" / "segbench")
    fake_revision.commit(tmp_path / "repository")
    with revision.beside("HEAD", own(root), watch) as other:
        assert other.root.parts[-2:] == ("tools", "segbench")
        assert (other.root / "bench" / "__init__.py").exists()


def test_hooks_and_variables_of_a_hook_change_nothing(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = checkout / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {checkout}/hook-ran\n")
    hook.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("GIT_DIR", "/nowhere")
        patch.setenv("GIT_INDEX_FILE", "/nowhere/index")
        with revision.beside("first", own(checkout), watch) as other:
            assert (other.root / "bench" / "model.py").exists()
    assert not (checkout / "hook-ran").exists()


@pytest.mark.parametrize("ref", ["nowhere", "", "--help", "-q", "first:bench", "first second", "0000000"])
def test_what_is_no_commit_is_said_so(checkout: Path, ref: str) -> None:
    with (
        pytest.raises(BenchError, match="has no commit") as caught,
        revision.beside(ref, own(checkout), watch),
    ):
        pass
    assert caught.value.code == 4
    assert "fetch" in caught.value.hint


# Its environment


def test_the_order_and_the_spaces_of_dependencies_do_not_matter(tmp_path: Path) -> None:
    declared = ['"torch >= 2.11", "numpy"', '"numpy", "Torch>=2.11"', '"numpy", "torch>=2.12"']
    found = []
    for number, each in enumerate(declared):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "pyproject.toml").write_text(fake_revision.PROJECT.format(each))
        found.append(revision.dependencies(tmp_path / str(number)))
    assert found[0] == found[1] == ["numpy", "torch>=2.11"]
    assert found[2] != found[0]


@pytest.mark.parametrize("text", [None, "", "[project", "project = 3", "[project]\ndependencies = 3"])
def test_a_project_that_declares_nothing_depends_on_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    assert revision.dependencies(tmp_path) == []


def depend(checkout: Path, *needed: str) -> None:
    """Let the next commit, tagged `other`, need something else; the working tree stays as it was."""
    text = fake_revision.PROJECT.format(", ".join(f'"{each}"' for each in needed))
    (checkout / "pyproject.toml").write_text(text)
    fake_revision.commit(checkout)
    git(checkout, "tag", "other")
    git(checkout, "checkout", "--quiet", "first")


def test_other_dependencies_get_an_environment_of_their_own(checkout: Path, tmp_path: Path) -> None:
    depend(checkout, f"tiny @ file://{wheel(tmp_path)}")
    told: list[object] = []

    def tell(what: str, unit: str) -> object:
        told.append((what, unit))
        return lambda done, total: told.append((done, total))

    with revision.beside("other", own(checkout), tell) as other:
        assert other.python != sys.executable
        found = subprocess.run(
            [other.python, "-c", "import tiny; print(tiny.SIZE)"], capture_output=True, text=True, check=True
        )
        assert found.stdout == "3\n"
    assert told == [
        (f"{other.name} needs other packages: making an environment with pip", "steps"),
        (1, 2),
        (2, 2),
    ]
    assert not Path(other.python).exists()


def test_packages_that_cannot_be_installed_are_named(checkout: Path, tmp_path: Path) -> None:
    depend(checkout, f"gone @ file://{tmp_path}/gone-1-py3-none-any.whl")
    with (
        pytest.raises(BenchError, match=r"cannot make an environment for other .*gone-1") as caught,
        revision.beside("other", own(checkout), watch),
    ):
        pass
    assert caught.value.code == 4


def wheel(folder: Path) -> Path:
    """A wheel of one module."""
    path = folder / "tiny-1-py3-none-any.whl"
    about = "tiny-1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny.py", "SIZE = 3\n")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


def test_a_commit_without_the_package_is_refused_before_anything_is_installed(checkout: Path) -> None:
    git(checkout, "rm", "-rq", "bench", "pyproject.toml")
    fake_revision.commit(checkout)
    git(checkout, "tag", "bare")
    git(checkout, "checkout", "-q", "second")
    with (
        pytest.raises(BenchError, match=r"bare \([0-9a-f]{7}\) has no segbench in it") as caught,
        revision.beside("bare", own(checkout), watch),
    ):
        pass
    assert caught.value.code == 4
