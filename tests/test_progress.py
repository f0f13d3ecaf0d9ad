"""What is shown while a matrix runs, and the time that is said to be left."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from bench import progress
from bench.progress import Board, Lines, Live, Progress


class Time:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def board(time: Time) -> Board:
    return Board(["00-base", "01-longer"], [0, 1], now=time)


def finished(miou: float = 41.23, wall_s: float = 20.0, **more: Any) -> dict[str, Any]:
    return {"final_miou": miou, "wall_s": wall_s, "images_per_s": 1180.4, "train_s": 16.34, **more}


def terminal(width: int = 80, height: int = 40) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)


def pipe() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def drawing(board: Board, width: int = 80, height: int = 40) -> str:
    console = terminal(width, height)
    console.print(progress.picture(board, height))
    return text(console)


# ------------------------------------------------------------------------------------------------ time left


def test_nothing_is_foretold_before_anything_is_known(board: Board) -> None:
    assert board.left_s() is None
    board.start(("00-base", 0))
    assert board.left_s() is None


def test_waiting_runs_take_as_long_as_the_current_one_will(board: Board, time: Time) -> None:
    board.start(("00-base", 0))
    time.seconds += 4
    board.running[("00-base", 0)] = Progress("train", 4, 10, eta_s=6.0)
    assert board.left_s() == 6 + 3 * 10


def test_waiting_runs_take_as_long_as_their_recipe_did_else_as_the_average(board: Board) -> None:
    board.end(("00-base", 0), "finished", finished(wall_s=20))
    assert board.left_s() == 20 + 20 + 20
    board.end(("01-longer", 0), "finished", finished(wall_s=50))
    assert board.left_s() == 20 + 50
    board.start(("01-longer", 1))
    assert board.left_s() == 50 + 20
    board.running[("01-longer", 1)] = Progress("train", 1, 10, eta_s=33.0)
    assert board.left_s() == 33 + 20


def test_side_by_side_runs_share_the_time_that_is_left(board: Board, time: Time) -> None:
    board.start(("00-base", 0))
    board.start(("01-longer", 0))
    board.running[("00-base", 0)] = Progress("train", 4, 10, eta_s=6.0)
    board.running[("01-longer", 0)] = Progress("train", 1, 10, eta_s=30.0)
    assert board.left_s() == ((6 + 30) + 2 * (6 + 30) / 2) / 2
    board.end(("00-base", 1), "finished", finished(wall_s=1))
    board.end(("01-longer", 1), "finished", finished(wall_s=1))
    assert board.left_s() == 30


def test_runs_that_failed_do_not_foretell(board: Board) -> None:
    board.end(("00-base", 0), "failed", finished(wall_s=1))
    assert board.left_s() is None


def test_nothing_is_left_of_a_matrix_that_ended(board: Board) -> None:
    for key in board.cells:
        board.end(key, "finished", finished())
    assert board.left_s() == 0


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0:00"), (7, "0:07"), (59.6, "1:00"), (750, "12:30"), (11100, "3:05:00"), (-3, "0:00")],
)
def test_durations_read_like_a_clock(seconds: float, shown: str) -> None:
    assert progress.duration(seconds) == shown


@pytest.mark.parametrize(("value", "shown"), [(1180.4, "1180"), (10.2, "10"), (9.96, "10.0"), (0.84, "0.8")])
def test_speed_has_a_decimal_where_there_are_few_images(value: float, shown: str) -> None:
    assert progress.speed(value) == shown


# ---------------------------------------------------------------------------------------------------- lines


def told(board: Board, act: Callable[[Lines], None]) -> list[str]:
    console = pipe()
    with Lines(board, console) as lines:
        act(lines)
    return [line.rstrip() for line in text(console).splitlines()]


def test_lines_tell_start_evaluations_and_end(board: Board) -> None:
    def act(lines: Lines) -> None:
        lines.start(("00-base", 0), resumed=False)
        lines.tell(("00-base", 0), Progress("setup", 0, 200))
        lines.tell(("00-base", 0), Progress("train", 99, 200, 576.2, None, 16.0))
        lines.tell(("00-base", 0), Progress("train", 100, 200, 576.2, 24.06, 14.0))
        lines.tell(("00-base", 0), Progress("train", 150, 200, 576.2, 24.06, 7.0))
        lines.tell(("00-base", 0), Progress("train", 200, 200, 576.2, 41.23, 0.0))
        lines.tick()
        lines.end(("00-base", 0), "finished", finished(), None)

    assert told(board, act) == [
        "[1/4] 00-base   seed 0  starts",
        "[1/4] 00-base   seed 0  step 100/200  mIoU 24.1  576 img/s  0:14 left",
        "[1/4] 00-base   seed 0  step 200/200  mIoU 41.2  576 img/s  0:00 left",
        "[1/4] 00-base   seed 0  finished  mIoU 41.2  1180 img/s  train 16.3 s",
    ]


def test_an_evaluation_with_the_same_miou_is_told_where_its_phase_was(board: Board) -> None:
    def act(lines: Lines) -> None:
        lines.start(("00-base", 0), resumed=False)
        lines.tell(("00-base", 0), Progress("train", 10, 20, None, 2.85))
        lines.tell(("00-base", 0), Progress("eval", 20, 20, None, 2.85))
        lines.tell(("00-base", 0), Progress("train", 20, 20, None, 2.85))

    assert told(board, act)[1:] == [
        "[1/4] 00-base   seed 0  step 10/20  mIoU 2.9",
        "[1/4] 00-base   seed 0  step 20/20  mIoU 2.9",
    ]


@pytest.mark.parametrize(
    ("status", "error", "line"),
    [
        ("failed", "killed by SIGKILL", "failed  killed by SIGKILL"),
        ("diverged", "the loss is nan", "diverged  the loss is nan"),
        ("interrupted", "asked to stop", "interrupted  asked to stop"),
        ("taken", None, "is trained by another segbench"),
    ],
)
def test_lines_tell_every_other_end(board: Board, status: str, error: str | None, line: str) -> None:
    def act(lines: Lines) -> None:
        lines.start(("00-base", 0), resumed=True)
        lines.end(("00-base", 0), status, {"final_miou": 9.0, "images_per_s": None}, error)

    assert told(board, act) == ["[1/4] 00-base   seed 0  resumes", f"[1/4] 00-base   seed 0  {line}"]


def test_lines_count_what_was_there_and_go_on_from_it(board: Board) -> None:
    def act(lines: Lines) -> None:
        lines.skip(("00-base", 0), "finished", finished())
        lines.skip(("01-longer", 0), "diverged", finished())
        lines.start(("01-longer", 1), resumed=False)

    assert told(board, act) == [
        "2 of 4 runs are done already",
        "[3/4] 01-longer seed 1  starts  all: 0:40 left",
    ]


def test_drawing_scenes_and_stopping_are_one_line_each(board: Board) -> None:
    def act(lines: Lines) -> None:
        lines.prepare("drawing 960 scenes, once", 1, 960)
        lines.prepare("drawing 960 scenes, once", 2, 960)
        lines.stopping()

    assert told(board, act) == [
        "drawing 960 scenes, once",
        "stopping: what trains saves its checkpoint; Ctrl-C again kills it",
    ]


def test_lines_are_not_wrapped_and_brackets_are_no_markup(board: Board) -> None:
    def act(lines: Lines) -> None:
        lines.start(("00-base", 0), resumed=False)
        lines.end(("00-base", 0), "failed", None, "[bold] " + "x" * 200)

    assert told(board, act)[-1].endswith("failed  [bold] " + "x" * 200)


# ----------------------------------------------------------------------------------------------------- live


def test_the_board_shows_every_run(board: Board, time: Time) -> None:
    board.end(("00-base", 0), "finished", finished())
    board.end(("01-longer", 0), "failed", None)
    board.start(("00-base", 1))
    board.running[("00-base", 1)] = Progress("train", 50, 200, 576.2, 24.06, 14.0)
    time.seconds += 65
    bare = drawing(board).replace("━", " ").replace("╸", " ")
    assert [" ".join(line.split()) if " left" in line else line.rstrip() for line in bare.splitlines()] == [
        "mIoU        seed 0   seed 1",
        "───────────────────────────",
        "00-base       41.2     25 %",
        "01-longer   failed        ·",
        "",
        "00-base seed 1: train",
        "run 50/200 576 img/s mIoU 24.1 0:14 left",
        "all 2/4 runs 1:05 gone 0:34 left",
    ]


@pytest.mark.parametrize(
    ("status", "mark"), [("diverged", "diverged"), ("interrupted", "paused"), ("taken", "elsewhere")]
)
def test_the_board_has_a_mark_for_every_end(board: Board, status: str, mark: str) -> None:
    board.end(("00-base", 0), status, {"final_miou": 9.0})
    assert mark in drawing(board)
    assert "9.0" not in drawing(board)


def test_every_status_of_a_record_has_a_mark() -> None:
    from bench import record

    assert set(record.STATUSES) | {"waiting", "taken"} == set(progress.MARKS)


def test_the_board_leaves_the_grid_out_where_it_does_not_fit(board: Board) -> None:
    assert "01-longer" in drawing(board, height=12)
    assert "01-longer" not in drawing(board, height=8)


@pytest.mark.parametrize("steps", [7, 160000])
def test_the_board_fits_eighty_columns(steps: int) -> None:
    board = Board([f"{number:02}-decoupled-weight-decay" for number in range(9)], range(3))
    key = ("02-decoupled-weight-decay", 1)
    board.start(key)
    board.running[key] = Progress("checkpoint", steps, steps, 11800.0, 100.0, 36000.0)
    assert "…" not in drawing(board)


def test_the_board_shows_every_run_that_trains(board: Board) -> None:
    for key, step in ((("00-base", 0), 50), (("01-longer", 0), 100)):
        board.start(key)
        board.running[key] = Progress("train", step, 200)
    shown = drawing(board)
    assert "00-base seed 0: train" in shown
    assert "01-longer seed 0: train" in shown
    assert "50/200" in shown
    assert "100/200" in shown
    assert [board.number(key) for key in board.running] == ["[1/4]", "[2/4]"]


def test_the_board_says_that_it_is_stopping(board: Board) -> None:
    board.start(("00-base", 0))
    board.stopping = True
    assert "stopping" in drawing(board)


def test_the_board_is_redrawn_at_most_once_a_second(board: Board, time: Time) -> None:
    console = terminal()
    with Live(board, console) as live:
        live.start(("00-base", 0), resumed=False)
        for step in range(50):
            live.tell(("00-base", 0), Progress("train", step, 50))
            live.tick()
        assert "49/50" not in text(console)
        time.seconds += progress.REDRAW_S
        live.tick()
        assert "49/50" in text(console)


def test_a_live_display_starts_no_thread(board: Board) -> None:
    import threading

    before = threading.active_count()
    with Live(board, terminal()):
        assert threading.active_count() == before


def test_the_live_display_ends_with_the_last_state(board: Board) -> None:
    console = terminal()
    with Live(board, console) as live:
        live.prepare("drawing 960 scenes, once", 3, 960)
        for key in board.cells:
            live.start(key, resumed=False)
            live.end(key, "finished", finished(miou=33.3), None)
    assert [line for line in text(console).splitlines() if "runs" in line][-1].count("4/4 runs") == 1


def test_what_comes_before_training_is_drawn_at_once(board: Board) -> None:
    """Though the board was drawn a moment before: nothing may follow for as long as a file is fetched."""
    console = terminal()
    with Live(board, console) as live:
        live.prepare("loading weights v1", 0, 1)
        assert "loading weights v1" in text(console)


@pytest.mark.parametrize(
    ("console", "kind"),
    [
        (terminal(), Live),
        (pipe(), Lines),
        (Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"}), Lines),
    ],
)
def test_only_a_terminal_that_can_draw_gets_the_board(console: Console, kind: type) -> None:
    assert isinstance(progress.display(console, ["00-base"], [0]), kind)


# -------------------------------------------------------------------------------------------------- summary


def test_the_summary_has_mean_spread_and_count() -> None:
    console = pipe()
    rows = [
        ("00-base", [finished(40.0), finished(41.0), finished(42.0)]),
        ("01-longer", [finished(39.5)]),
        ("03-half", [{"final_miou": None, "images_per_s": None, "train_s": None}]),
    ]
    console.print(progress.summary(rows))
    body = [line.split() for line in text(console).splitlines()[2:]]
    assert body == [
        ["00-base", "41.00", "±", "1.00", "3", "1180", "16.3"],
        ["01-longer", "39.50", "1", "1180", "16.3"],
        ["03-half", "-", "1", "-", "-"],
    ]


# ------------------------------------------------------------------------------------------------ stages


def test_without_a_terminal_each_stage_is_a_line() -> None:
    console = pipe()
    with progress.Stages(console) as stages:
        tell = stages.begin("unpacking [a]", "files")
        for done in range(101):
            tell(done, 100)
        stages.begin("verifying", "pairs")
    assert text(console) == "unpacking [a]\nverifying\n"


def lines(console: Console, what: str) -> list[str]:
    """The drawings of the line that begins with `what`, without the bar."""
    return [
        " ".join(re.sub("[━╸╺]", "", line).split())
        for line in text(console).splitlines()
        if re.sub(r"\x1b\[\S*?[A-Za-z]", "", line).strip().startswith(what)
    ]


def stage_line(time: Time, unit: str, *news: tuple[int, int]) -> str:
    """The last drawing of a stage that is told something every two seconds."""
    console = terminal()
    with progress.Stages(console, now=time) as stages:
        tell = stages.begin("working", unit)
        for done, total in news:
            tell(done, total)
            time.seconds += 2
    return lines(console, "working")[-1]


def test_a_stage_shows_how_much_how_fast_and_how_long_still(time: Time) -> None:
    line = stage_line(time, "files", (0, 100), (20, 100))
    assert line.endswith("working 20/100 files 10 files/s 0:08 left")


def test_bytes_are_shown_in_megabytes(time: Time) -> None:
    line = stage_line(time, "bytes", (0, 967_000_000), (400_000_000, 967_000_000))
    assert line.endswith("working 400/967 MB 200 MB/s 0:03 left")


def test_what_was_done_before_does_not_count_as_fast(time: Time) -> None:
    assert "10 files/s" in stage_line(time, "files", (60, 100), (80, 100))


def test_a_stage_of_unknown_length_shows_no_time_left(time: Time) -> None:
    assert stage_line(time, "bytes", (0, 0), (4_000_000, 0)).endswith("working 2.0 MB/s")


def test_a_stage_that_is_done_stays_as_it_was(time: Time) -> None:
    console = terminal()
    with progress.Stages(console, now=time) as stages:
        tell = stages.begin("first", "files")
        tell(0, 20)
        time.seconds += 2
        tell(20, 20)
        tell = stages.begin("second", "files")
        time.seconds += 100
        tell(1, 2)
    assert lines(console, "first")[-1].endswith("first 20/20 files 10 files/s")
    assert lines(console, "second")[-1].endswith("second 1/2 files")
