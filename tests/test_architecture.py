"""The rules of the code's shape, read from the syntax tree: who imports whom, and how large things may grow."""

from __future__ import annotations

import ast
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from wps_sam.cli import COMMANDS

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wps_sam"
TOOLS = sorted((ROOT / "tools").glob("*.py"))
SUBCOMMANDS = sorted((PACKAGE / "cli").glob("*.py"))

BASE = {"structures", "vocabulary", "masks", "paths", "user_errors", "shares"}
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
    "user_errors": set(),
    "stops": set(),
    "shares": set(),
    "paths": {"user_errors"},
    "masks": {"structures", "picture_files"},
    "standin": set(),
    "_detectron2": set(),
    "checkpointer": set(),
    "outputs": {"checkpointer"},
    "mirror": {"checkpointer"},
    "text_embeddings": {"outputs"},
    "download": {"user_errors"},
    "encoders": BASE | {"checkpointer"},
    "prompters": BASE | {"mask_losses", "text_embeddings"},
    "inference": BASE,
    "models": BASE | {"encoders", "prompters", "inference"},
    "evaluation": BASE,
    "visualization": BASE,
    "data": BASE | {"encoders", "checkpointer", "outputs", "picture_files"},
    "html_page": set(),
    "data_page": BASE | {"data", "html_page", "visualization"},
    "config": BASE | {"encoders", "prompters", "evaluation", "data", "models"},
    "engine": BELOW_ENGINE | {"stops", "mirror"},
    "prediction": BASE | {"mirror", "outputs", "picture_files", "stops", "visualization"},
    "pretrained": BELOW_ENGINE | {"__version__"},
    "predictor": BELOW_ENGINE | {"prediction", "pretrained"},
    "app": BASE | {"encoders", "prediction", "predictor", "prompt_evaluation", "picture_files", "visualization"},
    "label_studio": BASE
    | {"data", "encoders", "outputs", "picture_files", "prediction", "predictor", "prompt_evaluation", "visualization"},
    "onnx_runtime": {"masks", "prediction"},
    "export": BELOW_ENGINE | {"predictor", "prediction", "onnx_runtime", "__version__"},
    "prompt_evaluation": BASE | {"data", "encoders", "inference"},
    "image_level": BELOW_ENGINE | {"text_embeddings", "prompt_evaluation", "pretraining", "cli"},
    "pretraining": BELOW_ENGINE
    | {"mask_losses", "prompt_evaluation", "checkpoint_conversion", "picture_files", "stops"},
    "checkpoint_conversion": BELOW_ENGINE,
    "benchmark": BELOW_ENGINE | {"engine"},
    "report": BELOW_ENGINE | {"html_page"},
    "cli": BELOW_ENGINE
    | {"engine", "predictor", "prompt_evaluation", "image_level", "pretraining", "checkpoint_conversion", "benchmark"}
    | {"prediction", "report", "data_page", "text_embeddings", "picture_files", "download", "__version__"}
    | {"app", "export", "label_studio", "mirror", "stops"},
    "__main__": {"cli"},
}
# Lines of code: docstrings, comments and blank lines are free.
MAX_COMMAND_LINES = 80
MAX_STANDIN_LINES = 2600


def modules() -> list[Path]:
    """All files of the package but wps_sam/__init__.py, which ties everything together."""
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def area(path: Path) -> str:
    """First name below wps_sam: "data" for wps_sam/data/builtin.py, "engine" for wps_sam/engine.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_names(path: Path, top_level: bool = False) -> Iterator[tuple[str, int]]:
    """Absolute dotted names that a file imports anywhere, or at its top level, with lines; relative ones are resolved.

    ``from a.b import c`` yields ``a.b.c``: the syntax tree alone can't tell a module from an attribute,
    and every check here looks at leading parts only.
    """
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_level else ast.walk(tree):
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
def test_tool_is_another_name_of_a_subcommand(path: Path) -> None:
    names = {name for name, _ in imported_names(path)}
    assert names == {"sys", "functools.partial", "wps_sam.cli.run_command"}
    (name,) = re.findall(r'partial\(run_command, "([\w-]+)"\)', path.read_text(encoding="utf-8"))
    assert name in COMMANDS


@pytest.mark.parametrize("path", SUBCOMMANDS, ids=relative)
def test_subcommand_is_thin_and_reads_its_arguments_before_heavy_imports(path: Path) -> None:
    # The table of subcommands grows with them.
    if path.name != "__init__.py":
        assert count_code_lines(path) <= MAX_COMMAND_LINES, f"{relative(path)}: move logic into the package"
    light = {"paths", "shares", "stops", "user_errors", "cli", "__version__"}
    for name, line in imported_names(path, top_level=True):
        parts = name.split(".")
        fits = parts[0] in sys.stdlib_module_names or (parts[0] == "wps_sam" and parts[1] in light)
        assert fits, f"{relative(path)}:{line} imports {name}: do that inside run()"


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
