"""What comes of a run: labels for WPS-SAM's own training, scores where the truth is known, and pictures to look at."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from scipy import ndimage
from torch import Tensor

from ..evaluation.metrics import confusion_matrix
from ..masks import mask_to_box, mask_to_rle, read_rgb
from ..outputs import write_output
from ..visualization.drawing import ALPHA
from ..visualization.layout import LegendEntry, compose
from ..visualization.overlay import Overlay
from .cams import argmax_labels, threshold_labels
from .crf import DenseCRF
from .pictures import Tagged, true_labels
from .run import KINDS, Run, spread
from .scores import POWERS, THRESHOLDS, scores_of
from .words import read_seed

# What a map's scores stand beside: a Gaussian of this share of the picture's sides in its middle, and noise.
CENTRE_DEVIATION = 0.25


def export(run: Run, kind: str) -> int:
    """instances.json, in COCO's form, and description.yaml, which DATASETS.DESCRIPTIONS takes; returns how many labels.

    What of a class is one part, :func:`regions` says; each has a box, a mask and the ``score`` of its surest mask.
    Tags come along.
    """
    settings = run.settings.export
    folders = {os.path.dirname(os.path.abspath(p.file)) for p in run.pictures}
    root = os.path.commonpath(sorted(folders))
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(run.pictures):
        labels = read_seed(run.folder / kind / f"{picture.name}.png")
        scores = _mask_scores(run, kind, picture)
        height, width = labels.shape
        images.append(
            {
                "id": number,
                "file_name": os.path.relpath(os.path.abspath(picture.file), root),
                "height": height,
                "width": width,
                "tags": [run.classes[c] for c in picture.tags],
            }
        )
        for c in picture.tags:
            for mask in regions(labels == c, settings.min_area, settings.instances):
                x0, y0, x1, y1 = mask_to_box(mask)
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": number,
                        "category_id": c,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                        "segmentation": mask_to_rle(mask),
                        "score": scores(c, mask),
                    }
                )
    categories = [{"id": c, "name": name} for c, name in enumerate(run.classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_output(run.folder / "instances.json", json.dumps(content).encode())
    splits = {"train": {"images": ".", "annotations": str((run.folder / "instances.json").absolute())}}
    name = f"{run.folder.resolve().name}"
    about = {"name": name, "layout": "coco", "root": root, "splits": splits, "classes": run.classes}
    write_output(run.folder / "description.yaml", yaml.safe_dump(about, sort_keys=False, allow_unicode=True).encode())
    return len(annotations)


def regions(mask: np.ndarray, min_area: int, instances: str = "regions") -> list[np.ndarray]:
    """The parts that a class's pixels bool [H, W] are: with "regions" its connected regions (8), holes filled; with
    "classes" all of them together, as they are. None that would be below ``min_area``."""
    if instances == "classes":
        return [mask] if mask.sum() >= min_area else []
    labelled, count = ndimage.label(mask, structure=np.ones((3, 3)))
    filled = [ndimage.binary_fill_holes(labelled == k + 1) for k in range(count)]
    return [one for one in filled if one.sum() >= min_area]


def _mask_scores(run: Run, kind: str, picture: Tagged) -> Callable[[int, np.ndarray], float]:
    named = json.loads((run.folder / kind / f"{picture.name}.json").read_text(encoding="utf-8"))
    masks = run.masks_of(picture)

    def best(c: int, region: np.ndarray) -> float:
        of_class = [one["score"] for one in named if one["class"] == c and (masks[one["mask"]].mask & region).any()]
        return max(of_class, default=0.0)

    return best


# ------------------------------------------------------------------ scores


def evaluate(run: Run, what: str, tune: bool = False, crf: bool = False) -> dict[str, Any]:
    """Scores of "coarse" or "fine" seeds, or of the maps of what was learned, such as "tags", against the truth.

    Tags are given, so this says how well they are placed, not found. The centre prior and noise stand beside, of seeds
    what the same masks make of those. The power of seeds is theirs; of maps it is 1, or with ``tune`` the best of
    :data:`POWERS` on this very truth, said so. Maps of WeakTr have a threshold instead, 0.5 or one of
    :data:`THRESHOLDS`. With ``crf`` there is another row of maps, WHAT_crf: what a CRF makes of their labels at each of
    those, as WeakTr's curve has it; it takes seconds a picture.

    Returns:
        mIoU over classes, with background (the papers') and without it (``d2_semseg``), per class IoU, precision and
        recall, all in percent; the curve is of the former. Of seeds also ``parts``, a line a class. Written to
        eval_WHAT.json, too.

    Raises:
        ValueError: the run's data set has no truth.
    """
    pictures, truth_of = run.pictures, true_labels(run.settings)
    matrices: dict[tuple[str, float], np.ndarray] = {}
    for number, picture in enumerate(pictures):
        truth = truth_of(picture.file)
        for key, labels in _answers(run, what, picture, truth.shape, number, crf).items():
            counted = confusion_matrix(labels, truth, len(run.classes) + 1, ignore_label=-1)
            matrices[key] = matrices.get(key, 0) + counted
    report: dict[str, Any] = {"what": what, "pictures": len(pictures), "tuned_on_the_truth": tune, "rows": {}}
    for name in dict.fromkeys(name for name, _ in matrices):
        rows = {power: scores_of(matrix, run.classes) for (n, power), matrix in matrices.items() if n == name}
        # Thresholds lie below 1.
        usual = 0.5 if max(rows) < 1 else 1.0
        curve = {power: row["mIoU_with_background"] for power, row in rows.items()}
        power = max(curve, key=lambda p: curve[p] or 0) if tune else min(curve, key=lambda p: abs(p - usual))
        report["rows"][name] = {"at": power, **rows[power], "curve": curve}
    if what in KINDS:
        report["parts"] = _of_parts(run, what, report["rows"][what])
    write_output(run.folder / f"eval_{what}.json", json.dumps(report, indent=1, ensure_ascii=False).encode())
    return report


def _of_parts(run: Run, kind: str, row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each class what is known of its seeds: how often it is there, how often it was left out, and the scores."""
    counted = json.loads((run.folder / f"{kind}_empty.json").read_text(encoding="utf-8"))
    return {
        name: {**counted[name], **{score: row[score][name] for score in ("IoU", "precision", "recall")}}
        for name in run.classes
    }


def _answers(
    run: Run, what: str, picture: Tagged, shape: tuple[int, ...], number: int, crf: bool = False
) -> dict[tuple[str, float], np.ndarray]:
    """Label maps int64 [H, W] by the name of a row and its power."""
    maps, classes = run.maps_of(picture, run.words_of(what) if what in KINDS else what)
    ids = np.append(classes, len(run.classes))
    noise = torch.rand(maps.shape, generator=torch.Generator().manual_seed(number))
    if what in KINDS:
        power = getattr(run.settings.seeds, what)
        blind = {"centre": _centre(maps), "noise": noise}
        rows = {(name, power): ids[run.seeds_of(picture, m, power).labels] for name, m in blind.items()}
        return {(what, power): read_seed(run.folder / what / f"{picture.name}.png"), **rows}
    # (row, maps, how they become labels, what is tried of it); WeakTr's maps are scored as SemPLeS scores them.
    own = (threshold_labels, THRESHOLDS) if run.settings.network == "weaktr" else (argmax_labels, POWERS)
    tried = [
        (what, maps, *own),
        ("centre", _centre(maps), argmax_labels, POWERS),
        ("noise", noise, argmax_labels, POWERS),
    ]
    found: dict[tuple[str, float], np.ndarray] = {}
    for name, of_row, labels_of, values in tried:
        large = spread(picture, of_row, *shape)
        labels = {value: labels_of(large, value).numpy() for value in values}
        found |= {(name, value): ids[of_value] for value, of_value in labels.items()}
        if crf and name == what:
            refine = DenseCRF(read_rgb(picture.file), run.settings.crf)
            found |= {(f"{name}_crf", value): ids[refine(of_value, len(ids))] for value, of_value in labels.items()}
    return found


def _centre(maps: Tensor) -> Tensor:
    """One Gaussian for every tag."""
    count, height, width = maps.shape
    y, x = torch.meshgrid(torch.linspace(-0.5, 0.5, height), torch.linspace(-0.5, 0.5, width), indexing="ij")
    return torch.exp(-(x**2 + y**2) / (2 * CENTRE_DEVIATION**2)).expand(count, -1, -1)


# ------------------------------------------------------------------ pictures


def show(run: Run, name: str) -> np.ndarray:
    """A picture beside its maps and seeds, as far as there are any: uint8 RGB, written to show/NAME.png."""
    chosen = [p for p in run.pictures if p.name == name]
    if not chosen:
        raise ValueError(f"show: there is no picture {name!r}; the first are {[p.name for p in run.pictures[:5]]}")
    image = read_rgb(chosen[0].file)
    plain = Overlay(image, run.classes, fade=False)
    panels = [("picture", plain.picture())]
    for words in map(run.words_of, KINDS):
        path = run.folder / "cams" / words / f"{name}.npz"
        if path.is_file():
            with np.load(path) as stored:
                large = spread(chosen[0], torch.from_numpy(stored["maps"]), *image.shape[:2]).numpy()
                for cam, c in zip(large, stored["classes"]):
                    panels.append((run.classes[c], _heat(panels[0][1], cam)))
    shown: set[int] = set()
    for kind in KINDS:
        path = run.folder / kind / f"{name}.png"
        if path.is_file():
            overlay = Overlay(image, run.classes, fade=True)
            shown |= set(overlay.part_map(read_seed(path), ALPHA))
            panels.append((f"{kind} seed", overlay.picture()))
    entries = [LegendEntry(run.classes[c], plain.color(c)) for c in sorted(shown)]
    sheet = compose(panels, entries, plain.font_size)
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(sheet[..., ::-1]))
    write_output(run.folder / "show" / f"{name}.png", encoded.tobytes())
    return sheet


def _heat(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """A map [h, w] over a picture, its negative values as 0."""
    value = cv2.resize(np.clip(cam, 0, None), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    scaled = (255 * value / max(value.max(), 1e-12)).astype(np.uint8)
    colours = cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return (image * 0.4 + colours * 0.6).astype(np.uint8)
