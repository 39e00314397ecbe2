"""What lies in OUTPUT_DIR of a run: its configuration, its losses, its scores, and by what they were made."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wps_sam.config import method, read_config

from detectron2.config import CfgNode

# The files of weights that a run may leave, the one first that its last evaluation is of.
WEIGHTS = ("model_final.pth", "model_best.pth")
_VERSIONS = re.compile(r"Environment info:\n-+ +-+\n(.*?)\n-+ +-+", re.DOTALL)
_NAMED = ("python", "detectron2", "torch", "torchvision", "numpy", "GPU available")

Scores = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class RunFolder:
    """A run.

    Attributes:
        folder: OUTPUT_DIR.
        cfg: its config.yaml.
        curves: of each number of metrics.json, (iteration, value) in order.
        scores: of evaluation.json, {data set: {protocol: {metric: percent, None for not a number}}}.
        hashes: SHA-256 of its files of weights, by name.
        versions: of the libraries, as its log says.
    """

    folder: Path
    cfg: CfgNode
    curves: dict[str, list[tuple[int, float]]]
    scores: dict[str, Scores]
    hashes: dict[str, str]
    versions: dict[str, str]

    @classmethod
    def read(cls, folder: str | Path) -> RunFolder:
        """The run in a folder.

        Raises:
            ValueError: it is none, or nothing was evaluated yet; names the file that is missing or damaged.
        """
        folder = Path(folder)
        for name, made_by in (("config.yaml", "a training or evaluation"), ("evaluation.json", "an evaluation")):
            if not (folder / name).is_file():
                raise ValueError(f"{folder / name}: is missing; expected OUTPUT_DIR of {made_by}")
        try:
            scores = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{folder / 'evaluation.json'}: no valid JSON: {error}") from error
        log = folder / "log.txt"
        return cls(
            folder=folder,
            cfg=read_config(folder / "config.yaml"),
            curves=_curves(folder / "metrics.json"),
            scores=scores,
            hashes={name: _sha256(folder / name) for name in WEIGHTS if (folder / name).is_file()},
            versions=_versions(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else {},
        )

    @property
    def data_sets(self) -> list[str]:
        return list(self.scores)

    @property
    def prompter(self) -> str:
        """What names the method, as tables have to."""
        return method(self.cfg)

    def seconds_a_step(self) -> float | None:
        """Mean over the whole training; None where none was logged."""
        times = [value for _, value in self.curves.get("time", [])]
        return sum(times) / len(times) if times else None


def _curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            entry: Mapping[str, Any] = json.loads(line)
        except ValueError:
            # Half written when a run was killed; a resumed one has written it again.
            continue
        for name, value in entry.items():
            if name != "iteration" and isinstance(value, (int, float)):
                curves.setdefault(name, {})[entry["iteration"]] = value
    return {name: sorted(points.items()) for name, points in curves.items()}


def _versions(log: str) -> dict[str, str]:
    found = _VERSIONS.findall(log)
    lines = [re.split(r" {2,}", line.strip(), maxsplit=1) for line in found[-1].splitlines()] if found else []
    table = {line[0]: line[1] for line in lines if len(line) == 2}
    # Where things are installed is nobody else's business.
    return {name: table[name].split(" @ ")[0] for name in _NAMED if name in table}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
