"""TOML with `extends`: what is resolved, what is refused, and that a written file reads back equal."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest

from bench import BenchError, settings
from bench.settings import FLAG, LINE, TEXT, Kind, Settings, choice, count, counts, names, number

KIND = Kind(
    word="recipe",
    folders=("recipes",),
    make=Settings,
    header={"extends": TEXT, "title": LINE, "why": TEXT},
    sections={
        "optim": {
            "lr": number("a number above 0", lambda value: value > 0),
            "schedule": choice("poly", "cosine"),
            "batch_size": count(1),
        },
        "net": {"widths": counts(0, 3), "classes": names(1, 4), "stride": choice(8, 16), "sync": FLAG},
        "system": {"precision": choice("float32", "fp16")},
    },
    listing="segbench recipes",
    overlays={"system": "the workload"},
)
BASE = """
title = "a base"
[optim]
lr = 0.1
schedule = "poly"
batch_size = 4
[net]
widths = [1, 2, 3]
classes = ["sky", "sea"]
stride = 8
sync = true
"""
CHILD = 'extends = "base"\ntitle = "a child"\n'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("base", BASE)
    return tmp_path


def write(name: str, text: str | bytes) -> str:
    path = Path(name + ".toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def load(path: str | Path) -> Settings:
    return settings.load(KIND, path)


def refusal(path: str | Path) -> tuple[str, str]:
    """(message, hint) of the one clear line with which the file is refused."""
    with pytest.raises(BenchError) as caught:
        load(path)
    message, hint = caught.value.message, caught.value.hint
    assert message.isprintable()
    assert hint.isprintable()
    assert hint
    assert len(message) < 250
    return message, hint


def test_a_base_is_taken_as_it_stands() -> None:
    base = load("base.toml")
    assert base.name == "base"
    assert base.parent is None
    assert base.changes == {}
    assert base.values["optim"] == {"lr": 0.1, "schedule": "poly", "batch_size": 4}
    assert base.values["system"] == {}


def test_a_child_has_its_parents_values_with_its_own_over_them() -> None:
    write("child", CHILD + "[optim]\nlr = 0.2\n[system]\nprecision = 'fp16'\n")
    write("grandchild", "extends = './child.toml'\ntitle = 'a grandchild'\n[net]\nwidths = []\n")
    grandchild = load("grandchild.toml")
    assert grandchild.parent == "child"
    assert grandchild.changes == {"net.widths": []}
    assert grandchild.values["optim"] == {"lr": 0.2, "schedule": "poly", "batch_size": 4}
    assert grandchild.values["net"]["widths"] == []
    assert grandchild.values["system"] == {"precision": "fp16"}


def test_a_parent_is_looked_up_beside_the_file_and_not_in_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    write("deep/child", "extends = '../base.toml'\ntitle = 'c'\n[optim]\nlr = 1\n")
    monkeypatch.chdir("/")
    assert load(here / "deep" / "child.toml").values["optim"]["lr"] == 1.0


def test_whole_numbers_are_taken_where_a_number_is_wanted() -> None:
    write("whole", CHILD + "[optim]\nlr = 2\n")
    write("decimal", CHILD + "[optim]\nlr = 2.0\n")
    whole, decimal = load("whole.toml"), load("decimal.toml")
    assert isinstance(whole.values["optim"]["lr"], float)
    assert whole.fingerprint == decimal.fingerprint


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm() -> None:
    write("windows", b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode())
    assert load("windows.toml").values == load("base.toml").values


# ---------------------------------------------------------------------------------------------- fingerprints


def test_the_fingerprint_depends_on_values_alone() -> None:
    write("renamed", "# a remark\nwhy = 'other words'\n" + BASE.replace("a base", "another title"))
    assert load("renamed.toml").fingerprint == load("base.toml").fingerprint


def test_the_fingerprint_does_not_depend_on_the_way_to_the_values() -> None:
    write("child", CHILD + "[optim]\nlr = 0.2\n")
    write("flat", BASE.replace("lr = 0.1", "lr = 0.2"))
    assert load("child.toml").fingerprint == load("flat.toml").fingerprint


@pytest.mark.parametrize(
    "line",
    [
        "[optim]\nlr = 0.10000001",
        "[optim]\nbatch_size = 5",
        "[net]\nsync = false",
        "[net]\nclasses = ['sea', 'sky']",
        "[system]\nprecision = 'float32'",
    ],
)
def test_every_value_counts_for_the_fingerprint(line: str) -> None:
    write("child", CHILD + line)
    fingerprint = load("child.toml").fingerprint
    assert fingerprint != load("base.toml").fingerprint
    assert len(fingerprint) == 12


def test_an_empty_list_counts_for_nothing_and_files_in_which_it_did_are_read() -> None:
    with_it, without = {"net": {"widths": [], "stride": 8}}, {"net": {"stride": 8}}
    assert settings.fingerprint(with_it) == settings.fingerprint(without)
    before = settings.fingerprint(with_it, empty_lists=True)
    assert before != settings.fingerprint(with_it)
    old = Settings(name="old", title="old", values=with_it, fingerprint=before)
    assert settings.parse(KIND, settings.dump(old), "old.toml").fingerprint == before


def test_a_fingerprint_stays_what_it_was() -> None:
    # Records carry it: if this fails, every run on every disk would be trained again
    assert settings.fingerprint({"optim": {"lr": 0.1, "n": 3}, "system": {}}) == "9989a9a0e26c"


# -------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        (
            "[optim]\nlerning_rate = 1",
            'unknown key "lerning_rate" in [optim]',
            "the keys there are lr, schedule",
        ),
        ("[optim]\nbatchsize = 1", 'unknown key "batchsize" in [optim]', 'did you mean "batch_size"?'),
        ("[optin]\nlr = 1", "unknown section [optin]", 'did you mean "optim"?'),
        ("[loss]\nlr = 1", "unknown section [loss]", "the sections are [optim], [net], [system]"),
        ("[net]\nlr = 1", 'unknown key "lr" in [net]', "it belongs in [optim]"),
        ("titel = 'x'", 'unknown key "titel" before the first section', 'did you mean "title"?'),
        ("lr = 1", 'unknown key "lr" before the first section', "it belongs in [optim]"),
        ("[optim]\nlr = 1\nwhy = 'x'", 'unknown key "why" in [optim]', "it belongs above the first section"),
        ("[optim.lr]\nx = 1", "[optim] lr is a section; it must be a number above 0", "correct"),
        ('["a\\nb"]\nx = 1', 'unknown section ["a\\nb"]', "the sections are"),
        ("optim = 3", "optim is a section, not a value", "write [optim] on its own line"),
        ("[[optim]]\nlr = 1", "optim is a section, not a value", "write [optim]"),
        ("[optim]\nlr = '1'", '[optim] lr is "1"; it must be a number above 0', "correct"),
        ("[optim]\nlr = true", "[optim] lr is true; it must be a number above 0", "correct"),
        ("[optim]\nlr = 0", "[optim] lr is 0; it must be a number above 0", "correct"),
        ("[optim]\nlr = nan", "[optim] lr is nan; it must be a number above 0", "correct"),
        ("[optim]\nlr = 1e999", "[optim] lr is inf; it must be a number above 0", "correct"),
        ("[optim]\nlr = 2024-01-01", "[optim] lr is 2024-01-01; it must be a number above 0", "correct"),
        (
            "[optim]\nbatch_size = 4.0",
            "[optim] batch_size is 4.0; it must be a whole number, 1 or more",
            "correct",
        ),
        ("[optim]\nbatch_size = true", "[optim] batch_size is true; it must be a whole number", "correct"),
        (
            "[optim]\nbatch_size = -4",
            "[optim] batch_size is -4; it must be a whole number, 1 or more",
            "correct",
        ),
        (
            f"[optim]\nbatch_size = 0x{'f' * 9999}",
            "batch_size is a whole number of more than 64 bits",
            "correct",
        ),
        ("[optim]\nschedule = 'cosin'", 'schedule is "cosin"; it must be "poly" or "cosine"', '"cosine"?'),
        ("[optim]\nschedule = 1", '[optim] schedule is 1; it must be "poly" or "cosine"', "correct"),
        ("[optim]\nschedule = 'a\\nb'".replace("'", '"'), 'schedule is "a\\nb"; it must be', "correct"),
        (f"[optim]\nschedule = '{'a' * 999}'", "aaa ...; it must be", "correct"),
        ("[net]\nsync = 1", "[net] sync is 1; it must be true or false", "correct"),
        ("[net]\nsync = 'false'", '[net] sync is "false"; it must be true or false', "correct"),
        ("[net]\nstride = 8.0", "[net] stride is 8.0; it must be 8 or 16", "correct"),
        (
            "[net]\nwidths = [1, 2]",
            "widths is [1, 2]; it must be a list of 0 or 3 whole numbers above 0",
            "correct",
        ),
        ("[net]\nwidths = [1, 2, 0]", "widths is [1, 2, 0]; it must be a list of 0 or 3", "correct"),
        ("[net]\nwidths = [1, 2, true]", "widths is [1, 2, true]; it must be", "correct"),
        (
            "[net]\nclasses = ['a', 'a']",
            'classes is ["a", "a"]; it must be a list of 1 to 4 different',
            "correct",
        ),
        ("[net]\nclasses = []", "classes is []; it must be a list of 1 to 4 different names", "correct"),
        ("[net]\nclasses = ['a', 1]", 'classes is ["a", 1]; it must be', "correct"),
        ("[net]\nclasses = 'sky'", 'classes is "sky"; it must be', "correct"),
        ("[optim]\nlr = 0.1", "[optim] lr = 0.1 is what base says already", "delete that line"),
        (
            "[optim]\nlr = 2\nbatch_size = 4",
            "[optim] batch_size = 4 is what base says already",
            "delete that",
        ),
        (
            "[net]\nclasses = ['sky', 'sea']",
            'classes = ["sky", "sea"] is what base says already',
            "delete that",
        ),
        ("", "changes nothing: it would be base under another name", "state at least one value"),
        ("[optim]\n[net]", "changes nothing", "state at least one value"),
    ],
)
def test_a_line_is_refused(line: str, message: str, hint: str) -> None:
    said, todo = refusal(write("child", CHILD + line))
    assert said.startswith("child.toml")
    assert message in said
    assert hint in todo


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = 'x'\n[optim\n", "line 2"),
        ("title = 'x'\n\nlr 0.1\n", "line 3"),
        ("title = 'x'\ntitle = 'y'\n", "line 2"),
        ("title = 'x'\n[optim]\n[optim]\n", "line 3"),
        ("title = 'x'\nwhy = '''\nnever closed\n", "at the end, line 3"),
        ("a = " + "[" * 5000, "nested too deeply"),
        ("a = " + "9" * 5000, "is not valid TOML"),
    ],
)
def test_malformed_toml_is_refused_with_its_line(text: str, message: str) -> None:
    said, _ = refusal(write("child", text))
    assert said.startswith("child.toml is not valid TOML: ")
    assert message in said


@pytest.mark.parametrize("text", [b'title = "caf\xe9"', "title = 'x'".encode("utf-16")])
def test_another_encoding_is_refused(text: bytes) -> None:
    said, todo = refusal(write("child", text))
    assert "child.toml is not UTF-8 text (byte " in said
    assert "UTF-8" in todo


@pytest.mark.parametrize(
    "title", ["title = ''", "title = ' '", 'title = "two\\nlines"', "title = 3", "title = ' x'"]
)
def test_a_title_is_one_line(title: str) -> None:
    said, _ = refusal(write("child", f"extends = 'base'\n{title}\n[optim]\nlr = 1"))
    assert "title is " in said


def test_a_file_without_title_is_refused() -> None:
    said, todo = refusal(write("child", "extends = 'base'\n[optim]\nlr = 1"))
    assert said == "child.toml: title is missing"
    assert "title = " in todo


def test_a_base_that_lacks_values_is_told_which() -> None:
    said, todo = refusal(write("short", "title = 'x'\n[optim]\nlr = 1\n[net]\nsync = true"))
    assert (
        said
        == "short.toml extends nothing and lacks [optim] schedule, batch_size; [net] widths, classes, stride"
    )
    assert "extends" in todo


def test_a_base_that_states_what_the_workload_gives_is_refused() -> None:
    said, _ = refusal(write("own", BASE + "[system]\nprecision = 'fp16'"))
    assert said == "own.toml: a base does not state [system]: the workload gives it"


@pytest.mark.parametrize(
    ("extends", "hint"),
    [
        ("bsae", 'did you mean "base"? `segbench recipes` lists them all'),
        ("06-batch-129", 'did you mean "06-batch-128"?'),
        ("zzz", "`segbench recipes` lists them all"),
        ("", "`segbench recipes` lists them all"),
        ("./bsae.toml", 'did you mean "base.toml"?'),
        ("elsewhere/base.toml", "`segbench recipes`"),
        ("./", "`segbench recipes`"),
        ("a\\u0000.toml", "`segbench recipes`"),
    ],
)
def test_a_missing_parent_is_named(extends: str, hint: str) -> None:
    said, todo = refusal(write("child", f'extends = "{extends}"\ntitle = "x"\n[optim]\nlr = 1'))
    assert said == f'child.toml: extends = "{extends}" names no recipe that there is'
    assert hint in todo


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ({"a": "a"}, "a.toml: extends goes round in a circle: a.toml -> a.toml"),
        ({"a": "b", "b": "a"}, "b.toml: extends goes round in a circle: a.toml -> b.toml -> a.toml"),
        (
            {"a": "b", "b": "c", "c": "./b.toml"},
            "c.toml: extends goes round in a circle: b.toml -> c.toml -> b.toml",
        ),
    ],
)
def test_a_circle_is_refused(chain: dict[str, str], message: str) -> None:
    for name, parent in chain.items():
        write(name, f"extends = '{parent}'\ntitle = 'x'\n[optim]\nlr = 1")
    assert refusal("a.toml")[0] == message


def test_a_fault_in_a_parent_is_told_of_the_parent() -> None:
    write("base", BASE.replace("0.1", "-0.1"))
    assert refusal(write("child", CHILD + "[optim]\nlr = 1"))[0].startswith("base.toml: [optim] lr is -0.1")


@pytest.mark.parametrize("name", ["two words", "-x", "a|b", "naïve"])
def test_a_name_that_makes_no_good_folder_is_refused(name: str) -> None:
    assert f'"{name}" cannot name a recipe' in refusal(write(name, BASE))[0]


def test_files_that_cannot_be_read_are_named(here: Path) -> None:
    (here / "folder.toml").mkdir()
    assert refusal("folder.toml")[0] == "folder.toml cannot be read: Is a directory"
    assert refusal("bsae.toml") == ("there is no recipe file bsae.toml", 'did you mean "base.toml"?')
    assert "check the path" in refusal("nowhere/at/all.toml")[1]
    assert refusal("a\0.toml")[0].endswith("cannot be read: embedded null byte")
    (here / "loop.toml").symlink_to("loop.toml")
    assert "loop.toml cannot be read" in refusal("loop.toml")[0]


# ---------------------------------------------------------------------------------------- writing and reading


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "",
        'quotes " and \\ and \' and """',
        "tabs\tand\nlines\r\nand \b\f",
        "control \x00 \x1b \x7f",
        "µ — 学 😀 \u2028 \x85",
        "# no comment",
        "[no.section]",
        "a = 1",
    ],
)
def test_what_is_written_reads_back_equal(text: str) -> None:
    write("child", CHILD + "[optim]\nlr = 1e-7\n[net]\nwidths = []\n[system]\nprecision = 'fp16'")
    child = dataclasses.replace(load("child.toml"), why=text)
    read = settings.parse(KIND, settings.dump(child), "recipe.toml")
    assert read == child
    assert settings.dump(read) == settings.dump(child)


