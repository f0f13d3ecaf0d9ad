"""The ladder says what the blog's ladder says, and a recipe of one's own joins it by path."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bench import BenchError, assets, recipe, workload

LADDER = [
    "00-mmseg-baseline",
    "01-new-weights",
    "02-decoupled-weight-decay",
    "03-cosine",
    "04-batch-32",
    "05-batch-64",
    "06-batch-128",
    "07-no-sync-bn",
    "08-batch-256",
]


def own(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.toml").write_text(text)
    return str(folder / f"{name}.toml")


@pytest.fixture
def mine(tmp_path: Path) -> str:
    return own(tmp_path, "mine", 'extends = "07-no-sync-bn"\ntitle = "mine"\n[optim]\nlr = 0.06\n')


# -------------------------------------------------------------------------------------- the ladder as shipped


@pytest.mark.parametrize("name", LADDER)
def test_a_shipped_recipe_loads_and_reads_back_equal(name: str) -> None:
    rung = recipe.load(name)
    assert recipe.parse(recipe.dump(rung), "recipe.toml") == rung
    assert rung.title
    assert rung.why.endswith(".")


def test_the_ladder_is_the_chain() -> None:
    rungs = recipe.ladder()
    assert [rung.name for rung in rungs] == LADDER
    assert [rung.parent for rung in rungs] == [None, *LADDER[:8]]
    assert [rung.name for rung in rungs if not rung.adopted] == ["08-batch-256"]


def test_the_base_states_the_baseline() -> None:
    assert recipe.load("00-mmseg-baseline").values == {
        "model": {"weights": "v1"},
        "optim": {
            "optimizer": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "poly",
            "end_factor": 0.01,
            "power": 0.9,
            "batch_size": 16,
        },
        "replicas": {"sync_bn": True},
        "system": {},
    }


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("01-new-weights", {"model.weights": "v2"}),
        ("02-decoupled-weight-decay", {"optim.optimizer": "decoupled_sgd", "optim.weight_decay": 5e-5}),
        ("03-cosine", {"optim.schedule": "cosine", "optim.end_factor": 0.0}),
        ("04-batch-32", {"optim.batch_size": 32, "optim.lr": 0.02}),
        ("05-batch-64", {"optim.batch_size": 64, "optim.lr": 0.04}),
        ("06-batch-128", {"optim.batch_size": 128, "optim.lr": 0.08}),
        ("07-no-sync-bn", {"replicas.sync_bn": False}),
        ("08-batch-256", {"optim.batch_size": 256, "optim.lr": 0.16}),
    ],
)
def test_a_rung_changes_what_the_blog_changed(name: str, changes: dict[str, Any]) -> None:
    rung = recipe.load(name)
    assert rung.changes == changes
    before = recipe.load(rung.parent or "")
    assert {key: new for key, _, new in recipe.difference(before, rung)} == changes


def test_the_learning_rate_follows_the_batch() -> None:
    optims = [rung.values["optim"] for rung in recipe.ladder()]
    assert {round(optim["lr"] / optim["batch_size"], 12) for optim in optims} == {0.01 / 16}


def test_no_two_rungs_have_the_same_values() -> None:
    assert len({rung.fingerprint for rung in recipe.ladder()}) == len(LADDER)


def test_nobody_is_adopted_or_not_by_descent(tmp_path: Path) -> None:
    text = 'extends = "08-batch-256"\ntitle = "on"\n[optim]\nlr = 0.2\n'
    assert recipe.load(own(tmp_path, "on", text)).adopted


# ----------------------------------------------------------------------------------------- a ladder elsewhere


def test_another_ladder_may_stand_on_a_rung_of_this_one(tmp_path: Path) -> None:
    own(tmp_path, "01-half", 'extends = "02-base"\ntitle = "half"\n[system]\nprecision = "bf16"\n')
    own(tmp_path, "02-base", 'extends = "07-no-sync-bn"\ntitle = "base"\n[system]\nchannels_last = false\n')
    own(tmp_path, "03-free", 'extends = "02-base"\ntitle = "free"\n[model]\nweights = "none"\n')
    rungs = recipe.ladder(tmp_path)
    assert [rung.name for rung in rungs] == ["02-base", "01-half", "03-free"]
    assert [rung.is_system for rung in rungs] == [True, True, False]


def test_the_ladder_of_speed_starts_from_rung_07_and_touches_system_alone() -> None:
    rungs = recipe.select(["speed/all"])
    assert [rung.name for rung in rungs] == ["10-plain", "11-channels-last", "12-compile", "13-bf16"]
    assert [rung.parent for rung in rungs] == ["07-no-sync-bn", *(rung.name for rung in rungs[:-1])]
    assert all(rung.is_system for rung in rungs)
    assert [len(rung.changes) for rung in rungs[1:]] == [1, 1, 1]
    assert recipe.shipped() == (*recipe.ladder(), *rungs)
    assert "compile" not in recipe.load("07").values["system"]


def test_rungs_of_all_ladders_are_named_alike(tmp_path: Path) -> None:
    assert tuple(recipe.load(rung.name[:2]) for rung in recipe.shipped()) == recipe.shipped()
    mine = recipe.load(own(tmp_path, "mine", "extends = '12-compile'\ntitle = 'm'\n[optim]\nlr = 0.1\n"))
    assert mine.parent == "12-compile"
    with pytest.raises(BenchError, match="segbench ships a recipe named 12-compile with other values"):
        recipe.load(
            own(tmp_path, "12-compile", "extends = '07-no-sync-bn'\ntitle = 'm'\n[optim]\nlr = 0.1\n")
        )
    with pytest.raises(BenchError, match="there is no recipe file speed/12-compile") as said:
        recipe.load("speed/12-compile")
    assert said.value.hint == 'did you mean "12-compile"?'


def test_the_rung_of_bf16_is_refused_on_a_cpu_and_the_others_are_not() -> None:
    for rung in recipe.select(["speed/all"])[:-1]:
        recipe.check(rung, workload.load("mini"), "cpu")
    with pytest.raises(BenchError, match='13-bf16: .system. precision = "bf16" is a half') as said:
        recipe.check(recipe.load("13"), workload.load("mini"), "cpu")
    assert said.value.hint == "run on a GPU with --device cuda, or leave 13-bf16 out"


def test_a_switch_that_a_recipe_states_counts_also_where_it_is_off(tmp_path: Path) -> None:
    text = "extends = '07-no-sync-bn'\ntitle = 'off'\n[system]\ncompile = false\n"
    assert recipe.load(own(tmp_path, "off", text)).fingerprint != recipe.load("07").fingerprint


def test_a_base_is_no_systems_rung() -> None:
    assert not recipe.load("00").is_system


def test_an_empty_ladder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="there are no recipes in"):
        recipe.ladder(tmp_path)


# -------------------------------------------------------------------------------------------------- selecting


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["all"], LADDER),
        (["07"], ["07-no-sync-bn"]),
        (["07-no-sync-bn", "00"], ["07-no-sync-bn", "00-mmseg-baseline"]),
        (["07", "07-no-sync-bn", "07"], ["07-no-sync-bn"]),
        (["03", "all"], ["03-cosine", *LADDER[:3], *LADDER[4:]]),
        ([], []),
    ],
)
def test_recipes_are_chosen_in_order_and_once(names: list[str], chosen: list[str]) -> None:
    assert [rung.name for rung in recipe.select(names)] == chosen


def test_a_recipe_of_ones_own_is_chosen_by_path(mine: str) -> None:
    assert [rung.name for rung in recipe.select(["07", mine, mine])] == ["07-no-sync-bn", "mine"]
    assert recipe.select([mine])[0].values["optim"]["batch_size"] == 128


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("batch-128", 'there is no recipe "batch-128"', 'did you mean "06-batch-128"? `segbench recipes`'),
        (
            "06-bach-128",
            'there is no recipe "06-bach-128"',
            'did you mean "06-batch-128"? `segbench recipes`',
        ),
        ("Cosine", 'there is no recipe "Cosine"', 'did you mean "03-cosine"? `segbench recipes`'),
        ("zzz", 'there is no recipe "zzz"', "`segbench recipes` lists them all"),
        ("", 'there is no recipe ""', "`segbench recipes` lists them all"),
        ("0", '"0" could be any of 00-mmseg-baseline, 01-new-weights', "type enough"),
        ("./nowhere.toml", "there is no recipe file nowhere.toml", "check the path"),
    ],
)
def test_an_unknown_recipe_is_refused(name: str, message: str, hint: str) -> None:
    with pytest.raises(BenchError) as caught:
        recipe.select(["00", name])
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_file_that_lies_here_is_thought_of_where_its_ending_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half-momentum.toml").touch()
    with pytest.raises(BenchError, match='there is no recipe "half-momentum"') as said:
        recipe.load("half-momentum")
    assert 'did you mean "half-momentum.toml"?' in said.value.hint


def test_a_shipped_name_may_not_get_another_meaning(tmp_path: Path) -> None:
    text = 'extends = "05-batch-64"\ntitle = "x"\n[optim]\nbatch_size = 128\nlr = 0.07\n'
    with pytest.raises(BenchError, match="ships a recipe named 06-batch-128 with other values") as caught:
        recipe.select([own(tmp_path, "06-batch-128", text)])
    assert "rename the file" in caught.value.hint


def test_a_copy_of_a_shipped_recipe_is_that_recipe(tmp_path: Path) -> None:
    copy = shutil.copy(assets.folder("recipes") / "06-batch-128.toml", tmp_path)
    assert [rung.name for rung in recipe.select(["06", str(copy)])] == ["06-batch-128"]


def test_two_recipes_of_one_name_may_not_share_a_results_folder(tmp_path: Path, mine: str) -> None:
    (tmp_path / "other").mkdir()
    text = 'extends = "07-no-sync-bn"\ntitle = "mine"\n[optim]\nlr = 0.05\n'
    with pytest.raises(BenchError, match="have one name, mine, and different values"):
        recipe.select([mine, own(tmp_path / "other", "mine", text)])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[model]\nweights = 'v3'", 'mine.toml: [model] weights is "v3"; it must be "v1", "v2" or "none"'),
        (
            "[optim]\nmomentum = 1.0",
            "mine.toml: [optim] momentum is 1.0; it must be a number from 0 to below 1",
        ),
        (
            "[optim]\nweight_decay = -1",
            "mine.toml: [optim] weight_decay is -1; it must be a number, 0 or more",
        ),
        (
            "[optim]\nend_factor = 1.5",
            "mine.toml: [optim] end_factor is 1.5; it must be a number from 0 to 1",
        ),
        ("[optim]\npower = 0", "mine.toml: [optim] power is 0; it must be a number above 0"),
        (
            "[optim]\nbatch_size = 0",
            "mine.toml: [optim] batch_size is 0; it must be a whole number, 1 or more",
        ),
        (
            "[system]\nprecision = 'fp32'",
            '[system] precision is "fp32"; it must be "float32", "bf16" or "fp16"',
        ),
        ("[replicas]\nsync_bn = 0", "mine.toml: [replicas] sync_bn is 0; it must be true or false"),
        ("[train]\nepochs = 3", "mine.toml: unknown section [train]"),
    ],
)
def test_a_value_that_no_recipe_can_have_is_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(BenchError) as caught:
        recipe.load(own(tmp_path, "mine", f"extends = '07-no-sync-bn'\ntitle = 'x'\n{line}\n"))
    assert message in caught.value.message


# ---------------------------------------------------------------------------------------- recipe and workload


@pytest.mark.parametrize("name", [rung.name for rung in recipe.shipped()])
@pytest.mark.parametrize("trained_on", workload.shipped())
def test_every_recipe_goes_with_every_workload(name: str, trained_on: str) -> None:
    recipe.check(recipe.load(name), workload.load(trained_on))


@pytest.mark.parametrize(
    ("line", "device", "message"),
    [
        ("[optim]\nbatch_size = 100", "cpu", "batch_size = 100 does not divide into the 8 replicas of mini"),
        ("[optim]\nbatch_size = 8", "cuda", "sync_bn = false leaves one image of batch_size = 8 to each of"),
        ("[system]\nprecision = 'fp16'", "cpu", 'mine: [system] precision = "fp16" is a half precision'),
        ("[system]\nprecision = 'bf16'", "cpu", 'mine: [system] precision = "bf16" is a half precision'),
    ],
)
def test_what_recipe_and_workload_cannot_do_together_is_refused(
    tmp_path: Path, line: str, device: str, message: str
) -> None:
    rung = recipe.load(own(tmp_path, "mine", f"extends = '07-no-sync-bn'\ntitle = 'x'\n{line}\n"))
    with pytest.raises(BenchError) as caught:
        recipe.check(rung, workload.load("mini"), device)
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("line", "device"),
    [
        ("[optim]\nbatch_size = 16", "cpu"),
        ("[optim]\nbatch_size = 8\n[replicas]\nsync_bn = true", "cpu"),
        ("[system]\nprecision = 'fp16'", "cuda"),
        ("[system]\nprecision = 'float32'", "cpu"),
    ],
)
def test_what_they_can_do_together_is_not(tmp_path: Path, line: str, device: str) -> None:
    text = f"extends = '07-no-sync-bn'\ntitle = 'x'\n{line}\n"
    recipe.check(recipe.load(own(tmp_path, "mine", text)), workload.load("mini"), device)


def test_the_half_precision_of_a_workload_is_refused_by_its_name_and_a_recipe_may_lift_it(
    tmp_path: Path,
) -> None:
    text = "extends = 'mini'\ntitle = 'x'\n[system]\nprecision = 'fp16'\n"
    half = workload.load(own(tmp_path, "half", text))
    with pytest.raises(BenchError, match='half: .system. precision = "fp16"'):
        recipe.check(recipe.load("00"), half, "cpu")
    full = "extends = '00-mmseg-baseline'\ntitle = 'x'\n[system]\nprecision = 'float32'\n"
    recipe.check(recipe.load(own(tmp_path, "full", full)), half, "cpu")
