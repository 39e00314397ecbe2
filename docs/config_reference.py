"""The configuration reference, read out of the code that declares the keys: defaults, and the comments above them.

Nothing is imported, so that the pages can be built where PyTorch is not installed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG_SOURCE = ROOT / "wps_sam" / "config.py"
PROMPTER_SOURCES = sorted((ROOT / "wps_sam" / "prompters").glob("*.py"))


@dataclass(frozen=True)
class Entry:
    """Keys that stand under one comment, with their defaults as the code writes them; a section has no default."""

    keys: dict[str, str | None]
    comment: str


def read_entries() -> list[Entry]:
    """Everything that ``add_wps_sam_config`` and each prompter's ``add_config`` declare, in their order.

    Raises:
        ValueError: a key has no comment above it.
    """
    found = list(_entries(CONFIG_SOURCE, "add_wps_sam_config", "cfg", ""))
    for path in PROMPTER_SOURCES:
        for prompter, node in _prompters(path):
            found.append(Entry({f"MODEL.{node}": None}, f"For MODEL.PROMPTER.NAME {prompter}."))
            found += _entries(path, "add_config", "node", f"MODEL.{node}.")
    return found


def as_markdown() -> str:
    """A heading and a table for each section, sections in alphabetical order."""
    sections: dict[str, list[Entry]] = {}
    introductions: dict[str, str] = {}
    for entry in read_entries():
        values = {key: default for key, default in entry.keys.items() if default is not None}
        if not values:
            introductions.update(dict.fromkeys(entry.keys, entry.comment))
        for section in dict.fromkeys(key.rpartition(".")[0] for key in values):
            its = {key: default for key, default in values.items() if key.rpartition(".")[0] == section}
            sections.setdefault(section, []).append(Entry(its, entry.comment))
    lines = []
    for section in sorted(sections):
        lines += ["", f"## {section}", "", introductions.get(section, ""), ""]
        lines += ["| Key | Default | Meaning |", "|---|---|---|"]
        for entry in sections[section]:
            keys = "<br>".join(f"`{key.rpartition('.')[2]}`" for key in entry.keys)
            defaults = "<br>".join(f"`{default}`" for default in entry.keys.values())
            lines.append(f"| {keys} | {defaults} | {_in_a_cell(entry.comment)} |")
    return "\n".join(lines)


def _in_a_cell(comment: str) -> str:
    for character in "|*_<[":
        comment = comment.replace(character, f"\\{character}")
    return comment


def _entries(path: Path, function: str, name: str, prefix: str) -> Iterator[Entry]:
    """Comments and the assignments to ``name.KEY`` below each; a blank line or the next comment ends an entry."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    (body,) = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == function)
    keys: dict[str, str | None] = {}
    comment: list[str] = []
    last = 0
    for statement in body.body:
        target = ast.unparse(statement.targets[0]) if isinstance(statement, ast.Assign) else ""
        if not (isinstance(statement, ast.Assign) and target.startswith(f"{name}.")):
            continue
        above = _comment_above(lines, statement.lineno)
        if above or lines[statement.lineno - 2].strip() == "" or statement.lineno != last + 1:
            if keys:
                yield Entry(keys, " ".join(comment))
            keys, comment = {}, above
        key = prefix + target.removeprefix(f"{name}.")
        if not comment:
            raise ValueError(f"{path.relative_to(ROOT)}:{statement.lineno}: {key} has no comment above it")
        keys[key] = None if isinstance(statement.value, ast.Call) else ast.unparse(statement.value)
        last = statement.end_lineno or statement.lineno
    if keys:
        yield Entry(keys, " ".join(comment))


def _comment_above(lines: list[str], number: int) -> list[str]:
    """The lines of the comment that ends right above line ``number``, which counts from 1."""
    found: list[str] = []
    for line in reversed(lines[: number - 1]):
        text = line.strip()
        if not text.startswith("#"):
            break
        found.insert(0, text.removeprefix("#").strip())
    return found


def _prompters(path: Path) -> Iterator[tuple[str, str]]:
    """Classes with keys of their own, and the names of their nodes below MODEL."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for statement in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "CONFIG_NODE":
                yield node.name, ast.literal_eval(statement.value)
