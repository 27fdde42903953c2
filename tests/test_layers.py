"""The house's plan, held: imports point downward, each heavy library has its doors, and planning knows no torch."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KERNEL = (
    "stage", "store", "disk", "records", "config", "machine", "registry",
    "plugins", "errors", "source", "problems", "constitution",
)  # fmt: skip
LAYERS = [
    KERNEL,
    ("losses",),
    ("data", "models"),
    ("train", "generate", "rewards", "evals"),
    ("stages", "web"),
    ("recipe", "bench"),
    ("plan", "launch", "runner", "worker"),
    ("cli",),
]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "vllm",
    "scipy",
    "statsmodels",
    "lm_eval",
}
DOORS = {
    "peft": {"models"},
    "bitsandbytes": {"models"},
    "trl": {"stages/trl", "data/chat", "bench/trl"},
    "accelerate": {"train", "worker/process"},
    "datasets": {"data", "stages/trl", "bench/trl"},
    "vllm": {"generate"},
    "scipy": {"evals"},
    "statsmodels": {"evals"},
    "lm_eval": {"evals/harness/tasks", "evals/harness/examinee"},
    "matplotlib": {"evals/report/draw", "evals/report/charts", "evals/report/training"},
}
FILES = sorted((ROOT / "align").rglob("*.py"))


def name_of(file: Path) -> str:
    """`stages/dpo` for align/stages/dpo.py, `stages` for its `__init__`."""
    short = file.relative_to(ROOT / "align").with_suffix("")
    return (short.parent if short.name == "__init__" else short).as_posix()


def imports(tree: ast.AST, top_only: bool = False) -> Iterator[str]:
    """Dotted names that are imported, but not those for type checkers; on request, only what is imported at once."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imports(node, top_only)


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def room(dotted: str) -> str | None:
    """`data` for `align.data.chat.Chat`; None for other people's modules and for `align` itself."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "align" and len(parts) > 1 and parts[1] in RANK else None


def test_every_module_has_a_layer() -> None:
    assert {name_of(file).split("/")[0] for file in FILES} - {".", "__main__"} <= set(RANK)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_point_downward(file: Path) -> None:
    here = name_of(file)
    own = here.split("/")[0]
    used = {name: RANK[found] for name in imports(parsed(file)) if (found := room(name))}
    assert not {name for name, rank in used.items() if rank > RANK.get(own, len(LAYERS))}
    if own == "stages":
        assert not {name for name in used if name.startswith("align.stages.")}, "stages never import one another"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_each_heavy_library_has_its_doors(file: Path) -> None:
    here = name_of(file)
    used = {name.split(".")[0] for name in imports(parsed(file))} & DOORS.keys()
    assert not {library for library in used if here not in DOORS[library] and here.split("/")[0] not in DOORS[library]}


@pytest.mark.parametrize("file", [f for f in FILES if name_of(f).startswith("stages/")], ids=name_of)
def test_a_stage_is_light_at_import(file: Path) -> None:
    assert not {name.split(".")[0] for name in imports(parsed(file), top_only=True)} & HEAVY


def test_nothing_imports_what_changes_without_notice() -> None:
    for file in FILES:
        assert not [name for name in imports(parsed(file)) if name.startswith("trl.experimental")], file


@pytest.mark.parametrize(
    "code",
    [
        "import align.registry, align.store, align.machine, align.records, align.config",
        "from align.registry import stages; stages()",
        "import align.recipe, align.runner",
        "import align.evals.report",  # by which a run whose stages are all there finds that the page is, too
    ],
)
def test_planning_knows_no_torch(code: str) -> None:
    slow = HEAVY | {"numpy", "pandas", "matplotlib", "scipy"}
    shown = f"{code}\nimport sys\nprint(sorted({slow!r} & set(sys.modules)))"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A folder with a recipe that is right and one that is not."""
    data = "data: {demos: {path: toy}}\nmodels: {base: {path: someone/model}}\n"
    (tmp_path / "good.yaml").write_text(data + "stages: {sft: {stage: sft, policy: $base, data: $demos}}")
    (tmp_path / "bad.yaml").write_text(data + "stages: {sft: {stage: sft, policy: $demos, data: $demos, epoch: 1}}")
    return tmp_path


def after(arguments: list[str], asked: str, folder: Path) -> str:
    """The value of an expression once `align` has answered; `code` is its exit code."""
    code = (
        "import sys\nfrom align.cli import main\n"
        f"sys.argv = ['align', *{arguments!r}]\ncode = 0\n"
        "try: main()\nexcept SystemExit as error: code = error.code or 0\n"
        f"from align.config import documentation\nfrom align.registry import installed\nprint({asked})"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=folder, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "good.yaml"], ["plan", "bad.yaml"], ["stages"], ["schema"]])
def test_the_command_line_knows_no_torch_while_it_plans_and_refuses(arguments: list[str], recipes: Path) -> None:
    slow = HEAVY | {"numpy", "pandas", "matplotlib", "huggingface_hub.hf_api"}
    code = 2 if "bad.yaml" in arguments else 0
    assert after(arguments, f"code, sorted({slow!r} & set(sys.modules))", recipes) == f"{code} []"


def test_a_plan_reads_no_docstrings_but_those_of_its_options_and_the_installed_packages_once(recipes: Path) -> None:
    counted = "documentation.cache_info().misses, installed.cache_info().misses"
    assert after(["plan", "good.yaml"], counted, recipes) == "1 1"
