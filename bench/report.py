"""`segbench report`: a page a ladder, from records alone.

The numbers come first, each with n, spread and verdict beside it, then the pictures, then all that a reader
needs to doubt them: machine, provenance, warnings, what was left out and why. The page holds nothing but
what the records say, so that the same records give the same bytes; its tables lie beside it as CSV and JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench import BenchError, arrival, contrasts, doctor, figures, record, stats, tables
from bench.arrival import Arrival
from bench.contrasts import Contrasts
from bench.ladder import Ladder, Rung, changed, read
from bench.sheet import Sheet, plain, signed

PROTOCOLS: Mapping[str, str] = {
    "squash": "image (bilinear) and label (nearest) are both resized to one square, the ratio not kept",
    "native": "the image is resized with its ratio kept, and the logits are resized to the label's own size; "
    "the label is never resized",
}
SCORES = (
    "Points, of the last evaluation but for the last two columns: those are of the evaluation with the "
    "highest mIoU, which was picked with hindsight, and its time (median over seeds) is not the time to the "
    "target. "
    "Absent as 0: a class that occurs neither in "
    "labels nor in predictions counts as 0 in the mean, as ADE20K's own script has it (its challenge score "
    "is the mean of that and pixel accuracy, under protocol `native`). Pixel accuracy: the share of the "
    "scored pixels that are right. Mean accuracy: recall, averaged over the classes of the labels."
)


# Every sheet that a report may have, in the order of the page; what a report lacks is not left by an earlier.
SHEETS = (
    "verdicts", "quality", "published-elsewhere", "time", "time-to-target", "hardware", "steps", "phases",
    "scores", "classes", "confusion", "machine", "provenance", "runs",
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """What a report is made of: a ladder, its judgements, its sheets by name. `goal`: the target, None where
    scores mean nothing; `given`: whether the command line named it."""

    ladder: Ladder
    found: Contrasts
    goal: float | None
    given: bool
    sheets: Mapping[str, Sheet]
    lacking: Sequence[str]

    def markdown(self, name: str) -> str:
        return self.sheets[name].markdown()

    def adopted(self, name: str) -> str:
        """The rows of the ladder's rungs."""
        sheet = self.sheets[name]
        return replace(sheet, rows=sheet.rows[: len(self.ladder.rungs)]).markdown()

    def aside(self, name: str, words: str) -> str:
        """The rows of what was tried beside the ladder, under some words; empty where nothing was."""
        sheet = self.sheets[name]
        rows = sheet.rows[len(self.ladder.rungs) :]
        return f"{words}\n\n{replace(sheet, rows=rows).markdown()}\n" if rows else ""


def write(results: Path, out: Path, target: float | None = None) -> list[Path]:
    """Write `<out>/<workload>/report.md`, its PNGs, `report.json` and `tables/*.csv` for every workload below
    `results`; returns the pages.

    What must not share a table (other protocol, other workload values, other results root) gets a page of its
    own. `target`: points of mIoU, instead of the workload's. BenchError: nothing finished, `out` unwritable.
    """
    if target is not None and not 0 <= target <= 100:
        raise BenchError(
            f"a target of {target:g} mIoU cannot be", "give --target in points, from 0 to 100", 2
        )
    ladders = read(results)
    pages = []
    for each, folder in zip(ladders, _folders(ladders, out), strict=True):
        page = prepare(each, target)
        try:
            (folder / "tables").mkdir(parents=True, exist_ok=True)
            (folder / "report.md").write_text(compose(page, folder), "utf-8", "backslashreplace")
            _write_numbers(page, folder)
        except OSError as error:
            raise BenchError(
                f"cannot write the report into {folder}: {error.strerror or error}",
                "free some space or name a folder you may write to with --out",
            ) from error
        pages.append(folder / "report.md")
    return pages


