"""The output on a terminal and in a log file, with a clock that the test moves."""

import io

import pytest

from plca_dist.messages import Message
from plca_dist.run.console import Console, evaluation_line
from plca_dist.terminal import Counter, Counters, Pace, duration
from tests.clock import Clock


class Terminal(io.StringIO):
    """A terminal that remembers; `lines` is what a person sees on it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        seen = []
        for line in self.getvalue().split("\n"):
            shown = ""
            for text in line.split("\r"):
                shown = text + shown[len(text) :]
            seen.append(shown.rstrip())
        return seen


def training(step: int, **more: float) -> dict:
    return {"step": step, "loss/total": 1.23456, "pairs_per_second": 12.34, "data_wait": 0.031, **more}


TERMS = {
    "loss/cross_entropy": 0.9, "loss/feature": 12.345, "loss/smoothing_source": 0.5,
    "consistent/feature": 0.62, "consistent/prediction": 0.71, "gpu_memory_gb": 11.26,
}  # fmt: skip


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_a_log_gets_plain_lines(clock: Clock) -> None:
    log = io.StringIO()
    with Console(100, log, "PLCA", clock=clock) as console:
        console.show(training(10, elapsed_s=5.0))
        clock.now += 5
        console.show(training(20, elapsed_s=9.0, **TERMS))
        console.show({"step": 20, "miou": 41.26, "miou_aggregated": 43.0})
        console.show(Message("checkpoint", "checkpoint step-00000020"))
        clock.now += 5
        console.show(training(30, elapsed_s=13.0))
    assert log.getvalue().splitlines() == [
        "PLCA 10/100  loss 1.235  12.3 pairs/s  data wait 3%",
        "PLCA 20/100  0:32 left  loss 1.235  12.3 pairs/s  data wait 3%  GPU 11.3 GB"
        "  ce 0.900  feat 12.3  lsr-s 0.500  cycles 62%/71%",
        "PLCA: step 20: mIoU 41.3 %, with aggregation 43.0 %",
        "PLCA: checkpoint step-00000020",
        "PLCA 30/100  0:28 left  loss 1.235  mIoU 41.3/43.0  12.3 pairs/s  data wait 3%",
    ]


def test_a_log_is_not_flooded_but_loses_no_message_and_not_the_end(clock: Clock) -> None:
    log = io.StringIO()
    console = Console(100, log, clock=clock)
    for step in range(1, 101):
        console.show(training(step))
        if step == 50:
            console.show(Message("checkpoint", "half"))
            console.show({"step": 50, "miou": 1.0})
        clock.now += 0.25
    starts = [line.split("  ")[0] for line in log.getvalue().splitlines()]
    assert starts == ["1/100", "21/100", "41/100", "half", "step 50: mIoU 1.0 %", "61/100", "81/100", "100/100"]


CRITERIA = {
    "criteria/neighbourhood_density": 3.21449, "criteria/entropy": 0.1234, "criteria/consistent_feature": 0.617,
    "criteria/consistent_prediction": 0.71,
}  # fmt: skip


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"miou": 41.26}, "mIoU 41.3 %"),
        ({"miou": 41.26, "teacher/miou": 43.01, "teacher/miou_aggregated": 44}, "mIoU 41.3 %; teacher 43.0 %"),
        ({**CRITERIA}, "without labels: density 3.214, entropy 0.123, cycles 62%/71%"),
        (
            {"miou": 0.0, "miou_aggregated": 0.0, **CRITERIA},
            "mIoU 0.0 %, with aggregation 0.0 %; without labels: density 3.214, entropy 0.123, cycles 62%/71%",
        ),
        ({"loss/total": 1.0, "consistent/feature": 0.5}, ""),
    ],
)
def test_an_evaluation_in_one_line(record: dict, line: str) -> None:
    assert evaluation_line({"step": 3, **record}) == line


def test_criteria_are_shown_where_there_is_no_miou(clock: Clock) -> None:
    log = io.StringIO()
    with Console(100, log, "PLCA", clock=clock) as console:
        console.show({"step": 20, **CRITERIA})
        console.show(training(30))
    assert log.getvalue().splitlines() == [
        "PLCA: step 20: without labels: density 3.214, entropy 0.123, cycles 62%/71%",
        "PLCA 30/100  loss 1.235  12.3 pairs/s  data wait 3%",
    ]


@pytest.mark.usefixtures("wide")
def test_a_terminal_line_rewrites_itself_under_the_messages(clock: Clock) -> None:
    terminal = Terminal()
    with Console(40, terminal, "PLCA", clock=clock) as console:
        console.show(training(10, elapsed_s=5.0, **TERMS))
        clock.now += 1
        console.show(training(20, elapsed_s=9.0))
        console.show(Message("warning", "a message"))
        console.show({"step": 20, "miou": 41.26})
        clock.now += 1
        console.show(training(40, elapsed_s=17.0))
    terminal.write("next")
    assert terminal.lines() == [
        "PLCA: a message",
        "PLCA: step 20: mIoU 41.3 %",
        "PLCA ━━━━━━━━━━━━ 40/40  0:00 left  loss 1.235  mIoU 41.3  12.3 pairs/s  data wait 3%",
        "next",
    ]
    assert "PLCA ━━━━━━────── 20/40  0:08 left  loss 1.235  mIoU 41.3  12.3" in terminal.getvalue()


@pytest.mark.parametrize("columns", [12, 40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(columns: int, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal()
    console = Console(1000, terminal, "source-only", clock=clock)
    for step in range(0, 1000, 100):
        console.show(training(step, elapsed_s=step / 2.0, **(TERMS if step % 200 else {})))
        clock.now += 1
    pieces = terminal.getvalue().split("\r")
    assert len(pieces) == 10
    assert max(map(len, pieces)) < columns
    if columns >= 40:
        assert terminal.lines()[-1].startswith("source-only ━━━━━━━━━━━─ 900/1000")
    if columns == 60:  # whole fields only
        assert terminal.lines()[-1] == "source-only ━━━━━━━━━━━─ 900/1000  0:50 left  loss 1.235"


def test_a_terminal_without_unicode_gets_ascii(clock: Clock) -> None:
    terminal = Terminal()
    terminal.encoding = "ascii"
    Counter("images", 12, terminal, clock=clock).update(3)
    assert terminal.getvalue() == "images ###--------- 3/12"


@pytest.mark.usefixtures("wide")
def test_a_counter(clock: Clock) -> None:
    terminal = Terminal()
    with Counter("images", 100, terminal, clock=clock) as counter:
        for done in range(101):
            counter.update(done)
            clock.now += 1 / 32
    assert terminal.lines() == ["images ━━━━━━━━━━━━ 100/100  32.0/s", ""]
    assert "images ━━━━━━────── 48/100  0:02 left  32.0/s" in terminal.getvalue()
    assert terminal.getvalue().count("\r") == 25  # at most ten times a second, however often it is told

    log = io.StringIO()
    with Counter("images", 100, log, clock=clock) as counter:
        for done in (1, 50, 100):
            counter.update(done)
            clock.now += 1
    assert log.getvalue() == "images 1/100\nimages 100/100  49.5/s\n"


def test_counters_give_every_count_its_line() -> None:
    terminal = Terminal()
    with Counters(terminal) as counters:
        for what in ("source", "target"):
            for done in (1, 2):
                counters.show(what, done, 2)
    seen = [line.split("  ")[0] for line in terminal.lines()]
    assert seen == ["source ━━━━━━━━━━━━ 2/2", "target ━━━━━━━━━━━━ 2/2", ""]


def test_the_rate_starts_anew_after_a_restart() -> None:
    pace = Pace()
    assert pace.left(10) is None
    pace.add(100, 1.0)
    assert pace.left(10) is None
    pace.add(200, 11.0)
    assert pace.left(50) == pytest.approx(5.0)
    pace.add(150, 12.0)  # an older checkpoint
    assert pace.rate is None
    pace.add(160, 22.0)
    assert pace.rate == pytest.approx(1.0)
    pace.add(170, 2.0)  # a new launch, its clock at zero
    pace.add(190, 7.0)
    assert pace.rate == pytest.approx(4.0)


def test_durations() -> None:
    seconds = (0, 59.6, 750, 3723, 172799, 183600)
    assert [duration(s) for s in seconds] == ["0:00", "1:00", "12:30", "1:02:03", "47:59:59", "2d 03h"]
