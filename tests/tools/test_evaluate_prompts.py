"""tools/evaluate_prompts.py, called as from the command line."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

from wps_sam.data.synthetic import CLASS_NAMES
from wps_sam.prompt_evaluation import KINDS, load_encoder, weights_hash

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "evaluate_prompts.py"
QUICK = ("--device", "cpu", "--limit", "2")


def _run(*arguments: object) -> int:
    """The exit code; in this process, which saves starting another one."""
    return runpy.run_path(str(TOOL))["main"](list(map(str, arguments)))


def test_generated_pictures(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "new" / "scores.json"
    assert _run("--dataset", "synthetic", "--size", 64, *QUICK, "--threads", 1, "--output", output) == 0
    printed = capsys.readouterr().out
    assert "synthetic: 2 pictures; SAM vit_tiny (shipped)" in printed
    for heading in ("pieces", *KINDS.values()):
        assert heading in printed
    stored = json.loads(output.read_text())
    assert stored["dataset"] == "synthetic" and stored["size"] == 64 and stored["pictures"] == 2
    assert stored["arch"] == "vit_tiny" and stored["weights"] == "shipped"
    assert stored["weights_sha256"] == weights_hash(load_encoder("vit_tiny", "shipped"))
    assert set(stored["overall"]) == set(KINDS) and set(stored["by_class"]) <= set(CLASS_NAMES)
    for groups in ("by_class", "by_size"):
        assert sum(means["pieces"] for means in stored[groups].values()) == stored["pieces"] > 0
    assert f"{100 * stored['overall']['box']:.1f}" in printed


@pytest.mark.parametrize("sam", [(), ("--arch", "sam2_test"), ("--arch", "sam2_test", "--levels", "coarse")])
def test_a_described_data_set_with_random_weights(
    sam: tuple, tiny_encoders, tiny_parts, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "scores.json"
    data = ("--description", tiny_parts.description, "--dataset", tiny_parts.split("val"))
    assert _run(*data, *sam, "--weights", "", "--bf16", *QUICK, "--output", output) == 0
    arch = sam[1] if sam else "vit_tiny"
    assert f"{tiny_parts.split('val')}: 2 pictures; SAM {arch} (random weights)" in capsys.readouterr().out
    stored = json.loads(output.read_text())
    # Two pictures: an animal's body and head, and a car's body.
    assert stored["pieces"] == 3 and set(stored["by_class"]) == set(tiny_parts.classes)
    assert stored["by_class"]["Car Body"]["filled_box"] > 0.9
    assert stored["bf16"] is True and "size" not in stored
    assert stored["levels"] == ("coarse" if "coarse" in sam else "all")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "nowhere"), "nowhere: no such data set; known: "),
        (("--dataset", "synthetic", "--limit", "0"), "count: expected 1 or more pictures, got 0"),
        (("--dataset", "synthetic", "--size", "8"), "size: expected at least 64 pixels"),
        (("--dataset", "synthetic", "--weights", "missing.pth"), "missing.pth: no such checkpoint file"),
        (("--dataset", "synthetic", "--arch", "vit_x", "--weights", ""), "unknown SAM 'vit_x'"),
        (("--dataset", "synthetic", "--levels", "coarse"), "vit_tiny has nothing but the embedding"),
        (("--dataset", "synthetic", "--device", "nonsense"), "device 'nonsense': torch cannot use it"),
        (("--dataset", "synthetic", "--description", "missing.yaml"), "missing.yaml: the file does not exist"),
    ],
)
def test_says_what_is_wrong(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture) -> None:
    assert _run(*arguments) == 2
    error = capsys.readouterr().err
    assert "error: " in error and message in error
