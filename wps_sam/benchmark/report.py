"""What a run of the benchmark leaves: pairs for JSON, a Markdown table, the machine, and the cost of a schedule."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from wps_sam.outputs import write_output

import detectron2
import numpy as np
import torch

from .measuring import Contest, Measurement, difference
from .subjects import CACHED, STOCK, Settings

# The paper's recipe: configs/PartImageNet/wps_sam_vit_b_box_15ep.yaml.
SCHEDULE_IMAGES, SCHEDULE_EPOCHS = 20_460, 15


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, memory, versions, and how busy the machine was before (load average, where the system has one)."""
    info: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for package in ("torch", "numpy", "segment-anything", "timm", "transformers", "wps-sam"):
        info[package] = _version(package)
    # Part of the evaluation's stock side; the stand-in's version says that it is one.
    info["detectron2"] = detectron2.__version__
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        info["gpu"] = properties.name
        info["gpu_memory_gib"] = round(properties.total_memory / 2**30, 1)
        info["cuda"] = torch.version.cuda
        info["tf32_matmul"] = torch.backends.cuda.matmul.allow_tf32
    return info


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return found.group(1) if found else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    found = re.search(r"^MemTotal:\s+(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE)
    return round(int(found.group(1)) / 2**20, 1) if found else None


def _text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8") if os.path.exists(path) else ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        # A checkout that is run without having been installed.
        return None


def describe_machine(info: Mapping[str, Any]) -> str:
    """One line for a person."""
    gpu = f"{info['gpu']} ({info['gpu_memory_gib']} GiB, CUDA {info['cuda']}), " if "gpu" in info else ""
    return (
        f"{gpu}{info['cores']} cores of {info['processor']}, {info['threads']} threads, {info['memory_gib']} GiB, "
        f"load before {info['load_average']}; Python {info['python']}, torch {info['torch']}, "
        f"segment_anything {info['segment-anything']}, timm {info['timm']}, transformers {info['transformers']}, "
        f"Detectron2 {info['detectron2']}"
    )


def side_report(
    contest: Contest, name: str, measurement: Measurement, peak_tflops: Mapping[str, float]
) -> dict[str, Any]:
    """Median and quartiles in seconds a run, the rate, memory, and the arithmetic reached."""
    side, (low, high) = contest.side(name), measurement.quartiles
    report: dict[str, Any] = {
        "name": name,
        "seconds": measurement.median,
        "seconds_q1": low,
        "seconds_q3": high,
        "iqr": high - low,
        "runs": len(measurement.seconds),
        f"{contest.unit}s_per_second": side.items / measurement.median,
        "seconds_per_" + contest.unit: measurement.median / side.items,
    }
    report.update(measurement.sizes)
    if measurement.memory is not None:
        report["peak_growth_mib"] = round(measurement.memory.growth, 1)
        report["peak_total_mib"] = round(measurement.memory.total, 1)
    if measurement.flops:
        report["flops_per_" + contest.unit] = measurement.flops / side.items
        report["tflops"] = measurement.flops / measurement.median / 1e12
        # What the side runs in: a bf16 encoder is held against the bf16 peak.
        peak = peak_tflops.get("bf16" if "bf16" in name else "fp32")
        if peak is not None:
            report["share_of_peak"] = report["tflops"] / peak
    return report


def pair_reports(
    settings: Settings,
    contest: Contest,
    measurements: Mapping[str, Measurement],
    info: Mapping[str, Any],
    peak_tflops: Mapping[str, float],
) -> list[dict[str, Any]]:
    """One entry a pair. ``ratio``: baseline's time by ours, for one unit; ``relative_time``: the other way round."""
    pairs = []
    for baseline, ours in contest.pairs:
        reports = [side_report(contest, name, measurements[name], peak_tflops) for name in (baseline, ours)]
        of_unit = [report["seconds_per_" + contest.unit] for report in reports]
        pair = {
            "subject": settings.subject,
            "what": contest.what,
            "model": settings.model,
            "batch": settings.batch,
            "device": settings.device,
            "repeats": settings.repeats,
            "baseline": reports[0],
            "ours": reports[1],
            "ratio": of_unit[0] / of_unit[1],
            "relative_time": of_unit[1] / of_unit[0],
            "difference": difference(measurements[ours].first_output, measurements[baseline].first_output),
            "machine": dict(info),
        }
        if "peak_growth_mib" in reports[0] and "peak_growth_mib" in reports[1] and reports[1]["peak_growth_mib"] > 0:
            pair["memory_ratio"] = reports[0]["peak_growth_mib"] / reports[1]["peak_growth_mib"]
        if settings.subject == "training_step" and ours == CACHED and baseline != STOCK and STOCK in measurements:
            stock = measurements[STOCK].median / contest.side(STOCK).items
            pair["schedule"] = schedule(stock, of_unit[0], of_unit[1])
        pairs.append(pair)
    return pairs


def schedule(stock_live: float, live: float, cached: float) -> dict[str, Any]:
    """Hours of one process for the 15-epoch PartImageNet schedule, from seconds a training image.

    Making the cache is taken as the encoder's time, what a live step needs more than a cached one, once an image.
    Reading pictures and cache, evaluation and checkpoints are not in it.
    """
    views = SCHEDULE_IMAGES * SCHEDULE_EPOCHS
    making = max(live - cached, 0) * SCHEDULE_IMAGES
    return {
        "images": SCHEDULE_IMAGES,
        "epochs": SCHEDULE_EPOCHS,
        "stock_live_hours": stock_live * views / 3600,
        "live_hours": live * views / 3600,
        "making_the_cache_hours": making / 3600,
        "cached_training_hours": cached * views / 3600,
        "cached_hours": (making + cached * views) / 3600,
    }


def write_json(path: str, pairs: Sequence[Mapping[str, Any]]) -> None:
    """The pairs as one JSON list."""
    write_output(path, json.dumps(pairs, indent=1).encode())


# ------------------------------------------------------------------ Markdown


def markdown(pairs: Sequence[Mapping[str, Any]]) -> str:
    """The table of MODEL_ZOO.md, one row a pair; columns that no pair fills are left out."""
    rows = [_row(pair) for pair in pairs]
    columns = [c for c in rows[0] if any(row[c] for row in rows)] if rows else []
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row[c] for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def _row(pair: Mapping[str, Any]) -> dict[str, str]:
    baseline, ours = pair["baseline"], pair["ours"]
    rate = next(key for key in ours if key.endswith("s_per_second"))
    reached = [f"{side['tflops']:.3g}" if "tflops" in side else "" for side in (baseline, ours)]
    shares = [f"{side['share_of_peak']:.1%}" if "share_of_peak" in side else "" for side in (baseline, ours)]
    return {
        "What": pair["what"],
        "SAM": pair["model"],
        # These subjects have no batches.
        "Batch": "" if pair["subject"] in ("evaluation", "cache") else str(pair["batch"]),
        "Baseline": baseline["name"],
        "Ours": ours["name"],
        "Baseline, time": _time(baseline),
        "Ours, time": _time(ours),
        "Ratio": f"**{pair['ratio']:.2f}**" if pair["ratio"] < 20 else f"**{pair['ratio']:.0f}**",
        "Ours, a second": _rate(ours[rate]) + " " + rate.removesuffix("_per_second"),
        "Memory": _two([_memory(side) for side in (baseline, ours)]),
        "Parameters": f"{ours['parameters'] / 1e6:.1f} million" if "parameters" in ours else "",
        "Features, fp16": f"{ours['feature_bytes'] / 1e6:.1f} MB" if "feature_bytes" in ours else "",
        "GFLOP": f"{baseline['flops_per_image'] / 1e9:,.0f}" if "flops_per_image" in baseline else "",
        "TFLOP/s": _two(reached),
        "Of the peak": _two(shares),
        "Difference": "" if pair["difference"] is None else f"{pair['difference']:.1e}",
    }


def _two(texts: Sequence[str]) -> str:
    return " / ".join(texts) if all(texts) else ""


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time(side: Mapping[str, Any]) -> str:
    """Median of a run with its quartiles, in a unit that fits."""
    factor, unit = (1, "s") if side["seconds"] >= 1 else (1000, "ms")
    median, low, high = (factor * side[key] for key in ("seconds", "seconds_q1", "seconds_q3"))
    digits = max(0, 2 - int(np.floor(np.log10(max(median, 1e-9)))))
    return f"{median:.{digits}f} {unit} ({low:.{digits}f} to {high:.{digits}f})"


def _memory(side: Mapping[str, Any]) -> str:
    return f"{side['peak_growth_mib']:.0f} MiB" if "peak_growth_mib" in side else ""


def describe_schedule(cost: Mapping[str, Any]) -> str:
    """One sentence a line, for a person."""
    return (
        f"{cost['epochs']} epochs of PartImageNet ({cost['images']:,} images), extrapolated, one process, without data "
        f"loading and evaluation:\n"
        f"  live, segment_anything  {cost['stock_live_hours']:10.1f} hours\n"
        f"  live, ours              {cost['live_hours']:10.1f} hours\n"
        f"  cached                  {cost['cached_hours']:10.1f} hours, "
        f"of which {cost['making_the_cache_hours']:.1f} make the cache (one view an image)"
    )
