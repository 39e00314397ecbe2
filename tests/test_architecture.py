"""The rules of the code's shape, read from the syntax tree: who imports whom, and how large things may grow."""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wps_sam"
TOOLS = sorted((ROOT / "tools").glob("*.py"))

BASE = {"structures", "vocabulary", "masks"}
BELOW_ENGINE = BASE | {
    *("config", "data", "encoders", "evaluation", "inference", "models", "prompters"),
    *("checkpointer", "outputs", "visualization"),
}
# First name below wps_sam -> what it may import of ours, itself apart. A new module needs a line here:
# decide where it belongs before writing it.
MAY_IMPORT = {
    "structures": set(),
    "vocabulary": set(),
    "mask_losses": set(),
    "picture_files": set(),
    "masks": {"structures", "picture_files"},
    "standin": set(),
    "_detectron2": set(),
    "checkpointer": set(),
    "outputs": {"checkpointer"},
    "text_embeddings": {"outputs"},
    "encoders": BASE | {"checkpointer"},
    "prompters": BASE | {"mask_losses", "text_embeddings"},
    "inference": BASE,
    "models": BASE | {"encoders", "prompters", "inference"},
    "evaluation": BASE,
    "visualization": BASE,
    "data": BASE | {"checkpointer", "outputs", "picture_files"},
    "data_page": BASE | {"data", "visualization"},
    "config": BASE | {"encoders", "prompters", "evaluation"},
    "engine": BELOW_ENGINE,
    "predictor": BELOW_ENGINE,
    "prompt_evaluation": BASE | {"data", "encoders", "inference"},
    "image_level": BELOW_ENGINE | {"text_embeddings", "prompt_evaluation", "pretraining"},
    "pretraining": BELOW_ENGINE | {"mask_losses", "prompt_evaluation", "checkpoint_conversion", "picture_files"},
    "checkpoint_conversion": BELOW_ENGINE,
    "benchmark": BELOW_ENGINE | {"engine"},
}
TOOLS_MAY_IMPORT = {
    "config",
    "engine",
    "predictor",
    "data",
    "data_page",
    "visualization",
    "pretraining",
    "prompt_evaluation",
    "checkpoint_conversion",
    "text_embeddings",
    "benchmark",
    "outputs",
    "picture_files",
    "structures",
}
# Lines of code: docstrings, comments and blank lines are free.
MAX_TOOL_LINES = 80
MAX_STANDIN_LINES = 2600


def modules() -> list[Path]:
    """All files of the package but wps_sam/__init__.py, which ties everything together."""
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def area(path: Path) -> str:
    """First name below wps_sam: "data" for wps_sam/data/builtin.py, "engine" for wps_sam/engine.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_names(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute dotted names that a file imports anywhere, with line numbers; relative ones are resolved.

    ``from a.b import c`` yields ``a.b.c``: the syntax tree alone can't tell a module from an attribute,
    and every check here looks at leading parts only.
    """
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield ".".join([*stem, alias.name]), node.lineno


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_module_imports_only_what_its_place_allows(path: Path) -> None:
    own = area(path)
    assert own in MAY_IMPORT, f"{relative(path)}: give the new module a line in MAY_IMPORT"
    for name, line in imported_names(path):
        parts = name.split(".")
        assert parts[0] not in {"tools", "tests"}, f"{relative(path)}:{line} imports {name}"
        if parts[0] != "wps_sam":
            continue
        target = parts[1] if len(parts) > 1 else "__init__"
        allowed = MAY_IMPORT[own] | {own}
        assert target in allowed, f"{relative(path)}:{line} imports {name}; {own} may import {sorted(allowed)}"


@pytest.mark.parametrize("path", TOOLS, ids=relative)
def test_tool_is_thin_and_stands_on_the_package_alone(path: Path) -> None:
    for name, line in imported_names(path):
        parts = name.split(".")
        assert parts[0] not in {"tools", "tests"}, f"{relative(path)}:{line} imports {name}"
        if parts[0] == "wps_sam" and len(parts) > 2:
            assert parts[1] in TOOLS_MAY_IMPORT, f"{relative(path)}:{line} imports {name}"
    assert count_code_lines(path) <= MAX_TOOL_LINES, f"{relative(path)}: move logic into wps_sam/"


@pytest.mark.parametrize("path", [*TOOLS, ROOT / "tests" / "conftest.py"], ids=relative)
def test_entry_point_imports_wps_sam_before_detectron2(path: Path) -> None:
    """Importing wps_sam is what makes the name ``detectron2`` resolve where Detectron2 is not installed."""
    first: dict[str, int] = {}
    for name, line in imported_names(path):
        package = name.split(".")[0]
        first[package] = min(line, first.get(package, line))
    if "detectron2" in first:
        assert first.get("wps_sam", 10**9) < first["detectron2"], f"{relative(path)}: import wps_sam first"


@pytest.mark.parametrize(
    "path",
    [p for p in [*modules(), *TOOLS] if not {PACKAGE / "standin", PACKAGE / "_detectron2.py"} & {p, *p.parents}],
    ids=relative,
)
def test_module_does_not_ask_which_detectron2_is_in_place(path: Path) -> None:
    for name, line in imported_names(path):
        assert not name.startswith("wps_sam.standin"), f"{relative(path)}:{line} imports {name}"
        assert not name.startswith("wps_sam._detectron2"), f"{relative(path)}:{line} imports {name}"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value != "WPS_SAM_DETECTRON2", f"{relative(path)}:{node.lineno} reads the switch"


def test_standin_stays_small() -> None:
    lines = sum(count_code_lines(p) for p in (PACKAGE / "standin").rglob("*.py"))
    assert lines <= MAX_STANDIN_LINES, f"{lines} lines of code; the stand-in covers what we use and no more"


def count_code_lines(path: Path) -> int:
    """Lines that hold code: blank lines, comments and docstrings don't count."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    silent |= {tokenize.ENCODING, tokenize.ENDMARKER}
    code: set[int] = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in silent:
                code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)
