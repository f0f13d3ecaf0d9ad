"""What a person sees while work goes on: a live picture on a terminal, plain lines anywhere else.

A matrix of runs has a board, `prepare` a bar a stage.

`Board` knows the state of every run and how long the rest will take; `Live` and `Lines` draw it. Whoever
runs the matrix calls `start`, `tell`, `end`, `tick` and `stopping`, and knows nothing of how it looks.
Nothing here starts a thread: the board is redrawn in `tick`, at most once a second, because a display
that costs processor time would slow down what is being measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from rich import box
from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

REDRAW_S = 1.0  # a drawing costs 5 ms
STOPPING = "stopping: what trains saves its checkpoint; Ctrl-C again kills it"
BAR = 18  # columns
Key = tuple[str, int]  # recipe name, seed


@dataclass(frozen=True)
class Progress:
    """What the process of a run tells: `phase` is the clock's, `miou` the last one in points, `eta_s` the
    seconds left in this run. None: not known yet."""

    phase: str
    step: int
    steps: int
    images_per_s: float | None = None
    miou: float | None = None
    eta_s: float | None = None


@dataclass
class Cell:
    """One run on the board: `status` is the record's, or "waiting", or "taken" by another segbench."""

    status: str = "waiting"
    miou: float | None = None
    seconds: float | None = None


@dataclass
class Board:
    """The state of every run of a matrix; `running`: those that train now, and what each told last."""

    recipes: Sequence[str]
    seeds: Sequence[int]
    now: Callable[[], float] = time.monotonic
    cells: dict[Key, Cell] = field(init=False)
    running: dict[Key, Progress | None] = field(default_factory=dict)
    preparing: tuple[str, int, int] | None = None  # what is done before anything is trained: done, in all
    stopping: bool = False

    def __post_init__(self) -> None:
        self.cells = {(recipe, seed): Cell() for seed in self.seeds for recipe in self.recipes}
        self.opened = self.now()
        self._started: dict[Key, tuple[int, float]] = {}  # place in the matrix, when

    def start(self, key: Key) -> None:
        self.preparing = None
        self.running[key] = None
        self._started[key] = self.ended() + len(self.running), self.now()
        self.cells[key].status = "running"

    def end(self, key: Key, status: str, record: Mapping[str, Any] | None) -> None:
        known = record or {}
        self.cells[key] = Cell(status, known.get("final_miou"), known.get("wall_s"))
        self.running.pop(key, None)

    def number(self, key: Key) -> str:
        """The run's place in the matrix, as `[ 3/27]`: those that ended or began before it, and itself."""
        total = len(self.cells)
        place = self._started[key][0] if key in self._started else self.ended()
        return f"[{place:{len(str(total))}}/{total}]"

    def ended(self) -> int:
        """How many runs there is nothing more to do about, for this matrix."""
        return sum(cell.status not in ("waiting", "running", "interrupted") for cell in self.cells.values())

    def share(self, key: Key) -> float:
        """How much of a run that trains is done, 0 to 1."""
        news = self.running.get(key)
        return news.step / news.steps if news is not None and news.steps else 0.0

    def left_s(self) -> float | None:
        """Seconds until the last run ends; None: nothing to judge by yet.

        A waiting run takes as long as its recipe did with other seeds, else as the average run so far, else
        as those that train now will. As many runs train side by side as do now.
        """
        waiting = [recipe for (recipe, _), cell in self.cells.items() if cell.status == "waiting"]
        taken: dict[str, list[float]] = {}
        for (recipe, _), cell in self.cells.items():
            if cell.status == "finished" and cell.seconds:
                taken.setdefault(recipe, []).append(cell.seconds)
        known = {key: news.eta_s for key, news in self.running.items() if news and news.eta_s is not None}
        if taken:
            usual = statistics.fmean(seconds for times in taken.values() for seconds in times)
        elif known:
            usual = statistics.fmean(self.now() - self._started[key][1] + eta for key, eta in known.items())
        else:
            return None
        left = [known.get(key, statistics.fmean(taken.get(key[0], [usual]))) for key in self.running]
        rest = sum(statistics.fmean(taken.get(name, [usual])) for name in waiting)
        return max([(sum(left) + rest) / max(1, len(left)), *left])


