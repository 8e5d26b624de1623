"""A page with everything in it, in a real browser: desktop and phone, light and dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plca_dist.data.labels import label_set
from plca_dist.report.curves import charts, marks
from plca_dist.report.page import Panel, Picture, RunSummary, ScoreTable, page
from plca_dist.report.panels import columns
from plca_dist.report.tables import published, score_columns
from plca_dist.run.history import Attempt
from plca_dist.training.scores import score
from tests.chromium import PROGRAMS, Chromium, program
from tests.programs import unavailable

LABELS = label_set("cityscapes")
NAMES = ("source-only", "a-run-whose-name-is-as-long-as-names-of-runs-may-be-" + "x" * 48, "PLCA")
ATTEMPTS = [
    Attempt(1, 1e9, 0, 8, {"torch": "2.11.0"}, 1e9 + 90, 30, "preempted", "node 1a2b3c4d drains"),
    Attempt(1, 2e9, 30, 4, {"torch": "2.11.0"}, None, None),
    Attempt(2, 3e9, 40, 8, {"torch": "2.11.0"}, 3e9 + 9, 60, "restarted", "RuntimeError: " + "a-long-word" * 20),
    Attempt(2, 4e9, 60, 8, {"torch": "2.11.0"}, 4e9 + 9, 99, "finished"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if not program():
        unavailable(f"no Chromium found ({', '.join(PROGRAMS)}): apt-get install chromium", "PLCA_TESTS_CHROMIUM")
    with Chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    label_HW = rng.integers(0, 19, (24, 48), dtype=np.uint8)
    evaluations = {}
    for seed, name in enumerate(NAMES):
        counts = torch.randint(0, 9, (19, 19), generator=torch.Generator().manual_seed(seed))
        measured = score(counts, LABELS).as_dict()
        evaluations[name] = {"scores": [{"aggregation": 0.0, **measured}, {"aggregation": 0.5, **measured}]}
    panel = columns(rng.integers(0, 256, (3, 24, 48), dtype=np.uint8), label_HW, dict.fromkeys(NAMES, label_HW), LABELS)
    drawn = charts({n: [{"step": s, "loss/total": 1 / s} for s in (1, 99)] for n in NAMES}, {NAMES[2]: marks(ATTEMPTS)})
    text = page(
        ", ".join(NAMES),
        runs=[
            RunSummary(n, {"loss": "CE", "source": "s3://bucket/" + "folder/" * 20, "seed": n}, ATTEMPTS) for n in NAMES
        ],
        scores=[ScoreTable(LABELS, score_columns(evaluations), (NAMES[0], NAMES[2]), paper=published(LABELS))],
        panels=[Panel(panel, "a/long/id/" + "0123456789" * 9)],
        chosen="The worst.",
        legend=LABELS,
        pictures=[Picture("Cycle association", "caption " * 20, next(iter(drawn.values())))],
        curves=drawn,
        differences={"objective.kl_aggregation_contrast": ["False", "True", "s3://bucket/" + "x" * 90]},
        missing=["no predictions: s3://bucket/" + "folder/" * 20],
        lead="Lead.",
    )
    file = tmp_path_factory.mktemp("page") / "index.html"
    file.write_text(text)
    return file.as_uri()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False), (360, True)])
def test_the_page_is_whole_quiet_and_fits(browser: Chromium, url: str, width: int, dark: bool, tmp_path: Path) -> None:
    opened = browser.open(url, width, dark=dark)
    assert opened.complaints == []
    assert opened.requests == []
    assert opened.ask("document.querySelectorAll('h2').length") == 8
    widths: list[Any] = opened.ask("[...document.images].map(i => i.complete && i.naturalWidth)")
    assert len(widths) == 5 + 1 + 1
    assert all(widths)
    assert opened.ask("[...document.querySelectorAll('table')].map(t => t.rows.length)") == [2, 19 + 3 + 1, 4, 13]
    assert opened.ask("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    spilt = "[...document.querySelectorAll('th, td')].filter(c => c.scrollWidth > c.clientWidth + 1)"
    assert opened.ask(f"{spilt}.map(c => c.textContent)") == [], "text spills into the next cell"
    paper = opened.ask("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(23, 25, 28)" if dark else "rgb(255, 255, 255)")
    opened.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_what_a_page_asks_for_and_complains_of_is_noticed(browser: Chromium, tmp_path: Path) -> None:
    file = tmp_path / "index.html"
    file.write_text("<img src='away.png'><p style='width:900px'>wide</p><script>console.error('no')</script>")
    opened = browser.open(file.as_uri(), 360)
    assert opened.requests == [(tmp_path / "away.png").as_uri()]
    assert any('"no"' in c for c in opened.complaints)
    assert opened.ask("document.images[0].naturalWidth") == 0
    assert opened.ask("document.documentElement.scrollWidth") > 360
