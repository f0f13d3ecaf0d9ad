"""`segbench report`: a page a ladder, from records alone.

The numbers come first, each with n, spread and verdict beside it, then the pictures, then all that a reader
needs to doubt them: machine, provenance, warnings, what was left out and why. The page holds nothing but
what the records say, so that the same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import BenchError, figures, record, stats, tables
from bench.tables import Contrasts, Ladder, Rung

PROTOCOLS: Mapping[str, str] = {
    "squash": "image (bilinear) and label (nearest) are both resized to one square, the ratio not kept",
    "native": "the image is resized with its ratio kept, and the logits are resized to the label's own size; "
    "the label is never resized",
}


SCORES = (
    "Points, of the last evaluation but for the last column. Absent as 0: a class that occurs neither in "
    "labels nor in predictions counts as 0 in the mean, as ADE20K's own script has it (its challenge score "
    "is the mean of that and pixel accuracy, under protocol `native`). Pixel accuracy: the share of the "
    "scored pixels that are right. Mean accuracy: recall, averaged over the classes of the labels."
)


def write(results: Path, out: Path, target: float | None = None) -> list[Path]:
    """Write `<out>/<workload>/report.md` and its PNGs for every workload below `results`; returns the pages.

    What must not share a table (other protocol, other workload values, other results root) gets a page of its
    own. `target`: points of mIoU, instead of the workload's. BenchError: nothing finished, `out` unwritable.
    """
    if target is not None and not 0 <= target <= 100:
        raise BenchError(
            f"a target of {target:g} mIoU cannot be", "give --target in points, from 0 to 100", 2
        )
    ladders = tables.read(results)
    pages = []
    for ladder, folder in zip(ladders, _folders(ladders, out), strict=True):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            page = folder / "report.md"
            page.write_text(compose(ladder, folder, target), encoding="utf-8")
        except OSError as error:
            raise BenchError(
                f"cannot write the report into {folder}: {error.strerror or error}",
                "free some space or name a folder you may write to with --out",
            ) from error
        pages.append(page)
    return pages


def _folders(ladders: Sequence[Ladder], out: Path) -> list[Path]:
    """A folder a ladder: the workload's name, and what tells ladders of one workload apart."""
    names = []
    tells: tuple[Callable[[Ladder], str], ...] = (
        lambda ladder: ladder.root.name,
        lambda ladder: ladder.protocol,
        lambda ladder: ladder.workload.fingerprint,
        lambda ladder: str(ladder.all[0].runs[0].record["data_fingerprint"]),
    )
    for ladder in ladders:
        alike = [other for other in ladders if other.workload.name == ladder.workload.name]
        parts = [ladder.workload.name]
        parts += [tell(ladder) for tell in tells if len({tell(other) for other in alike}) > 1]
        names.append("-".join(parts))
    return [out / name for name in names]


def compose(ladder: Ladder, folder: Path, target: float | None) -> str:
    """The page; its pictures are written into `folder`."""
    goal = ladder.workload.values["evaluation"]["target_miou"] if target is None else target
    found = tables.judge(ladder)
    if not ladder.scored:
        return "\n".join(
            [
                _opening(ladder, found),
                _time(ladder, found, None, False),
                _hardware(ladder),
                _figures(ladder, folder, goal),
                _machine(ladder),
                _provenance(ladder, None),
                _doubts(ladder),
            ]
        )
    sections = [
        _opening(ladder, found),
        _quality(ladder, found),
        _time(ladder, found, goal, target is not None),
        _hardware(ladder),
        _blog(ladder, found),
        _figures(ladder, folder, goal),
        _scores(ladder),
        _classes(ladder),
        _machine(ladder),
        _provenance(ladder, target),
        _doubts(ladder),
    ]
    return "\n".join(section for section in sections if section)


