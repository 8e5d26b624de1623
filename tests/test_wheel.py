"""An installed wheel has what is found by name: recipes, spaces and label sets, as a checkout has."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from plca_dist.data.labels import CODINGS, LABEL_SETS
from plca_dist.recipe import recipes
from plca_dist.search.space import spaces

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the content of the wheel, as pip puts it into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, because building leaves files behind
    for name in ("plca_dist", "tune_spaces"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    return folder / "installed"


def test_recipes_and_spaces_are_found_by_name(installed: Path, tmp_path: Path) -> None:
    code = (
        "from plca_dist.recipe import load, recipes\n"
        "from plca_dist.search.space import load_space, spaces\n"
        "for name in recipes(): load(name)\n"
        "for name in spaces(): load_space(name)\n"
        "load('toytown/minent')\n"
        "from plca_dist.data.labels import CODINGS, LABEL_SETS\n"
        f"assert {[*LABEL_SETS]} == [known.name for known in LABEL_SETS.values()]\n"
        f"assert {[*CODINGS]} == [name for name, known in CODINGS.items() if known.coding]\n"
        "print(*recipes().values(), *spaces().values(), sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    shipped = [*recipes().values(), *spaces().values()]
    assert len(shipped) == 14
    assert [Path(line) for line in done.stdout.splitlines()] == [installed / path.relative_to(ROOT) for path in shipped]
    for path in shipped:
        assert (installed / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