class Display(Protocol):
    """How the runner talks to whoever is watching."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def prepare(self, what: str, done: int, total: int) -> None:
        """How far something is that comes before all training: "drawing 960 scenes, once"."""

    def start(self, key: Key, resumed: bool) -> None:
        """The run begins to train, or goes on from its checkpoint."""

    def tell(self, key: Key, progress: Progress) -> None:
        """News of a run that was started."""

    def end(self, key: Key, status: str, record: Mapping[str, Any] | None, error: str | None) -> None:
        """The run ended, now or before this matrix was started."""

    def skip(self, key: Key, status: str, record: Mapping[str, Any] | None) -> None:
        """The run needs no training: its record was there before."""

    def tick(self) -> None:
        """Time has passed."""

    def stopping(self) -> None:
        """Somebody asked to stop; what trains is saving its checkpoint."""


def display(console: Console, recipes: Sequence[str], seeds: Sequence[int]) -> Display:
    """A live board where `console` is a terminal that can draw one, else plain lines."""
    board = Board(recipes, seeds)
    fancy = console.is_terminal and not console.is_dumb_terminal
    return Live(board, console) if fancy else Lines(board, console)


class Lines:
    """One line at the start of each run, one an evaluation, one at its end."""

    def __init__(self, board: Board, console: Console) -> None:
        self.board = board
        self._console = console
        self._skipped = 0
        self._name_width = max((len(name) for name in board.recipes), default=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def prepare(self, what: str, done: int, total: int) -> None:
        if self.board.preparing is None or self.board.preparing[0] != what:
            self._print(what)
        self.board.preparing = what, done, total

    def start(self, key: Key, resumed: bool) -> None:
        if self._skipped:
            self._print(f"{self._skipped} of {len(self.board.cells)} runs are done already")
            self._skipped = 0
        self.board.start(key)
        left = self.board.left_s()
        self._say(key, "resumes" if resumed else "starts", left is not None and f"all: {duration(left)} left")

    def tell(self, key: Key, progress: Progress) -> None:
        before, self.board.running[key] = self.board.running[key], progress
        if _evaluated(before, progress):
            self._say(
                key,
                f"step {progress.step}/{progress.steps}",
                f"mIoU {progress.miou:.1f}",
                progress.images_per_s is not None and f"{speed(progress.images_per_s)} img/s",
                progress.eta_s is not None and f"{duration(progress.eta_s)} left",
            )

    def end(self, key: Key, status: str, record: Mapping[str, Any] | None, error: str | None) -> None:
        self.board.end(key, status, record)
        known = (record or {}) if status == "finished" else {}
        self._say(
            key,
            "is trained by another segbench" if status == "taken" else status,
            known.get("final_miou") is not None and f"mIoU {known['final_miou']:.1f}",
            known.get("images_per_s") is not None and f"{speed(known['images_per_s'])} img/s",
            known.get("train_s") is not None and f"train {known['train_s']:.1f} s",
            error,
        )

    def skip(self, key: Key, status: str, record: Mapping[str, Any] | None) -> None:
        self.board.end(key, status, record)
        self._skipped += 1

    def tick(self) -> None:
        pass

    def stopping(self) -> None:
        self._print(STOPPING)

    def _say(self, key: Key, *parts: str | bool | None) -> None:
        recipe, seed = key
        head = f"{self.board.number(key)} {recipe:<{self._name_width}} seed {seed}"
        self._print("  ".join([head, *(part for part in parts if isinstance(part, str))]))

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _evaluated(before: Progress | None, now: Progress) -> bool:
    """Whether an evaluation ended between two messages. Its mIoU may equal the one before it."""
    if now.miou is None or now.phase == "eval":
        return False
    return before is None or before.phase == "eval" or before.miou != now.miou


class Live:
    """The board: a grid of recipes and seeds, the runs that train, and the time left."""

    def __init__(self, board: Board, console: Console) -> None:
        self.board = board
        self._console = console
        self._live = RichLive(
            console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._drawn = float("-inf")

    def __enter__(self) -> Self:
        self._live.start()
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        self.board.stopping = False
        self._draw()
        self._live.stop()

    def prepare(self, what: str, done: int, total: int) -> None:
        before, self.board.preparing = self.board.preparing, (what, done, total)
        if before is None or before[0] != what:
            self._draw()
        self.tick()

    def start(self, key: Key, resumed: bool) -> None:
        self.board.start(key)
        self._draw()

    def tell(self, key: Key, progress: Progress) -> None:
        self.board.running[key] = progress

    def end(self, key: Key, status: str, record: Mapping[str, Any] | None, error: str | None) -> None:
        self.board.end(key, status, record)
        self._draw()

    def skip(self, key: Key, status: str, record: Mapping[str, Any] | None) -> None:
        self.board.end(key, status, record)

    def tick(self) -> None:
        if self.board.now() - self._drawn >= REDRAW_S:
            self._draw()

    def stopping(self) -> None:
        self.board.stopping = True
        self._draw()

    def _draw(self) -> None:
        self._drawn = self.board.now()
        self._live.update(picture(self.board, self._console.size.height), refresh=True)


MARKS: Mapping[str, tuple[str, str]] = {  # status -> what the cell says where there is no mIoU, style
    "waiting": ("·", "dim"),
    "running": ("0 %", "bold cyan"),
    "finished": ("done", "green"),
    "diverged": ("diverged", "yellow"),
    "failed": ("failed", "bold red"),
    "interrupted": ("paused", "yellow"),
    "taken": ("elsewhere", "magenta"),
}


def picture(board: Board, height: int) -> Group:
    """The board as it is now; without the grid where it would not fit into `height` lines."""
    parts: list[Any] = [_news(board)] if board.stopping or board.preparing else []
    for key in board.running:
        parts += [_headline(board, key), _bars(*_run_bar(board, key))]
    parts.append(_bars(*_matrix_bar(board)))
    if len(board.recipes) + len(parts) + 6 <= height:
        parts[:0] = [_grid(board), Text()]
    return Group(*parts)


def _grid(board: Board) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False, header_style="dim")
    grid.add_column("mIoU", no_wrap=True)
    for seed in board.seeds:
        grid.add_column(f"seed {seed}", justify="right", no_wrap=True, min_width=6)
    for recipe in board.recipes:
        running = any(name == recipe for name, _ in board.running)
        grid.add_row(
            Text(recipe, style="bold" if running else ""),
            *(_mark(board, (recipe, seed)) for seed in board.seeds),
        )
    return grid


def _mark(board: Board, key: Key) -> Text:
    cell = board.cells[key]
    words, style = MARKS[cell.status]
    if cell.status == "finished" and cell.miou is not None:
        words = f"{cell.miou:.1f}"
    elif cell.status == "running":
        words = f"{100 * board.share(key):.0f} %"
    return Text(words, style=style)


def _news(board: Board) -> Text:
    if board.stopping:
        return Text(STOPPING, style="yellow")
    what, done, total = board.preparing or ("", 0, 0)
    return Text(f"{what}: {100 * done // max(1, total)} %")


def _headline(board: Board, key: Key) -> Text:
    recipe, seed = key
    news = board.running[key]
    return Text.assemble((f"{recipe} seed {seed}", "bold"), f": {news.phase if news else 'setup'}")


def _bars(*cells: Any) -> Table:
    return _aligned((3, BAR, 10, 11, 9, 12), cells)


def _aligned(widths: Iterable[int], *rows: Iterable[Any]) -> Table:
    """Lines of fixed columns, so that nothing jumps."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for width in widths:
        table.add_column(no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*row)
    return table