def test_a_base_reads_back_equal() -> None:
    base = load("base.toml")
    assert settings.parse(KIND, settings.dump(base), "recipe.toml") == base
    assert "extends" not in settings.dump(base)


def test_values_that_the_schema_of_today_does_not_know_are_read_from_a_record() -> None:
    values = {"optim": {"lr": 0.1, "warm up": 3}, "extra": {"depth": [1, 2]}}
    old = Settings(name="old", title="old", values=values, fingerprint=settings.fingerprint(values))
    assert settings.parse(KIND, settings.dump(old), "recipe.toml") == old


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr = 0.1", "lr = 0.2", "was edited or damaged"),
        ("lr = 0.1", "lr = nan", "was edited or damaged"),
        ("lr = 0.1", "lr = 2024-01-01", "was edited or damaged"),
        ('title = "a base"', "", "is not the resolved recipe of a run"),
        ('title = "a base"', "title = 3", "is not the resolved recipe of a run"),
        ('name = "base"', "nom = 'base'", "is not the resolved recipe of a run"),
        ("[optim]", "[optim", "is not valid TOML"),
    ],
)
def test_a_record_that_was_edited_is_refused(old: str, new: str, message: str) -> None:
    text = settings.dump(load("base.toml")).replace(old, new, 1)
    with pytest.raises(BenchError, match=f"^recipe.toml {message}"):
        settings.parse(KIND, text, "recipe.toml")


