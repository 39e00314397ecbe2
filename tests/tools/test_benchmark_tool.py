"""tools/benchmark.py, called as from the command line."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark.py"


def _run(*arguments: str) -> int:
    return runpy.run_path(str(TOOL))["main"](list(arguments))


def test_writes_pairs_and_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "pairs.json"
    arguments = ["--model", "vit_tiny", "--batch", "1", "--repeats", "1", "--threads", "1", "--variant", "fp32"]
    assert _run("encoder", *arguments, "--peak-tflops", "fp32=0.1", "--json", str(file)) == 0
    (pair,) = json.loads(file.read_text())
    assert pair["ratio"] > 0 and pair["machine"]["threads"] == 1
    assert 0 < pair["baseline"]["share_of_peak"]
    if Path("/proc/self/clear_refs").exists():
        assert pair["baseline"]["peak_growth_mib"] > 0
    printed = capsys.readouterr().out
    assert "| encoder | vit_tiny | 1 | segment_anything | ours, fp32 |" in printed and "torch" in printed


def test_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert _run("encoder", "--model", "vit_x") == 2
    assert "vit_x" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        _run("encoder", "--peak-tflops", "int8=1")
    assert "fp32=NUMBER or bf16=NUMBER" in capsys.readouterr().err
