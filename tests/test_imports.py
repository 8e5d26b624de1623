"""Imports run downward only, and each heavy dependency is known to the few modules that may know it."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "plca_dist"

#: From the bottom up; a room imports from itself and from rooms before it.
ROOMS = (
    "errors", "output", "parsing", "polling", "messages", "versions", "run_files", "scratch", "deepspeed_options",
    "later_keys",
    "ops",
    "storage", "method", "models", "data",
    "sections", "run_sections", "term_sections", "config", "methods", "recipe",
    "training", "terminal", "ray_cluster", "run",
    "inference", "report", "search",
    "doctor", "demo", "cli",
)  # fmt: skip
ONLY_IN = {
    "ray": ("ray_cluster/", "run/", "search/", "inference/", "doctor/"),
    "deepspeed": ("training/engine.py", "training/checkpoint/", "doctor/examine.py"),
    "timm": ("models/timm_library.py",),
    "pydantic": (
        "sections.py",
        "run_sections.py",
        "term_sections.py",
        "config.py",
        "recipe.py",
        "search/space/",
        "data/shards/manifest.py",
    ),
    "fsspec": ("storage/",),
    **dict.fromkeys(("s3fs", "botocore", "gcsfs", "google", "adlfs", "azure"), ("storage/clouds/",)),
}
#: What DeepSpeed does not document: attributes, keys and names of its files. One file alone may touch it.
DEEPSPEED_INTERNALS = (
    "__compatible_ops__", "zero_optimization_stage", "engine.skipped_steps", "engine.device",
    "ds_tensor", "ds_id", "ds_numel", "ds_shape", "_hp_mapping", "hp_fragment", "lp_fragment", "param_group_index",
    "single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_flat_groups", "base_optimizer_state",
    "optimizer_state_dict", "optimizer.optimizer", "zero_to_fp32", "_pp_rank_", "mp_rank_", "_model_states.pt",
    "_optim_states.pt", 'getLogger("DeepSpeed")', "deepspeed.ops", "deepspeed.runtime", "deepspeed.accelerator",
)  # fmt: skip


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
            assert top in (
                "torch",
                "triton",
                "plca_dist",
                "collections",
                "contextlib",
                "copy",
                "dataclasses",
                "functools",
                "math",
                "types",
                "typing",
            )


#: What Ray does not document, as it looks in source: modules, attributes, and variables that are set for it.
RAYS_OWN = re.compile(
    r"ray\.(_private|_raylet|core\.generated)|_internal\b|_base_exc|temporary_state|stub=True|error\.cause\b"
    r"|_worker_logs_enabled|environ.*[\"\x27](RAY_(?!ADDRESS|AUTH_MODE|API_SERVER)|TUNE_)"
)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_what_ray_does_not_document_is_in_one_place(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[:2] != ("ray_cluster", "internals"):
        lines = enumerate(path.read_text().splitlines(), 1)
        assert not [(number, line) for number, line in lines if RAYS_OWN.search(line)]


def test_one_file_knows_the_internals_of_deepspeed() -> None:
    for path in MODULES:
        if path != PACKAGE / "training" / "checkpoint" / "internals.py":
            source = path.read_text()
            used = [name for name in DEEPSPEED_INTERNALS if name in source]
            assert not used, f"{path.relative_to(PACKAGE)} touches {used}: ask training/checkpoint/internals.py"


def test_every_room_is_listed() -> None:
    found = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert found - {"__init__", "__pycache__"} <= set(ROOMS)


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.rglob("*.py")), ids=lambda p: p.relative_to(BENCHMARKS).as_posix())
def test_benchmarks_run_without_the_tests(path: Path) -> None:
    assert not [name for name in _imports(path) if name.split(".")[0] in ("tests", "pytest")]


#: Calls that make text or structure of bytes, as they end in source. `data/` reads images and shards as it needs to.
PARSING = re.compile(r"\bjson\.loads?$|\byaml\.(\w*load\w*|parse)$|\.(decode|read_text)$|\bpickle\.loads?$")
#: Each decodes what is no object of a store.
OF_NO_STORE = {
    ("doctor/mount.py", "MOUNTS.read_text"),
    ("errors.py", "c.encode('unicode_escape', 'surrogatepass').decode"),
    ("output.py", "found[0].encode('unicode_escape').decode"),
    ("output.py", "text.encode(encoding, 'replace').decode"),
    ("ray_cluster/internals/core.py", "file.read().decode"),  # errors="replace": Ray's log of this machine
    ("doctor/node.py", "json.loads"),  # it travels to nodes where this package is missing
    ("report/markup.py", "base64.b64encode(png).decode"),
    ("report/write.py", "target.read(PAGE).decode"),  # errors="replace": the page of an earlier report
}


def test_bytes_become_structure_in_one_place() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), ast.unparse(node.func))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and PARSING.search(ast.unparse(node.func))
    }
    elsewhere = {(file, call) for file, call in found if not file.startswith(("parsing.py", "data/"))}
    assert elsewhere == OF_NO_STORE, "ask parsing.py"