def _write_numbers(page: Page, folder: Path) -> None:
    """Each sheet as CSV, and all of them as one JSON object."""
    for name in SHEETS:
        path = folder / "tables" / f"{name}.csv"
        if name in page.sheets:
            path.write_text(page.sheets[name].csv(), "utf-8", "backslashreplace")
        else:
            path.unlink(missing_ok=True)
    document = {
        "workload": page.ladder.workload.name,
        "workload_fingerprint": page.ladder.workload.fingerprint,
        "protocol": page.ladder.protocol,
        "target_miou": page.goal,
        "pooled": {
            "final_miou_std": plain(page.found.miou_spread.std) if page.goal is not None else None,
            "log_train_s_std": plain(page.found.time_spread.std),
        },
        "tables": {name: page.sheets[name].records() for name in SHEETS if name in page.sheets},
        "not_averaged": [{"run": name, "why": why} for name, why in page.ladder.left_out],
    }
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(f"{text}\n", "utf-8", "backslashreplace")


def prepare(ladder: Ladder, target: float | None) -> Page:
    """Everything that the report says in numbers."""
    found = contrasts.judge(ladder)
    hardware, lacking = tables.hardware(ladder)
    sheets = [tables.pace(ladder, found), hardware, tables.phases(ladder)]
    goal: float | None = None
    arrivals: Mapping[str, Arrival] = {}
    if ladder.scored:
        goal = ladder.workload.values["evaluation"]["target_miou"] if target is None else target
        arrivals = arrival.judge(ladder, found, goal)
        sheets += [
            tables.quality(ladder, found),
            arrival.sheet(ladder, arrivals, goal),
            tables.blog(ladder, found),
        ]
        sheets += [tables.scores(ladder), tables.classes(ladder)]
        if (matrix := tables.confusion_pixels(ladder, ladder.chain()[-1])) is not None:
            sheets.append(tables.confused(ladder, matrix))
        if (elsewhere := tables.others(ladder)) is not None:
            sheets.append(elsewhere)
    sheets += [
        tables.verdicts(ladder, found, arrivals, goal),
        tables.machine(ladder),
        tables.provenance(ladder),
    ]
    sheets.append(tables.runs(ladder))
    return Page(ladder, found, goal, target is not None, {sheet.name: sheet for sheet in sheets}, lacking)


def _folders(ladders: Sequence[Ladder], out: Path) -> list[Path]:
    """A folder a ladder: the workload's name, and what tells ladders of one workload apart."""
    names = []
    tells: tuple[Callable[[Ladder], str], ...] = (
        lambda each: each.root.name,
        lambda each: each.protocol,
        lambda each: each.workload.fingerprint,
        lambda each: str(each.all[0].runs[0].record["data_fingerprint"]),
    )
    for each in ladders:
        alike = [other for other in ladders if other.workload.name == each.workload.name]
        parts = [each.workload.name]
        parts += [tell(each) for tell in tells if len({tell(other) for other in alike}) > 1]
        names.append("-".join(parts))
    return [out / name for name in names]


def compose(page: Page, folder: Path) -> str:
    """The page's text; its pictures are written into `folder`."""
    scored = page.ladder.scored
    sections = [
        _opening(page),
        _verdicts(page),
        _quality(page) if scored else "",
        _time(page),
        _target(page) if scored else "",
        _hardware(page),
        _blog(page) if scored else "",
        _figures(page, folder),
        _scores(page) if scored else "",
        _classes(page) if scored else "",
        f"## Machine\n\n{page.markdown('machine')}",
        _provenance(page),
        _doubts(page.ladder),
    ]
    return "\n".join(section for section in sections if section)


