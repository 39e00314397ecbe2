"""A small run of the campaign (campaign.py) at every test run, and what it found before."""

from __future__ import annotations

import re
from pathlib import Path

from wps_sam.data.sources.fields import shown

import campaign
import pytest
from fuzz_readers import READERS

# 25 readers, 2,000 inputs.
_INPUTS = 80


def test_no_reader_breaks(tmp_path: Path) -> None:
    outcomes = campaign.run(list(READERS), _INPUTS, 0, tmp_path, keep=tmp_path / "found")
    assert {reader: outcome.faults for reader, outcome in outcomes.items() if outcome.faults} == {}
    for reader, outcome in outcomes.items():
        # Inputs that are all read, or all refused, would test nothing.
        assert sum(outcome.counts.values()) >= 60 and min(outcome.counts["read"], outcome.counts["refused"]) > 0, reader


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ended its process by SIGSEGV"),
        ("[][0]", "IndexError"),
        ("raise ValueError('something is wrong')", "a ValueError that does not name bad.bin"),
    ],
)
def test_faults_are_seen_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str, fault: str) -> None:
    """By a reader that breaks at a first byte of 7 or more."""
    (tmp_path / "bad_readers.py").write_text(
        "from types import SimpleNamespace\nfrom hypothesis import strategies as st\nfrom fuzz_inputs import Inputs\n"
        "def bad(folder):\n"
        "    file, inputs = folder / 'bad.bin', Inputs([bytes(1)], st.binary(min_size=1))\n"
        "    def read():\n"
        f"        if file.read_bytes()[0] > 6:\n            {read}\n"
        "    return SimpleNamespace(file=file, inputs=inputs, read=read, told=('bad.bin',))\n"
        "READERS = {'bad': bad}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome = campaign.run(["bad"], 50, 0, tmp_path, keep=tmp_path / "found", module="bad_readers")["bad"]
    (line,) = outcome.faults
    assert fault in line
    (kept,) = (tmp_path / "found" / "bad").iterdir()
    assert kept.name in line and kept.read_bytes()[0] > 6
    assert outcome.counts["refused"] == 0


def test_a_value_of_references_is_shown_short() -> None:
    """Ten lists of ten references each to the one before are 10^12 elements when they are written out."""
    value: list = ["x"] * 10
    for _ in range(12):
        value = [value] * 10
    assert re.fullmatch(r"\[\[.{0,80}", shown(value))
