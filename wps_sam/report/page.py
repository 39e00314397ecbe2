"""The page of a run."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from wps_sam.evaluation.ground_truth import GroundTruth, boxes_without_masks
from wps_sam.evaluation.protocols import REPORT_ROWS, is_overall
from wps_sam.html_page import html_page, image_data, image_element
from wps_sam.masks import read_picture
from wps_sam.visualization import side_by_side

import numpy as np
from detectron2.data import DatasetCatalog
from matplotlib.figure import Figure
from PIL import Image

from .judged import Judged, judge, judge_boxes, predicted_map, read_instances, read_predictions
from .run_folder import RunFolder, Scores

# Sides of the pictures on the page, in pixels at most.
PICTURE_WIDTH = 1000
# Where there is no number.
NOTHING = "\N{EN DASH}"
# Protocol, metric, and what they say.
HEADLINE = (
    ("d2_semseg", "mIoU", "mIoU over the parts (d2_semseg)"),
    ("oracle_box_prompt", "mIoU", "the same by SAM with the true boxes: the ceiling"),
    ("oracle_point_prompt", "mIoU", "the same by SAM with points in the true parts"),
    ("oracle_filled_box", "mIoU", "the same by the true boxes filled in: the floor"),
    ("oracle_true_names", "mIoU", "its own masks, if their names were right"),
    ("oracle_true_boxes", "mIoU", "its own names, if the boxes were right"),
    ("d2_semseg", "OSI", "of what is called a part, lies outside of it (OSI)"),
    ("d2_semseg", "USI", "of a part, is not called so (USI)"),
    ("error_breakdown", "pixels_wrong_name", "pixels of parts with a wrong name"),
    ("error_breakdown", "pixels_not_found", "pixels of parts that are called background"),
    ("coco_ap", "AP", "average precision of parts as instances"),
    ("coco_ap", "box_AP", "the same of their boxes (box_AP)"),
)
# Protocol, metric, and the heading of the table of parts: the first that there is.
BY_PART = (("d2_semseg", "IoU", "IoU by part, d2_semseg"), ("coco_ap", "box_AP", "Box AP by part, coco_ap"))
_BOXES_ALONE = (
    "Of the true parts only boxes are known, so box_AP is the one score: how well the boxes around the masks fit, and "
    "their names. With masks for some dozen of these pictures there are scores of masks; training needs none."
)
# Of a data set of which boxes alone are known.
BOX_RESULTS = Path("coco_ap_box") / "coco_instances_results.json"
_Scored = list[tuple[Mapping[str, Any], float]]
_STYLE = "body { max-width: 1100px } img { display: block; margin: .6em 0 }"


def page(runs: Sequence[RunFolder], pictures: int = 3) -> str:
    """The page of one run, or of several beside each other; so many ``pictures`` of the best, the middle and the worst.

    Raises:
        ValueError: predictions are missing, or not of the data set.
    """
    titles = [run.folder.name for run in runs]
    parts = [f"<h1>{escape(' and '.join(titles))}</h1>", _about(runs), _losses(runs)]
    for name in dict.fromkeys(name for run in runs for name in run.data_sets):
        having = [run for run in runs if name in run.scores]
        parts.append(f"<h2>{escape(name)}</h2>" + _headline(having, name) + _by_part(having, name))
        for run in having:
            folder = run.folder / "inference" / name
            if name not in DatasetCatalog.list():
                parts.append(f'<p class="note">{escape(name)} is not registered here: no pictures, no confusion.</p>')
            elif (folder / "sem_seg_predictions.json").is_file():
                parts.append(_of_predictions(run, name, pictures, several=len(having) > 1))
            elif (folder / BOX_RESULTS).is_file():
                parts.append(_of_boxes(run, name, pictures, several=len(having) > 1))
        parts.append(_protocols(having, name))
    parts.append("<h2>Configuration</h2>" + "".join(_configuration(run, len(runs) > 1) for run in runs))
    return html_page(" and ".join(titles), "".join(parts), _STYLE)


# ------------------------------------------------------------------ sections


def _about(runs: Sequence[RunFolder]) -> str:
    rows: list[tuple[str, Callable[[RunFolder], str]]] = [
        ("method", lambda run: run.prompter),
        ("labels", lambda run: run.cfg.WEAK_LABELS.TYPE),
        ("trained on", lambda run: ", ".join(run.cfg.DATASETS.TRAIN)),
        ("steps", lambda run: f"{run.cfg.SOLVER.MAX_ITER} of {run.cfg.SOLVER.IMS_PER_BATCH} pictures"),
        ("seconds a step", lambda run: _number(run.seconds_a_step(), 2)),
        ("device", lambda run: run.cfg.MODEL.DEVICE),
        ("seed", lambda run: str(run.cfg.SEED)),
    ]
    body = [[name, *(escape(value(run)) for run in runs)] for name, value in rows]
    for name in dict.fromkeys(name for run in runs for name in run.versions):
        body.append([escape(name), *(escape(run.versions.get(name, NOTHING)) for run in runs)])
    for name in dict.fromkeys(name for run in runs for name in run.hashes):
        body.append([escape(name), *(f"<code>{run.hashes.get(name, NOTHING)[:16]}</code>" for run in runs)])
    return _table(["", *(escape(str(run.folder.name)) for run in runs)], body)


def _losses(runs: Sequence[RunFolder]) -> str:
    names = [name for run in runs for name in run.curves if name.startswith("loss_") or name == "total_loss"]
    shown = list(dict.fromkeys(names))
    if not shown:
        return ""
    figure = Figure(figsize=(10, 2.6 * math.ceil(len(shown) / 3)), layout="constrained")
    axes = figure.subplots(math.ceil(len(shown) / 3), 3, squeeze=False).flat
    for name, axis in zip(shown, axes):
        for run in runs:
            if points := run.curves.get(name):
                axis.plot(*zip(*points), label=run.folder.name, linewidth=1)
        axis.set_title(name, fontsize=10)
        axis.set_ylim(bottom=0)
    for axis in list(axes):
        axis.set_visible(False)
    if len(runs) > 1:
        figure.axes[0].legend(fontsize=8)
    return "<h2>Losses</h2>" + _figure(figure, "the losses of the training by its steps")


def _headline(runs: Sequence[RunFolder], data_set: str) -> str:
    """What to look at first: how good it is, between which bounds, and whether names or places cost more."""
    body = []
    for protocol, metric, text in HEADLINE:
        values = [run.scores[data_set].get(protocol, {}).get(metric) for run in runs]
        if any(value is not None for value in values):
            body.append([escape(text), *map(_number, values)])
    return _table(["percent", *(escape(run.folder.name) for run in runs)], body)


def _protocols(runs: Sequence[RunFolder], data_set: str) -> str:
    """A row a protocol and metric, a column a run; what stands for one class has a table of its own."""
    by_run = [run.scores[data_set] for run in runs]
    body = []
    for protocol in dict.fromkeys(p for scores in by_run for p in scores):
        note = REPORT_ROWS[protocol].note if protocol in REPORT_ROWS else ""
        metrics = dict.fromkeys(m for scores in by_run for m in scores.get(protocol, {}) if is_overall(protocol, m))
        for k, metric in enumerate(metrics):
            label = f'<span title="{escape(note)}">{escape(protocol)}</span>' if k == 0 else ""
            body.append([label, escape(metric), *(_number(s.get(protocol, {}).get(metric)) for s in by_run)])
    note = '<p class="note">In percent. Several rules go by the name mIoU: compare within a row only.</p>'
    table = _table(["protocol", "metric", *(escape(run.folder.name) for run in runs)], body)
    return f"<details><summary>All protocols</summary>{note}{table}</details>"


def _by_part(runs: Sequence[RunFolder], data_set: str) -> str:
    def of(scores: Scores, protocol: str, metric: str) -> Mapping[str, float | None]:
        found = scores.get(protocol, {}).items()
        return {name.removeprefix(f"{metric}-"): v for name, v in found if name.startswith(f"{metric}-")}

    for protocol, metric, heading in BY_PART:
        by_run = [of(run.scores[data_set], protocol, metric) for run in runs]
        if names := list(dict.fromkeys(name for values in by_run for name in values)):
            body = [[escape(name), *(_number(values.get(name)) for values in by_run)] for name in names]
            return f"<h3>{heading}</h3>" + _table(["part", *(escape(r.folder.name) for r in runs)], body)
    return ""


def _of_predictions(run: RunFolder, data_set: str, pictures: int, several: bool) -> str:
    truth = GroundTruth(data_set)
    predictions = read_predictions(run.folder / "inference" / data_set / "sem_seg_predictions.json")
    judged = judge(truth, predictions)
    of_run = f", {escape(run.folder.name)}" if several else ""
    mistaken = [[escape(a), escape(b), _number(100 * share)] for a, b, share in judged.mistaken()]
    sizes = [[escape(name), str(count), _number(100 * value)] for name, count, value in judged.by_size]
    html = f"<h3>What is taken for what{of_run}</h3>" + _confusion(judged)
    html += _table(["true part", "is called", "share of its pixels, %"], mistaken)
    html += f"<h3>By size{of_run}</h3>" + _table(["a part in a picture", "how many", "mean IoU, %"], sizes)
    return html + _drawn(truth, predictions, _best_middle_worst(judged.pictures, pictures), "parts", of_run)


def _of_boxes(run: RunFolder, data_set: str, pictures: int, several: bool) -> str:
    truth = GroundTruth(data_set)
    if truth.has_masks:
        return ""
    predictions = read_instances(run.folder / "inference" / data_set / BOX_RESULTS, truth)
    html = f'<p class="note">{_BOXES_ALONE}</p>'
    if not all("segmentation" in entry for entries in predictions.values() for entry in entries):
        return html + '<p class="note">An older evaluation, which kept no masks to draw: evaluate once more.</p>'
    chosen = _best_middle_worst(judge_boxes(truth, predictions), pictures)
    return html + _drawn(truth, predictions, chosen, "boxes", f", {escape(run.folder.name)}" if several else "")


def _drawn(
    truth: GroundTruth,
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    groups: Sequence[tuple[str, _Scored]],
    of_what: str,
    of_run: str,
) -> str:
    """Picture, truth and prediction side by side, with the mean IoU of its "parts" or "boxes" below."""
    html = ""
    for title, chosen in groups:
        html += f"<h3>{title}{of_run}</h3>"
        for record, score in chosen:
            found = predicted_map(record, predictions.get(record["file_name"], ()), truth.num_classes)
            maps, boxes = (truth.part_map(record), found), boxes_without_masks(record)
            drawn = side_by_side(read_picture(record), *maps, truth.class_names, true_boxes=boxes)
            caption = f"{escape(str(record['image_id']))}: mean IoU of its {of_what} {_number(100 * score)}"
            html += f"<figure>{_picture(drawn, caption)}<figcaption>{caption}</figcaption></figure>"
    return html


def _best_middle_worst(ordered: _Scored, count: int) -> list[tuple[str, _Scored]]:
    """Of (record, score), the worst first; of few pictures each is shown once, the worst first."""
    worst, rest = ordered[:count], ordered[count:]
    best, rest = (rest[-count:], rest[:-count]) if count else ([], rest)
    start = max(0, (len(rest) - count) // 2)
    groups = [
        ("Best pictures", best[::-1]),
        ("Middling pictures", rest[start : start + count]),
        ("Worst pictures", worst),
    ]
    return [(title, chosen) for title, chosen in groups if chosen]


def _confusion(judged: Judged) -> str:
    names = [*judged.class_names, "background"]
    side = max(4.0, min(12.0, 0.32 * len(names) + 2))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(judged.shares, vmin=0, vmax=1, cmap="Blues")
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_xlabel("is called")
    axis.set_ylabel("true part")
    return _figure(figure, "share of the pixels of each part by what they are called")


def _configuration(run: RunFolder, several: bool) -> str:
    title = f"<h3>{escape(run.folder.name)}</h3>" if several else ""
    return f"{title}<details><summary>config.yaml</summary><pre>{escape(run.cfg.dump())}</pre></details>"


# ------------------------------------------------------------------ pieces


def _number(value: float | None, digits: int = 1) -> str:
    return NOTHING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    rows = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body)
    return f"<table><tr>{top}</tr>{rows}</table>"


def _figure(figure: Figure, alt: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return image_data(buffer.getvalue(), "png", alt)


def _picture(image: np.ndarray, alt: str) -> str:
    drawn = Image.fromarray(image)
    drawn.thumbnail((PICTURE_WIDTH, 4 * PICTURE_WIDTH))
    return image_element(np.asarray(drawn), alt)