def _opening(page: Page) -> str:
    ladder, found = page.ladder, page.found
    chain = ladder.chain()
    first, last = chain[0], chain[-1]
    count = sorted({len(rung.runs) for rung in ladder.all})
    seeds = f"{count[0]}" if len(count) == 1 else f"{count[0]} to {count[-1]}"
    text = f"# {ladder.workload.title}\n\n"
    if first is not last:
        gain, pace = found.miou[last.name, first.name], found.time[last.name, first.name]
        told = [f"mIoU {signed(gain.delta)} ({_said(gain)})"] if ladder.scored else []
        if last.values("train_s") and first.values("train_s"):
            mixed = contrasts.mixed(ladder, (last.name, first.name))
            verdict = "no verdict: machines differ" if mixed else _said(pace)
            told.append(f"time to train × {pace.delta:.2f} ({verdict})")
        text += f"From `{first.name}` to `{last.name}`: {', '.join(told)}.\n\n" if told else ""
    images = max(run.record["val_images"] or 0 for rung in ladder.all for run in rung.runs)
    text += (
        f"{len(ladder.all)} rung{'s' * (len(ladder.all) > 1)}, {seeds} seed{'s' * (seeds != '1')} each, on "
        f"{_where(ladder)}. "
    )
    if ladder.left_out:
        missing = len(ladder.left_out)
        are = "records are" if missing > 1 else "record is"
        text += f"{missing} {are} not averaged: the end of the page says why. "
    if not ladder.scored:
        return (
            text + "The pictures are noise: the speeds mean something, scores would not, so none are shown.\n"
        )
    return text + (
        f"Scored by protocol `{ladder.protocol}`: "
        f"{PROTOCOLS.get(ladder.protocol, 'not known to this version')}; single scale, no flip. mIoU sums "
        f"intersections and unions over all {images} validation images and then averages over the classes; a "
        "class that occurs neither in labels nor in predictions is left out of the mean, not counted as 0. "
        "All mIoU are those of the last evaluation, not the best, unless a column says so.\n"
    )


def _said(contrast: stats.Contrast) -> str:
    return contrast.verdict or f"no verdict: {contrast.reason}"


def _verdicts(page: Page) -> str:
    text = f"## Verdicts\n\n{page.markdown('verdicts')}\nEach rung against the measured rung before it; "
    text += "intervals, and what the words mean, are below."
    if page.found.kept:
        text += (
            " A systems rung changes how the arithmetic is done and should change no result: its mIoU is "
            f"`not worse` where the whole interval lies above −{stats.MARGIN:g} points."
        )
    return text + "\n"


def _where(ladder: Ladder) -> str:
    run = ladder.all[0].runs[0].record
    count = run["device_count"] or 1
    if run["device"] == "cuda":
        return f"{count} x {run['gpu'] or 'GPU'}"
    threads, beside = run["threads"], run["runs_at_once"] or 1
    parts = [
        f"{run['cores'] or 'unknown'} core{'s' * (run['cores'] != 1)}",
        f"{threads or 'unknown'} thread{'s' * (threads != 1)} a run",
    ]
    if beside > 1:
        parts.append(f"{beside} runs side by side, each on cores of its own")
    return f"{run['cpu'] or 'a CPU'} ({', '.join(parts)})"


def _quality(page: Page) -> str:
    text = f"## The ladder: quality\n\n{page.adopted('quality')}\n"
    text += page.aside("quality", "Tried beside the ladder and not adopted; no part of its sums:")
    text += _explain(page.found)
    told = tables.published(page.ladder)
    if told:
        text += (
            f"\nPublished, not measured here: {told['source']}; protocol `{told['protocol']}`, final or best "
            f"evaluation: {told['scored']}. {told['note']}\n"
        )
    if "published-elsewhere" in page.sheets:
        text += f"\n{page.markdown('published-elsewhere')}"
    return text + _differences(page.ladder)


def _differences(ladder: Ladder) -> str:
    """What the mark beside a rung means; empty where none has one."""
    differ = contrasts.disagreements(ladder)
    lines = "".join(f"- `{name}`: {'; '.join(what)}\n" for name, what in differ.items())
    told = "\n† These records come from another commit or machine than most of the table:\n\n"
    return f"{told}{lines}" if lines else ""


