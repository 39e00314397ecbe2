"""The harness of the benchmark: order, medians, memory, the report; and that the stock side computes the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from wps_sam.benchmark import SUBJECTS, Settings, measuring, run_benchmark
from wps_sam.benchmark.measuring import (
    MEMORY_ENVIRONMENT,
    Contest,
    Measurement,
    Memory,
    Side,
    Task,
    difference,
    measure,
)
from wps_sam.benchmark.report import describe_schedule, machine, markdown, pair_reports, schedule

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


def _contest(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> Contest:
    """Three sides that say when they are run; one run a round."""
    monkeypatch.setattr(measuring, "SLICE_SECONDS", 0)

    def side(name: str) -> Side:
        task = Task(lambda: calls.append(name), prepare=lambda: calls.append(f"({name})"))
        return Side(name, lambda: task, items=1)

    return Contest("work", "image", tuple(map(side, "abc")), (("a", "b"), ("a", "c")))


def test_sides_take_turns_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    measurements = measure(_contest(calls, monkeypatch), CPU, repeats=3, warmup=2, count_flops=False)
    runs = [call for call in calls if not call.startswith("(")]
    # Two runs each to warm up, then rounds whose order moves on, so that no side always follows the same one.
    assert runs == [*"aabbcc", *"abc", *"bca", *"cab"]
    # Preparation comes right before each run.
    assert [call for call in calls if call.startswith("(")] == [f"({name})" for name in runs]
    assert all(calls[i - 1] == f"({name})" for i, name in enumerate(calls) if not name.startswith("("))
    assert {name: len(m.seconds) for name, m in measurements.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_quick_side_is_run_more_than_once_a_round() -> None:
    side = Side("quick", lambda: Task(lambda: None), items=1)
    measured = measure(Contest("work", "image", (side,), ()), CPU, repeats=2, warmup=1, count_flops=False)
    assert len(measured["quick"].seconds) == 2 * measuring.SLICE_RUNS


def test_operations_are_counted_and_those_of_another_side_stand_for_a_trick() -> None:
    a, b = torch.ones(2, 3), torch.ones(3, 5)
    honest = Side("stock", lambda: Task(lambda: a @ b), items=1)
    tricky = Side("trick", lambda: Task(lambda: (a @ b) @ b.T), items=1, counts_as="stock")
    contest = Contest("product", "image", (honest, tricky), (("stock", "trick"),))
    measured = measure(contest, CPU, repeats=1, warmup=1, count_flops=True)
    # 2 x 5 results of 3 products and 3 sums.
    assert measured["stock"].flops == measured["trick"].flops == 60


def test_operations_of_attention_are_counted_fused_or_not() -> None:
    q, k, v = torch.ones(3, 1, 2, 16, 8)
    attention = torch.nn.functional.scaled_dot_product_attention
    side = Side("fused", lambda: Task(lambda: attention(q, k, v)), items=1)
    measured = measure(Contest("attention", "image", (side,), ()), CPU, repeats=1, warmup=1, count_flops=True)
    # 2 heads, logits and mixtures, each 16 x 16 x 8 products and sums.
    assert measured["fused"].flops == 2 * 2 * 2 * 16 * 16 * 8


def test_difference_of_outputs() -> None:
    assert difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])) == 0.5
    assert difference(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])) == 0.25
    assert difference(None, torch.zeros(1)) is None
    with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
        difference(torch.zeros(2), torch.zeros(1))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured through /proc")
def test_memory_is_that_of_the_run_and_not_of_building() -> None:
    """In a process of its own, as the tool does it: a long-lived one has room left that no measurement sees."""
    # 64 MiB that are gone before the run; 32 MiB that the run needs, and gives back.
    script = """
