"""The page, parsed: its tags nest, it needs no network, it shows all values, and text from outside is escaped."""

import numpy as np
import pytest
import torch

from plca_dist.data.labels import LabelSet, label_set
from plca_dist.report.curves import charts
from plca_dist.report.figure import CHART_SIZE
from plca_dist.report.page import Panel, Picture, RunSummary, ScoreTable, page
from plca_dist.report.panels import columns
from plca_dist.run.history import Attempt
from plca_dist.training.scores import score
from tests.html_reader import Reader, assert_escaped, assert_self_contained, hostile

LABELS = label_set("cityscapes")


def measured(seed: int, labels: LabelSet = LABELS, absent: int | None = None) -> dict:
    counts = torch.randint(1, 50, (len(labels), len(labels)), generator=torch.Generator().manual_seed(seed))
    counts += torch.eye(len(labels), dtype=torch.int64) * 100 * seed
    if absent is not None:
        counts[absent], counts[:, absent] = 0, 0
    return {"aggregation": 0.0, **score(counts, labels).as_dict()}


BEFORE, AFTER = measured(1, absent=16), measured(9, absent=16)


@pytest.fixture(scope="module")
def text() -> str:
    label_HW = np.arange(60, dtype=np.uint8).reshape(6, 10) % 19
    picture = np.random.default_rng(0).integers(0, 256, (3, 6, 10), dtype=np.uint8)
    return page(
        "GTA V → Cityscapes & <more>",
        lead="A <script>alert(1)</script> lead",
        runs=[
            RunSummary("source-only", {"loss": "CE", "seed": 0}),
            RunSummary("PLCA", {"loss": 'CE + "x" <b>', "seed": 0}),
        ],
        scores=[ScoreTable(LABELS, {"source-only": BEFORE, "PLCA": AFTER}, ("source-only", "PLCA"))],
        panels=[Panel(columns(picture, label_HW, {"source-only": label_HW, "PLCA": label_HW}, LABELS), "a/b <i>.png")],
        legend=LABELS,
        curves=charts({"PLCA": [{"step": 1, "loss/total": 1.0}, {"step": 2, "loss/total": 0.5}]}),
    )


@pytest.fixture(scope="module")
def read(text: str) -> Reader:
    return Reader(text)


def test_it_needs_no_network_and_no_script(text: str) -> None:
    assert_self_contained(text)


def test_every_class_and_number_is_there(read: Reader) -> None:
    by_name = {row[0]: row[1:] for row in read.rows}
    for name in LABELS.classes:
        before, after = BEFORE["iou"][name], AFTER["iou"][name]
        if name == "train":
            assert by_name[name] == ["–", "–", "–"]
        else:
            assert by_name[name] == [f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"]
    assert by_name["mIoU"] == [
        f"{BEFORE['miou']:.1f}",
        f"{AFTER['miou']:.1f}",
        f"{AFTER['miou'] - BEFORE['miou']:+.1f}",
    ]
    assert {"mIoU-16", "mIoU-13"} <= set(by_name)
    assert "– absent from truth and prediction, left out of the means: train" in read.text


def test_the_headline_is_the_gain(read: Reader) -> None:
    at = read.text.index("source-only")
    before, after = f"{BEFORE['miou']:.1f}", f"{AFTER['miou']:.1f}"
    tiles = [t for t in read.text[at:] if t.strip()][:9]
    assert [tiles[k] for k in (0, 1, 3, 4)] == ["source-only", before, "PLCA", after]
    assert tiles[2].startswith("mIoU, 18 classes · mIoU-16 ")
    assert tiles[6:] == ["difference", f"{AFTER['miou'] - BEFORE['miou']:+.1f}", "points mIoU"]


def test_facts_stand_side_by_side_and_shared_ones_once(text: str, read: Reader) -> None:
    rows = [row for row in read.rows if row[0] in ("loss", "seed")]
    assert rows == [["loss", "CE", 'CE + "x" <b>'], ["seed", "0"]]
    assert '<td colspan="2">0</td>' in text


def test_pictures_and_legend(read: Reader) -> None:
    images = read.pictures()
    assert [image.size for image in images] == [(640, 384)] * 4 + [CHART_SIZE]
    assert images[1].getpixel((0, 0)) == (128, 64, 128)
    assert [value for _, name, value in read.attributes if name == "alt"][:2] == [
        "image a/b <i>.png",
        "truth a/b <i>.png",
    ]
    styles = {value for tag, name, value in read.attributes if (tag, name) == ("i", "style")}
    assert {f"background:rgb{c}" for c in LABELS.palette} <= styles


def test_a_page_of_one_run_without_results() -> None:
    read = Reader(page("run", runs=[RunSummary("a", {"steps": "0 of 10"})]))
    assert ["steps", "0 of 10"] in read.rows
    assert "Curves" not in read.text
    assert "Pictures" not in read.text


def test_without_a_comparison_every_column_is_a_headline() -> None:
    read = Reader(page("run", runs=[], scores=[ScoreTable(LABELS, {"a": BEFORE, "b": AFTER, "c": BEFORE})]))
    tiles = [value for tag, name, value in read.attributes if (tag, name, value) == ("div", "class", "tile")]
    assert len(tiles) == 3
    assert "difference" not in read.text


def test_text_from_outside_is_shown_as_it_is() -> None:
    labels = LabelSet("hostile", (hostile("class"), "car"), ((1, 2, 3), (4, 5, 6)), {hostile("mean"): (0,)})
    scores = {hostile("column"): measured(1, labels), "other": measured(2, labels, absent=0)}
    drawn = charts({"a": [{"step": 1, "loss/total": 1.0}]})["total loss"]
    attempt = Attempt(1, 0.0, 0, 1, {}, 1.0, 1, "failed", hostile("reason"))
    text = page(
        hostile("title"),
        lead=hostile("lead"),
        runs=[RunSummary(hostile("run"), {hostile("fact"): hostile("value")}, [attempt])],
        scores=[
            ScoreTable(labels, scores, title=hostile("table"), paper={**measured(3, labels), "note": hostile("paper")})
        ],
        panels=[Panel([(hostile("picture"), np.zeros((2, 2, 3), np.uint8))], hostile("file"))],
        chosen=hostile("chosen"),
        legend=labels,
        pictures=[Picture(hostile("section"), hostile("caption"), drawn)],
        curves={hostile("curve"): drawn},
        differences={hostile("key"): [hostile("setting")]},
        missing=[hostile("missing")],
        beside=[hostile("beside")],
    )
    places = "class mean column title lead reason run fact value table paper picture file chosen section caption curve"
    assert_escaped(text, [*places.split(), "key", "setting", "missing"])


def test_the_last_line_names_the_files_beside_the_page() -> None:
    assert page("run", runs=[], beside=["a.png", "b.png"]).endswith("</html>\n<!-- beside: a.png b.png -->\n")
    assert page("run", runs=[]).endswith("</html>\n<!-- beside: -->\n")