def _opening(ladder: Ladder, found: Contrasts) -> str:
    chain = ladder.chain()
    first, last = chain[0], chain[-1]
    count = sorted({len(rung.runs) for rung in ladder.all})
    seeds = f"{count[0]}" if len(count) == 1 else f"{count[0]} to {count[-1]}"
    text = f"# {ladder.workload.title}\n\n"
    if first is not last:
        gain, pace = found.miou[last.name, first.name], found.time[last.name, first.name]
        told = [f"mIoU {tables.signed(gain.delta)} ({_said(gain)})"] if ladder.scored else []
        if last.values("train_s") and first.values("train_s"):
            mixed = tables.mixed(ladder, (last.name, first.name))
            verdict = "no verdict: machines differ" if mixed else _said(pace)
            told.append(f"time to train × {pace.delta:.2f} ({verdict})")
        text += f"From `{first.name}` to `{last.name}`: {', '.join(told)}.\n\n" if told else ""
    images = max(run.record["val_images"] or 0 for rung in ladder.all for run in rung.runs)
    text += (
        f"{len(ladder.all)} rung{'s' * (len(ladder.all) > 1)}, {seeds} seed{'s' * (seeds != '1')} each, on "
        f"{_where(ladder)}. "
    )
    if not ladder.scored:
        return (
            text + "The pictures are noise: the speeds mean something, scores would not, so none are shown.\n"
        )
    return text + (
        f"Scored by protocol `{ladder.protocol}`: "
        f"{PROTOCOLS.get(ladder.protocol, 'not known to this version')}; single scale, no flip. mIoU sums "
        f"intersections and unions over all {images} validation images and then averages over the classes; a "
        "class that occurs neither in labels nor in predictions is left out of the mean, not counted as 0. "
        "All mIoU are those of the last evaluation, not the best.\n"
    )


def _said(contrast: stats.Contrast) -> str:
    return contrast.verdict or f"no verdict: {contrast.reason}"


def _where(ladder: Ladder) -> str:
    run = ladder.all[0].runs[0].record
    count = run["device_count"] or 1
    if run["device"] == "cuda":
        return f"{count} x {run['gpu'] or 'GPU'}"
    threads, beside = run["threads"], run["runs_at_once"] or 1
    plural = "s" * (threads != 1)
    parts = [f"{run['cores'] or 'unknown'} cores", f"{threads or 'unknown'} thread{plural} a run"]
    if beside > 1:
        parts.append(f"{beside} runs side by side, each on cores of its own")
    return f"{run['cpu'] or 'a CPU'} ({', '.join(parts)})"


def _quality(ladder: Ladder, found: Contrasts) -> str:
    text = f"## The ladder: quality\n\n{tables.quality(ladder, found, ladder.rungs).markdown()}\n"
    if ladder.aside:
        text += "Tried beside the ladder and not adopted; no part of its sums:\n\n"
        text += f"{tables.quality(ladder, found, ladder.aside).markdown()}\n"
    text += _explain(found)
    told = tables.published(ladder)
    if told:
        text += (
            f"\nPublished, not measured here: {told['source']}; protocol `{told['protocol']}`, final or best "
            f"evaluation: {told['scored']}. {told['note']}\n"
        )
    elsewhere = tables.others(ladder)
    if elsewhere:
        text += f"\n{elsewhere.markdown()}"
    differ = tables.disagreements(ladder)
    if differ:
        text += "\n† These records come from another commit or machine than most of the table:\n\n"
        text += "".join(f"- `{name}`: {'; '.join(what)}\n" for name, what in differ.items())
    return text


def _explain(found: Contrasts) -> str:
    """What the cells of the quality table mean."""
    spread, count = found.miou_spread, len(found.miou)
    if not spread.freedom:
        return "A single seed shows no spread: there is no interval and no verdict.\n"
    family = (
        f"The {count} contrasts of this page are one family: Holm's correction keeps the chance of any false "
        "better or worse below 5 %. "
    )
    text = (
        "Mean ± standard deviation over seeds (n). In brackets: 95 % intervals, by Student's t from the "
        f"deviation pooled over the rungs ({spread.std:.2f} points, {spread.freedom} degrees of freedom). "
        f"{family if count > 1 else ''}`same`: within ± {stats.MARGIN:g} points. `cannot tell` (needs d): "
        "the smallest difference that these seeds would have shown four times in five. "
        f"Fewer than {stats.FEWEST} seeds: no verdict.\n"
    )
    if spread.uneven:
        text += (
            "\n**Careful:** the rungs' deviations differ more than chance explains (Bartlett's test): the "
            "pooled one is too wide for some rungs and too narrow for others.\n"
        )
    return text


def _time(ladder: Ladder, found: Contrasts, goal: float | None, given: bool) -> str:
    text = f"## The ladder: time\n\n{tables.pace(ladder, found, ladder.rungs, goal).markdown()}\n"
    if ladder.aside:
        text += f"Not adopted:\n\n{tables.pace(ladder, found, ladder.aside, goal).markdown()}\n"
    text += (
        "Time to train is that of all steps, without set-up, evaluations, checkpoints; wall holds all. "
        "Ratios below 1 are faster; their intervals are made as above, from logarithms. `same`: within "
        f"{100 * stats.TOLERANCE:g} %."
    )
    if goal is not None:
        text += (
            f" Time to {goal:g} mIoU{' (given with `--target`)' * given} is the "
            "time to train at the first evaluation that reaches it: the median over seeds, a miss counted as "
            "infinite, ± the time between evaluations (k of n reached it)."
        )
    text += "\n"
    if any(not run.timed for rung in ladder.all for run in rung.runs):
        text += "\nResumed runs count for the mIoU, not for times.\n"
    silent = _without_sync(ladder)
    if silent:
        text += (
            f"\nOne device: there is nothing to exchange, so speed differences between {silent} are no "
            "measure of what sync BN costs.\n"
        )
    return text