def test_settings_survive_the_way_to_another_process() -> None:
    base = load("base.toml")
    copy = pickle.loads(pickle.dumps(base))
    assert copy == base
    assert copy.path == base.path


def test_the_difference_names_every_value_that_differs_and_no_other() -> None:
    write("child", CHILD + "[optim]\nlr = 1\n[system]\nprecision = 'fp16'")
    base, child = load("base.toml"), load("child.toml")
    assert settings.difference(base, child) == [("optim.lr", 0.1, 1.0), ("system.precision", None, "fp16")]
    assert settings.difference(child, base) == [("optim.lr", 1.0, 0.1), ("system.precision", "fp16", None)]
    assert settings.difference(child, child) == []


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("bach_size", 'did you mean "batch_size"?'),
        ("size", 'did you mean "batch_size"?'),
        ("zzz", "-"),
        ("", "-"),
    ],
)
def test_a_suggestion_is_made_only_when_something_is_near(word: str, answer: str) -> None:
    assert settings.suggest(word, ["lr", "batch_size"], "-") == answer


def test_a_switch_that_came_later_counts_once_it_is_on() -> None:
    before, later = {"system": {"precision": "float32"}}, {"system.compile": False}
    off, on = ({"system": {"precision": "float32", "compile": value}} for value in (False, True))
    was = settings.fingerprint(before)
    assert settings.fingerprint(before, later) == settings.fingerprint(off, later) == was
    assert len({was, settings.fingerprint(on, later), settings.fingerprint(off)}) == 3