def _explain(found: Contrasts) -> str:
    """What the cells of the quality table mean."""
    spread = found.miou_spread
    count = sum(contrast.verdict is not None for contrast in found.miou.values())
    if not spread.freedom:
        return "A single seed shows no spread: there is no interval and no verdict.\n"
    family = (
        f"The {count} contrasts of this page that can be judged are one family: Holm's correction, which "
        "widens the intervals, keeps the chance of any false better or worse below 5 %. "
    )
    text = (
        "Mean ± standard deviation over seeds (n). In brackets: 95 % intervals"
        f"{', which hold all together,' * (count > 1)} by Student's t from the deviation pooled over the "
        f"rungs of the ladder ({spread.std:.2f} points, {spread.freedom} degrees of freedom). "
        f"{family if count > 1 else ''}`same`: within ± {stats.MARGIN:g} points. `cannot tell` (needs d): "
        "the smallest difference that these seeds would have shown four times in five. "
        f"Fewer than {stats.FEWEST} seeds: no verdict.\n"
    )
    if found.kept:
        text += (
            "\nRungs that differ in `[system]` alone are judged by non-inferiority: `not worse` where the "
            f"whole interval lies above −{stats.MARGIN:g} points, `worse` where it lies below; `needs`: the "
            "loss that these seeds would have shown.\n"
        )
    if spread.uneven:
        text += (
            "\n**Careful:** the rungs' deviations differ more than chance explains (Bartlett's test): the "
            "pooled one is too wide for some rungs and too narrow for others.\n"
        )
    return text


def _time(page: Page) -> str:
    text = f"## The ladder: time\n\n{page.adopted('time')}\n"
    text += page.aside("time", "Not adopted:")
    text += (
        "Time to train is that of all steps, without set-up, evaluations, checkpoints; wall holds all. "
        "Ratios below 1 are faster; their intervals are Student's t on logarithms, and Holm's steps "
        f"test against the tolerance. `same`: within {100 * stats.TOLERANCE:g} %.\n"
    )
    ladder = page.ladder
    text += "" if ladder.scored else _differences(ladder)
    if any(not run.timed for rung in ladder.all for run in rung.runs):
        text += "\nResumed runs count for the mIoU, not for times.\n"
    silent = _without_sync(ladder)
    if silent:
        text += (
            f"\nOne device: there is nothing to exchange, so speed differences between {silent} are no "
            "measure of what sync BN costs.\n"
        )
    return text


def _target(page: Page) -> str:
    given = " (given with `--target`)" * page.given
    return (
        f"## Time to {page.goal:g} mIoU\n\n{page.markdown('time-to-target')}\n"
        f"The target is {page.goal:g} mIoU{given}. Times are those of the first evaluation that reaches it: "
        "the median over seeds, a miss counted as infinite, ± the time between evaluations. Time to train "
        "leaves evaluations out, wall counts them in, with set-up and checkpoints. Another question is "
        "whether the mean over seeds of the *last* evaluation lies above the target: a one-sided t test on "
        "the pooled deviation, p and interval Holm-corrected over the rungs; `not shown` is no proof of the "
        "contrary.\n"
    )


def _without_sync(ladder: Ladder) -> str:
    """The pairs of rungs between which sync BN changes, on one device; empty where there are none."""
    pairs = []
    for rung in ladder.all:
        before = ladder.predecessor(rung)
        alone = all((run.record["device_count"] or 1) == 1 for run in rung.runs)
        if before and alone and "replicas.sync_bn" in changed(rung.recipe, before.recipe):
            pairs.append(f"rungs {before.short} and {rung.short}")
    return ", ".join(pairs)


def _hardware(page: Page) -> str:
    text = "## The ladder: hardware\n\n"
    if len(page.sheets["hardware"].columns) > 1:
        text += f"{page.markdown('hardware')}\nOver train time, mean over seeds.\n"
    if page.lacking:
        text += "\nLeft out:\n\n" + "".join(f"- {line}\n" for line in page.lacking)
    return text