def _without_sync(ladder: Ladder) -> str:
    """The pairs of rungs between which sync BN changes, on one device; empty where there are none."""
    pairs = []
    for rung in ladder.all:
        before = ladder.predecessor(rung)
        alone = all((run.record["device_count"] or 1) == 1 for run in rung.runs)
        if before and alone and "replicas.sync_bn" in tables.changed(rung.recipe, before.recipe):
            pairs.append(f"rungs {before.short} and {rung.short}")
    return ", ".join(pairs)


def _hardware(ladder: Ladder) -> str:
    table, missing = tables.hardware(ladder)
    text = "## The ladder: hardware\n\n"
    if len(table.head) > 1:
        text += f"{table.markdown()}\nOver train time, mean over seeds.\n"
    if missing:
        text += "\nLeft out:\n\n" + "".join(f"- {line}\n" for line in missing)
    return text


def _blog(ladder: Ladder, found: Contrasts) -> str:
    if len(ladder.steps()) < 2:
        return ""
    return (
        f"## The blog's table\n\n{tables.blog(ladder, found).markdown()}\n"
        "Each step against the one before it; rungs that change only batch size, its learning rate and sync "
        "BN are one step.\n"
    )


def _figures(ladder: Ladder, folder: Path, goal: float) -> str:
    text = "## Figures\n"
    for picture in figures.draw(ladder, folder, goal):
        text += f"\n### {picture.title}\n\n"
        if picture.path is not None:
            text += f"![{picture.title}]({picture.path.name})\n\n"
        text += f"{picture.caption}\n"
    return text


def _scores(ladder: Ladder) -> str:
    return f"## More scores\n\n{tables.scores(ladder).markdown()}\n{SCORES}\n"


def _classes(ladder: Ladder) -> str:
    table = tables.classes(ladder).markdown()
    if len(ladder.workload.values["data"]["classes"]) > 40:
        table = f"<details><summary>All classes</summary>\n\n{table}\n</details>\n"
    note = "Points at the last evaluation, mean over seeds; – : the class never occurs."
    return f"## IoU by class\n\n{table}\n{note}\n"


def _machine(ladder: Ladder) -> str:
    return f"## Machine\n\n{tables.machine(ladder).markdown()}"


def _provenance(ladder: Ladder, target: float | None) -> str:
    commands: dict[str, list[str]] = {}
    for rung in ladder.all:
        for run in rung.runs:
            command = run.record["command"] or "not recorded"
            commands.setdefault(command, []).append(_named(rung, run.record["seed"]))
    text = f"## Provenance\n\n{tables.provenance(ladder).markdown()}\n"
    text += f"Workload `{ladder.workload.name}`, fingerprint {ladder.workload.fingerprint}. "
    text += "The commands that made the numbers:\n"
    for command, names in commands.items():
        text += f"\n```\n{command}\n```\n\nmade {_counted(ladder, names)}.\n"
    again = "segbench report" + ("" if target is None else f" --target {target:g}")
    return text + f"\nThis page: `{again}`, with `--results` naming the folder of these records.\n"


def _named(rung: Rung, seed: int) -> str:
    return f"`{rung.name}` seed {seed}"


def _counted(ladder: Ladder, names: Sequence[str]) -> str:
    """The runs by name, or that it was all of them."""
    everything = sum(len(rung.runs) for rung in ladder.all)
    return f"all {everything} runs" if len(names) == everything else ", ".join(names)


def _doubts(ladder: Ladder) -> str:
    """Warnings with their advice, and every run that is not averaged."""
    warned: dict[str, list[str]] = {}
    for rung in ladder.all:
        for run in rung.runs:
            for name in run.record["warnings"] or ():
                warned.setdefault(name, []).append(_named(rung, run.record["seed"]))
    text = "## Warnings\n\n"
    for name, runs in sorted(warned.items()):
        advice = record.WARNINGS.get(name, "Not known to this version.")
        text += f"- **{name}** ({_counted(ladder, runs)}): {advice}\n"
    text += "" if warned else "None.\n"
    text += "\n## Not averaged\n\n"
    text += "".join(f"- `{name}`: {why}\n" for name, why in ladder.left_out)
    return text + ("" if ladder.left_out else "Nothing: every record below the folder counts.\n")
