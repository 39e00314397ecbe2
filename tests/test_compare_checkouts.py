"""The comparison of two checkouts: this one equals itself, and a difference is found."""

from __future__ import annotations

from pathlib import Path

import compare_checkouts
import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_a_checkout_equals_itself(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--iterations", "1", "--recipe", "dense, points"]
    assert compare_checkouts.main([str(ROOT), str(ROOT), *options]) == 0
    assert "dense, points: 1 steps; the same: losses, weights, scores" in capsys.readouterr().out


def test_the_last_bit_of_a_loss_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    losses = iter(["0x1.0000000000000p+0", "0x1.0000000000001p+0"])
    found = {"weights": "0", "scores": {}}
    monkeypatch.setattr(compare_checkouts, "run", lambda *_: {"losses": [[next(losses)]], **found})
    monkeypatch.setattr(compare_checkouts.subprocess, "run", lambda *_, **__: None)
    assert compare_checkouts.main([str(ROOT), str(ROOT), "--recipe", "dense, boxes"]) == 1
    assert "losses before" in capsys.readouterr().out
