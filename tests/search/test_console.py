"""The output of a search: in a log line by line, and on a simulated terminal."""

import io
import re
from dataclasses import replace

import pytest

from plca_dist.search.console import SearchConsole
from plca_dist.search.trials import State, Trial
from tests.clock import Clock


class Terminal(io.StringIO):
    """A terminal that knows the three sequences used: up to a line's start, clear to its end, clear below."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        lines, at = [""], 0
        for piece in re.split(r"(\x1b\[\d*[A-Z]|\n)", self.getvalue()):
            if piece == "\n":
                at += 1
                lines += [""] * (at + 1 - len(lines))
            elif piece == "\x1b[K":
                pass  # what is written below replaces the whole line
            elif piece == "\x1b[J":
                del lines[at:]
                lines.append("")
            elif piece.startswith("\x1b["):
                assert piece[-1] == "F"
                at -= int(piece[2:-1])
                assert at >= 0
            elif piece:
                lines[at] = piece
        return lines


def trial(k: int, state: State = "running", step: int = 0, *densities: float, note: str = "") -> Trial:
    curve = [{"step": 5 * (n + 1), "criteria/neighbourhood_density": d} for n, d in enumerate(densities)]
    seconds = None if state in ("running", "waiting") else 65.0
    return Trial(f"t{k}", {"objective.lovasz": 0.25 * k}, state, step, 20, curve, note, seconds)


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm")
    return monkeypatch


def test_a_log_gets_a_line_for_each_change() -> None:
    log = io.StringIO()
    with SearchConsole("neighbourhood_density", 12, log) as console:
        console.show([trial(0, "waiting"), trial(1, "waiting"), trial(2, "waiting"), trial(3, "waiting")])
        console.show([trial(0), trial(1), trial(2, "waiting"), trial(3, "waiting")])
        console.show([trial(0), trial(1), trial(2, "waiting"), trial(3, "waiting")])
        console.show([trial(0, "running", 7, 4.0), trial(1, "waiting", 5), trial(2, "waiting"), trial(3, "waiting")])
        console.say("a message")
        console.show([trial(0, "finished", 20, 4.0, 5.0, 4.5), trial(1), trial(2), trial(3, "failed", 3, note="dead")])
        console.show(
            [
                trial(0, "finished", 20, 4.0, 5.0, 4.5),
                trial(1, "finished", 20, 4.25),
                trial(2, "stopped", 10, 4.75),
                trial(3, "failed", 3, note="dead"),
            ]
        )
    assert log.getvalue().splitlines() == [
        "t0 started: lovasz 0",
        "t1 started: lovasz 0.25",
        "t0 step 5/20: density 4.000",
        "t1 waits again at step 5/20",
        "a message",
        "t0 step 10/20: density 5.000",
        "t0 step 15/20: density 4.500",
        "t0 finished after 1:05: density 4.500, the best so far",
        "t1 started: lovasz 0.25",
        "t2 started: lovasz 0.5",
        "t3 started: lovasz 0.75",
        "t3 failed at step 3/20 after 1:05: dead",
        "t1 step 5/20: density 4.250",
        "t1 finished after 1:05: density 4.250",
        "t2 step 5/20: density 4.750",
        "t2 stopped by the scheduler at step 10/20 after 1:05",
    ]


def test_a_search_that_goes_on_says_how_its_trials_stand_and_not_how_they_came_there() -> None:
    log = io.StringIO()
    console = SearchConsole("neighbourhood_density", 12, log)
    console.show([trial(0, "finished", 20, 4.0, 5.0), trial(1, "running", 10, 4.5), trial(2, "waiting")])
    console.show([trial(0, "finished", 20, 4.0, 5.0), trial(1, "running", 12, 4.5, 4.6), trial(2, "waiting")])
    assert log.getvalue().splitlines() == [
        "t0 finished after 1:05: density 5.000, the best so far",
        "t1 continues: lovasz 0.25",
        "t1 step 10/20: density 4.600",
    ]


def test_every_criterion_of_an_evaluation_is_in_its_line() -> None:
    log = io.StringIO()
    console = SearchConsole("entropy", 12, log)
    point = {"step": 5, "miou": 41.26, "criteria/entropy": 0.5, "criteria/consistent_feature": 0.25}
    console.show([trial(0, "waiting")])
    console.show([replace(trial(0), curve=[{"step": 1, "criteria/consistent_prediction": 0.75}, point])])
    assert log.getvalue().splitlines()[1:] == [
        "t0 step 1/20: cycles pred 0.750",
        "t0 step 5/20: mIoU 41.3, entropy 0.500, cycles feat 0.250",
    ]


@pytest.mark.usefixtures("window")
def test_a_terminal_shows_the_best_first_and_in_place(clock: Clock) -> None:
    terminal = Terminal()
    with SearchConsole("neighbourhood_density", 4, terminal, clock=clock) as console:
        console.show([trial(k, "waiting") for k in range(4)])
        assert terminal.screen() == [
            "──────────── 0/4 trials  4 waiting  0:00",
            "trial  state  density ↑  lovasz",
            "",
        ]
        clock.now += 61
        trials = [
            trial(0, "finished", 20, 4.0),
            trial(1, "running", 10, 4.5),
            trial(2, "stopped", 5, 3.0),
            trial(3, "finished", 20, 5.0),
        ]
        console.show(trials)
        console.say("a message")
        console.show(trials)
        below = [
            "━━━━━━━━━─── 3/4 trials  2 finished · 1 stopped · 1 running  best t3 density 5.000  1:01",
            "trial  state             density ↑  lovasz",
            "t3     finished              5.000    0.75",
            "t0     finished              4.000       0",
            "t2     stopped 25%           3.000     0.5",
            "t1     ━━━━━━────── 50%      4.500    0.25",
            "",
        ]
        assert terminal.screen() == ["a message", *below]
    assert terminal.screen() == ["a message", below[0], ""]


@pytest.mark.usefixtures("window")
def test_why_a_trial_failed_stands_above_the_table_once() -> None:
    terminal = Terminal()
    console = SearchConsole("neighbourhood_density", 12, terminal)
    for _ in range(3):
        console.show([trial(0, "failed", 3, note="loss is NaN at step 3"), trial(1)])
    screen = terminal.screen()
    assert screen[0] == "t0 failed at step 3/20 after 1:05: loss is NaN at step 3"
    assert len(screen) == 6
    assert screen[4].startswith("t0     failed 15%")


@pytest.mark.usefixtures("window")
def test_an_error_leaves_the_table_standing() -> None:
    terminal = Terminal()
    console = SearchConsole("entropy", 12, terminal)
    console.show([trial(0), trial(1)])
    error = KeyboardInterrupt()
    console.__exit__(KeyboardInterrupt, error, None)
    assert [line[:2] for line in terminal.screen()[2:]] == ["t0", "t1", ""]


@pytest.mark.parametrize("height", [1, 2, 4, 6, 8, 30])
def test_the_table_fits_the_window_and_keeps_what_runs(height: int, window: pytest.MonkeyPatch) -> None:
    window.setenv("LINES", str(height))
    terminal = Terminal()
    console = SearchConsole("neighbourhood_density", 12, terminal)
    trials = [trial(k, "finished", 20, float(k)) for k in range(10)] + [trial(10), trial(11), trial(12, "waiting")]
    console.show(trials)
    screen = terminal.screen()
    assert len(screen) <= max(height, 2)  # one line above the cursor's is the least
    shown = [line.split()[0] for line in screen[2:-1]]
    expected = {
        1: [], 2: [], 4: ["…"], 6: ["t10", "t11", "…"], 8: ["t9", "t8", "t10", "t11", "…"],
        30: [*(f"t{k}" for k in range(9, -1, -1)), "t10", "t11"],
    }  # fmt: skip
    assert shown == expected[height]
    if height == 8:
        assert screen[-2] == "… 8 more"


@pytest.mark.parametrize(("columns", "widest"), [(2, 1), (20, 19), (34, 26), (100, 64)])
def test_no_line_is_wider_than_the_window(columns: int, widest: int, window: pytest.MonkeyPatch) -> None:
    window.setenv("COLUMNS", str(columns))
    terminal = Terminal()
    SearchConsole("neighbourhood_density", 3, terminal).show([trial(k, "finished", 20, float(k)) for k in range(3)])
    assert max(map(len, terminal.screen())) == widest
    if columns == 34:  # whole columns only: half a number would be another number
        assert terminal.screen()[:3] == [
            "━━━━━━━━━━━━ 3/3 trials",
            "trial  state     density ↑",
            "t2     finished      2.000",
        ]


def test_a_window_made_narrower_is_cleared_of_what_it_wrapped(window: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    console = SearchConsole("neighbourhood_density", 12, terminal)
    console.show([trial(0, "finished", 20, 1.0)])
    lengths = list(map(len, terminal.screen()[:3]))
    window.setenv("COLUMNS", "30")
    console.show([trial(0, "finished", 20, 1.0)])
    assert f"\x1b[{sum(-(-n // 30) for n in lengths)}F" in terminal.getvalue()


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(window: pytest.MonkeyPatch) -> None:
    window.setenv("TERM", "dumb")
    terminal = Terminal()
    with SearchConsole("entropy", 12, terminal) as console:
        console.show([trial(0)])
        console.show([trial(0, "stopped", 10)])
    assert "\x1b" not in terminal.getvalue()
    assert terminal.getvalue().splitlines()[-1] == "t0 stopped by the scheduler at step 10/20 after 1:05"