def _blog(page: Page) -> str:
    if len(page.ladder.steps()) < 2:
        return ""
    return (
        f"## The blog's table\n\n{page.markdown('steps')}\n"
        "Each step against the one before it; rungs that change only batch size, its learning rate and sync "
        "BN are one step.\n"
    )


def _figures(page: Page, folder: Path) -> str:
    text = "## Figures\n"
    pictures = figures.draw(page.ladder, folder, page.goal)
    for picture in pictures:
        if picture.path is not None:
            text += f"\n### {picture.title}\n\n![{picture.title}]({picture.path.name})\n\n{picture.caption}\n"
    missing = [f"- {picture.title}: {picture.caption}\n" for picture in pictures if picture.path is None]
    return text + (f"\nNot drawn:\n\n{''.join(missing)}" if missing else "")


def _scores(page: Page) -> str:
    return f"## More scores\n\n{page.markdown('scores')}\n{SCORES}\n"


def _classes(page: Page) -> str:
    table = page.markdown("classes")
    if len(page.ladder.workload.values["data"]["classes"]) > 40:
        table = f"<details><summary>All classes</summary>\n\n{table}\n</details>\n"
    note = "Points at the last evaluation, mean over seeds; – : the class never occurs."
    return f"## IoU by class\n\n{table}\n{note}\n"


def _provenance(page: Page) -> str:
    ladder = page.ladder
    commands: dict[str, list[str]] = {}
    for rung in ladder.all:
        for run in rung.runs:
            command = run.record["command"] or "not recorded"
            commands.setdefault(command, []).append(_named(rung, run.record["seed"]))
    text = f"## Provenance\n\n{page.markdown('provenance')}\n"
    text += f"Workload `{ladder.workload.name}`, fingerprint {ladder.workload.fingerprint}. "
    text += "The commands that made the numbers:\n"
    for command, names in commands.items():
        text += f"\n```\n{command}\n```\n\nmade {_counted(ladder, names)}.\n"
    again = "segbench report" + (
        f" --target {_exact(page.goal)}" if page.given and page.goal is not None else ""
    )
    return text + (
        f"\nThis page: `{again}`, with `--results` naming the folder of these records. Each table lies "
        "beside it in `tables/` as CSV, one with a row a run among them, and all are in `report.json`: times "
        "in seconds, what is unknown empty or null.\n"
    )


def _exact(points: float) -> str:
    """So that it reads back as the same number."""
    return f"{points:g}" if float(f"{points:g}") == points else repr(points)


def _named(rung: Rung, seed: int) -> str:
    return f"`{rung.name}` seed {seed}"


def _counted(ladder: Ladder, names: Sequence[str]) -> str:
    """The runs by name, or that it was all of them."""
    everything = sum(len(rung.runs) for rung in ladder.all)
    return f"all {everything} runs" if 1 < everything == len(names) else ", ".join(names)


def _examined(ladder: Ladder) -> str:
    """What the doctor warned of before these runs, with what it found first."""
    warned: dict[tuple[str, str], dict[str, str]] = {}
    for rung in ladder.all:
        for run in rung.runs:
            for examination in doctor.read(run.folder):
                for line in examination["lines"]:
                    if line["state"] in ("warn", "fail"):
                        runs = warned.setdefault((line["check"], line["advice"]), {})
                        runs.setdefault(_named(rung, run.record["seed"]), line["found"])
    return "".join(
        f"- **doctor: {check}** ({_counted(ladder, list(runs))}): {next(iter(runs.values()))}"
        f"{' (the first of them)' if len(runs) > 1 else ''} → {advice}\n"
        for (check, advice), runs in sorted(warned.items())
    )


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
    found = _examined(ladder)
    text += found or ("" if warned else "None.\n")
    text += "\n## Not averaged\n\n"
    text += "".join(f"- `{name}`: {why}\n" for name, why in ladder.left_out)
    return text + ("" if ladder.left_out else "Nothing: every record below the folder counts.\n")
