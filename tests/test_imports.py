"""Imports run downward only, and each heavy dependency is known to the few modules that may know it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "plca_dist"

#: From the bottom up; a room imports from itself and from rooms before it.
ROOMS = (
    "errors", "versions", "run_files", "ops", "storage", "method", "models", "data", "config", "recipe", "training",
    "terminal", "ray_cluster", "run", "inference", "report", "search", "doctor", "demo", "cli",
)  # fmt: skip
ONLY_IN = {
    "ray": ("ray_cluster/", "run/", "search/", "inference/", "doctor/"),
    "deepspeed": ("training/engine.py", "training/checkpoint/", "doctor/examine.py"),
    "pydantic": ("config.py", "recipe.py", "search/space/"),
}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "plca_dist" else {module}
    return found


MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_run_downward(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    room = relative.parts[0].removesuffix(".py")
    for name in _imports(path):
        top, *rest = name.split(".")
        if top == "plca_dist":
            assert ROOMS.index(rest[0]) <= ROOMS.index(room), f"{relative} imports {name}, which lies above it"
        if top in ONLY_IN:
            assert relative.as_posix().startswith(ONLY_IN[top]), f"{relative} imports {top}"
        if room in ("method", "ops"):
            assert top in ("torch", "triton", "plca_dist", "collections", "contextlib", "math", "types", "typing")


def test_every_room_is_listed() -> None:
    found = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert found - {"__init__", "__pycache__"} <= set(ROOMS)


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.rglob("*.py")), ids=lambda p: p.relative_to(BENCHMARKS).as_posix())
def test_benchmarks_run_without_the_tests(path: Path) -> None:
    assert not [name for name in _imports(path) if name.split(".")[0] in ("tests", "pytest")]