def _run_bar(board: Board, key: Key) -> tuple[Any, ...]:
    news = board.running[key] or Progress("setup", 0, 0)
    return (
        "run",
        ProgressBar(total=news.steps or 1, completed=news.step, width=BAR),
        f"{news.step}/{news.steps}" if news.steps else "",
        f"{speed(news.images_per_s)} img/s" if news.images_per_s is not None else "",
        f"mIoU {news.miou:.1f}" if news.miou is not None else "",
        f"{duration(news.eta_s)} left" if news.eta_s is not None else "",
    )


def _matrix_bar(board: Board) -> tuple[Any, ...]:
    total, done, left = len(board.cells), board.ended(), board.left_s()
    return (
        "all",
        ProgressBar(total=total, completed=done + sum(map(board.share, board.running)), width=BAR),
        f"{done}/{total} runs",
        f"{duration(board.now() - board.opened)} gone",
        "",
        f"{duration(left)} left" if left is not None and done < total else "",
    )


@dataclass
class Stage:
    """A part of some work, and its first and last news: (done, seconds). `unit` "bytes" is shown in MB."""

    what: str
    unit: str
    total: int = 0
    first: tuple[int, float] | None = None
    last: tuple[int, float] = (0, 0.0)


class Stages:
    """Work in stages, one after the other: a bar each where `console` is a terminal, else a line each."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self.stages: list[Stage] = []
        self._console = console
        self._now = now
        self._drawn = float("-inf")
        self._live: RichLive | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = RichLive(
                console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._draw()
            self._live.stop()

    def begin(self, what: str, unit: str) -> Callable[[int, int], None]:
        """Begin a stage. Tell what is returned how much is done, and of how much; 0 in all: not known."""
        self.stages.append(Stage(what, unit))
        if self._live:
            self._draw()
        else:
            self._console.print(what, markup=False, highlight=False, soft_wrap=True)
        return self._tell

    def _tell(self, done: int, total: int) -> None:
        stage, now = self.stages[-1], self._now()
        stage.total, stage.last = total, (done, now)
        stage.first = stage.first or stage.last
        if self._live and (now - self._drawn >= REDRAW_S or done == total):
            self._draw()

    def _draw(self) -> None:
        self._drawn = self._now()
        if self._live:
            bars = map(_stage_bar, self.stages)
            self._live.update(_aligned((4, BAR, 12, 11, 12), *bars), refresh=True)


def _stage_bar(stage: Stage) -> tuple[Any, ...]:
    share, unit = (1e-6, "MB") if stage.unit == "bytes" else (1, stage.unit)
    (done, now), (before, since) = stage.last, stage.first or stage.last
    pace = (done - before) / (now - since) if now > since else 0
    left = (stage.total - done) / pace if pace else 0
    return (
        stage.what,
        ProgressBar(total=stage.total or 1, completed=done, width=BAR),
        f"{done * share:.0f}/{stage.total * share:.0f} {unit}" if stage.total else "",
        f"{speed(pace * share)} {unit}/s" if pace else "",
        f"{duration(left)} left" if left > 0 else "",
    )


def summary(rows: Iterable[tuple[str, Sequence[Mapping[str, Any]]]]) -> Table:
    """What came out: a row a recipe from (recipe name, its finished records); means over the seeds, and
    the sample standard deviation of the final mIoU."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("recipe", no_wrap=True)
    for title in ("mIoU", "n", "img/s", "train s"):
        table.add_column(title, justify="right", no_wrap=True)
    for recipe, records in rows:
        miou = _known(records, "final_miou")
        speeds, seconds = _known(records, "images_per_s"), _known(records, "train_s")
        table.add_row(
            recipe,
            _mean_std(miou),
            str(len(records)),
            speed(statistics.fmean(speeds)) if speeds else "-",
            f"{statistics.fmean(seconds):.1f}" if seconds else "-",
        )
    return table


def _known(records: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    return [record[name] for record in records if record.get(name) is not None]


def _mean_std(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def duration(seconds: float) -> str:
    """`0:07`, `12:30`, `3:05:00`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def speed(images_per_s: float) -> str:
    """Images a second, with a decimal where there are few."""
    return f"{images_per_s:.0f}" if images_per_s >= 10 else f"{images_per_s:.1f}"
