"""`plca report`: what it prints, and what it refuses in a line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from plca_dist.cli import main
from plca_dist.run_files import attempt

Refused = Callable[..., str]


def test_a_report_names_what_it_wrote(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--out", str(tmp_path / "out"), "--images", "1", "--candidates", "1"]) == 0
    page, *pictures = capsys.readouterr().out.splitlines()
    assert page == f"page: {tmp_path}/out/index.html"
    assert f"  {tmp_path}/out/panels.png" in pictures
    assert all(Path(line.removeprefix("page: ").strip()).exists() for line in (page, *pictures))


def test_what_cannot_be_reported_is_refused(refused: Refused, run: Path, tmp_path: Path, toytown_shards: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search/space.yaml").write_text("")
    assert "is no run: it holds no recipe.yaml" in refused("report", tmp_path / "nothing")
    assert "is no run" in refused("report", run / "model.safetensors")
    assert "is no run" in refused("report", run / "checkpoints/step-00000100-of-2")
    assert "/search/trials" in refused("report", run, tmp_path / "search")
    assert "given twice" in refused("report", run, run)
    assert "no manifest.json" in refused("report", run, "--data", tmp_path / "nowhere")
    assert "no images are wanted; leave out" in refused("report", run, "--data", tmp_path / "nowhere", "--images", 0)
    assert "holds no labels" in refused("report", run, "--data", toytown_shards / "target")
    assert str(run) in refused("report", run, "--out", run / "recipe.yaml", "--images", 0)
    recipe = run / attempt(1) / "recipe.yaml"
    recipe.write_text("labels: 7")
    assert str(recipe) in refused("report", run)
    assert not (run / "report").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.jsonl", '{"step": 1'),
        ("metrics.jsonl", '{"step": 1, "miou": 2}\n{}'),
        ("metrics.jsonl", "[1]"),
        ("metrics.jsonl", '{"step": 1, "miou": "high"}'),
        ("evaluation.json", '{"step": 1'),
        ("evaluation.json", "[1]"),
        ("evaluation.json", "null"),
        ("evaluation.json", '{"scores": []}'),
        ("evaluation.json", '{"step": 1, "scores": {"miou": 2}}'),
        (
            "evaluation.json",
            '{"step": 1, "scores": [{"aggregation": 0, "miou": 2, "means": {}, "iou": {"road": "1"}}]}',
        ),
    ],
)
def test_a_damaged_file_of_a_run_is_named(file: str, content: str, refused: Refused, run: Path) -> None:
    (run / file).write_text(content)
    assert f"{run}/{file} is damaged " in refused("report", run, "--images", 0)


def test_records_of_nothing_that_is_drawn_are_no_curves(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    assert main(["report", str(run), "--images", "0"]) == 0
    assert capsys.readouterr().out == f"page: {run}/report/index.html\n"


def test_help_says_what_workers_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    assert "--workers and --gpu serve the scoring of candidates alone" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "option", [["--images", "-1"], ["--candidates", "0"], ["--aggregation", "1"], ["--workers", "0"]]
)
def test_values_out_of_range_are_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["report", "run", *option])
    assert left.value.code == 2
    assert option[0] in capsys.readouterr().err