import torch
from wps_sam.benchmark.measuring import Task, measure_memory
torch.ones(16 * 2**20)
print(measure_memory(Task(lambda: torch.ones(8 * 2**20).sum()), torch.device("cpu")))
"""
    environment = {**os.environ, **MEMORY_ENVIRONMENT, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    found = re.search(r"growth=([\d.]+), total=([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    growth, total = map(float, found.groups())
    assert 30 < growth < 48 and total > growth


def _settings(tmp_path: Path, subject: str, **changes: object) -> Settings:
    return Settings(subject=subject, folder=str(tmp_path), model="vit_tiny", batch=2, repeats=1, threads=1, **changes)  # type: ignore[arg-type]


def _pairs(tmp_path: Path) -> list[dict]:
    sides = (Side("stock", lambda: Task(lambda: None), 2), Side("ours, bf16", lambda: Task(lambda: None), 4))
    contest = Contest("encoder", "image", sides, (("stock", "ours, bf16"),))
    sizes = {"parameters": 10_130_000, "feature_bytes": 2_097_152}
    measurements = {
        "stock": Measurement([4.0, 2.0, 3.0], torch.zeros(1), 6 * 10**12, Memory(300.0, 900.0)),
        "ours, bf16": Measurement([1.0, 1.0, 4.0], torch.ones(1), 6 * 10**12, Memory(100.0, 500.0), sizes),
    }
    return pair_reports(
        _settings(tmp_path, "encoder"), contest, measurements, machine(CPU), {"fp32": 10.0, "bf16": 60.0}
    )


def test_report_by_hand(tmp_path: Path) -> None:
    (pair,) = _pairs(tmp_path)
    # Medians 3 s for 2 images and 1 s for 4: 1.5 s and 0.25 s an image.
    assert pair["ratio"] == 6 and pair["relative_time"] == pytest.approx(1 / 6)
    assert pair["baseline"]["seconds"] == 3 and pair["baseline"]["iqr"] == 1
    assert pair["ours"]["images_per_second"] == 4
    assert pair["memory_ratio"] == 3 and pair["difference"] == 1
    # 6 operations in 3 s are 2 of 10; in 1 s, 6 of 60.
    assert pair["baseline"]["share_of_peak"] == pytest.approx(0.2)
    assert pair["ours"]["share_of_peak"] == pytest.approx(0.1)
    assert pair["machine"]["torch"] and pair["machine"]["cores"]
    json.dumps(pair)


def test_markdown_has_a_row_a_pair_and_no_empty_columns(tmp_path: Path) -> None:
    head, _, row = markdown(_pairs(tmp_path)).splitlines()
    assert "| Memory | Parameters | Features, fp16 | GFLOP | TFLOP/s | Of the peak | Difference |" in head
    assert "| 3.00 s (2.50 to 3.50) | 1.00 s (1.00 to 2.50) | **6.00** | 4 images | 300 MiB / 100 MiB |" in row
    # 6 operations for the stock side's 2 images.
    assert "| 10.1 million | 2.1 MB | 3,000 | 2 / 6 | 20.0% / 10.0% | 1.0e+00 |" in row
    (bare,) = _pairs(tmp_path)
    for side in (bare["baseline"], bare["ours"]):
        for key in ("peak_growth_mib", "tflops", "share_of_peak"):
            del side[key]
    assert "Memory" not in markdown([bare]) and "peak" not in markdown([bare])


def test_schedule_by_hand() -> None:
    # 20,460 images: the encoder takes 11.9 of 12 s. 15 epochs are 306,900 images.
    cost = schedule(stock_live=24.0, live=12.0, cached=0.1)
    assert cost["stock_live_hours"] == 2046 and cost["live_hours"] == 1023
    assert cost["making_the_cache_hours"] == pytest.approx(11.9 * 20460 / 3600)
    assert cost["cached_hours"] == pytest.approx((11.9 * 20460 + 0.1 * 306900) / 3600)
    assert "20,460 images" in describe_schedule(cost)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "speed"}, "subject: expected one of .*encoder.*, got 'speed'"),
        ({"model": "vit_x"}, "model: expected one of .*vit_b.*, got 'vit_x'"),
        ({"variants": ("fp8",)}, "variants: expected one of .*bf16.*, got 'fp8'"),
        ({"repeats": 0}, "repeats: expected at least 1, got 0"),
    ],
)
def test_settings_say_what_is_wrong(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**{"subject": "encoder", "folder": "", **changes})


# What each subject may differ by from stock: losses, masks and scores are the same work in another order.
TOLERANCES = {"encoder": 1e-4, "training_step": 1e-4, "inference": 1e-3, "evaluation": 1e-4}


@pytest.mark.parametrize(
    ("subject", "model"),
    [
        *((subject, "vit_tiny") for subject in sorted(SUBJECTS)),
        *((subject, "sam2_test") for subject in ("encoder", "inference", "loading", "training_step")),
    ],
)
def test_every_subject_does_the_work_of_its_stock_side(
    subject: str, model: str, tiny_encoders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "SLICE_SECONDS", 0)
    settings = _settings(tmp_path, subject, variants=("fp32",))
    pairs = run_benchmark(replace(settings, model=model), memory=False)
    assert pairs
    for pair in pairs:
        assert pair["subject"] == subject and pair["ratio"] > 0
        if pair["difference"] is not None and subject in TOLERANCES:
            assert pair["difference"] <= TOLERANCES[subject], (pair["what"], pair["ours"]["name"])
    compared = [pair for pair in pairs if pair["difference"] is not None]
    # Of other SAMs there is no stock way to train and find parts.
    assert compared or subject == "loading" or (model != "vit_tiny" and subject in ("inference", "training_step"))
    if subject == "inference":
        assert ("our encoder alone, fp32", "ours, fp32") in [(p["baseline"]["name"], p["ours"]["name"]) for p in pairs]
