"""A fault of the program itself: one line, exit code 1, and a traceback that only its owner reads, without secrets."""

import stat
import tempfile
from pathlib import Path

import pytest

from plca_dist.cli import main, recipes, unexpected


def raised(text: str) -> Exception:
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        return error


def test_it_is_one_line_that_names_the_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def broken(parsed: object) -> None:
        raise ZeroDivisionError("a first line\na second")

    monkeypatch.setattr(recipes, "run", broken)
    assert main(["recipes"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    (log,) = tmp_path.glob("plca-*/error-*.log")
    assert line == f"plca: unexpected ZeroDivisionError: a first line; please report it with {log}."
    assert "in broken" in log.read_text()
    assert log.read_text().endswith("ZeroDivisionError: a first line\na second\n")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING", "HF_TOKEN", "db_passwd"])
def test_secrets_of_the_environment_are_in_neither(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(name, "wJalrXUtnFEMI")
    line = unexpected.explained(raised("refused wJalrXUtnFEMI"))
    (log,) = tmp_path.glob("plca-*/error-*.log")
    assert line.startswith(f"unexpected RuntimeError: refused <{name}>; ")
    assert "wJalrXUtnFEMI" not in log.read_text()
    assert f"refused <{name}>" in log.read_text()


def test_where_nothing_can_be_written_the_line_is_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    line = unexpected.explained(raised("x" * 1000))
    assert line.startswith("unexpected RuntimeError: xxx")
    assert line.endswith("x; its traceback could not be written (No such file or directory).")
    assert len(line) < 400
