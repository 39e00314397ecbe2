"""The configuration reference names every key of ours once, with the default that it has and what it means."""

from __future__ import annotations

import ast
import runpy
from collections.abc import Iterator
from pathlib import Path

from wps_sam.config import add_wps_sam_config

import pytest
from detectron2.config import CfgNode, get_cfg

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = runpy.run_path(str(ROOT / "docs" / "config_reference.py"))


def leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_every_key_with_its_default_and_what_it_means() -> None:
    """Detectron2's keys whose default differs are told, too."""
    theirs, ours = dict(leaves(get_cfg())), get_cfg()
    add_wps_sam_config(ours)
    wanted = {key: value for key, value in leaves(ours) if key not in theirs or theirs[key] != value}
    told: dict[str, object] = {}
    for entry in REFERENCE["read_entries"]():
        assert len(entry.comment.split()) > 2, entry
        for key, default in entry.keys.items():
            if default is not None:
                assert key not in told, key
                told[key] = ast.literal_eval(default)
    assert wanted.keys() <= told.keys()
    assert told == {key: dict(leaves(ours))[key] for key in told}


def test_the_page_has_a_row_for_each() -> None:
    page = REFERENCE["as_markdown"]()
    for entry in REFERENCE["read_entries"]():
        for key, default in entry.keys.items():
            section, _, name = key.rpartition(".")
            if default is not None:
                rows = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
                assert f"`{name}`" in rows and f"`{default}`" in rows
    # A bar in a comment would end its cell.
    assert "bottom\\_right" in page and "fp32 (SAM's own) \\| bf16" in page


def test_a_key_without_a_comment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "config.py"
    entries = REFERENCE["_entries"]
    monkeypatch.setitem(entries.__globals__, "ROOT", tmp_path)
    source.write_text(
        "def add(cfg):\n    # Of both.\n    cfg.A = 1\n    cfg.B = (1,\n        2)\n    # Own.\n    cfg.C = 'x'\n"
    )
    assert [(e.keys, e.comment) for e in entries(source, "add", "cfg", "M.")] == [
        ({"M.A": "1", "M.B": "(1, 2)"}, "Of both."),
        ({"M.C": "'x'"}, "Own."),
    ]
    source.write_text("def add(cfg):\n    # First.\n    cfg.A = 1\n\n    cfg.B = 2\n")
    with pytest.raises(ValueError, match=r"config\.py:5: M\.B has no comment above it"):
        list(entries(source, "add", "cfg", "M."))
