"""Evaluation results as a text that a person can read."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence

_NOTES = {
    "d2_semseg": "per class, pixels pooled over the data set; the headline",
    "pin41": "the same with background as a class",
    "wps_image_part": "mean over (image, part class) pairs",
    "wps_authors": "row-wise score of the authors' code, no IoU; only to compare with their 68.93 / 79.53",
    "coco_ap": "parts as detected instances",
    "error_breakdown": "share of true part pieces that ended so",
    "pascal_sq": "per class, over the images that hold it; background is a class",
    "ov_oracle": "the object's mask and class are given; per class, pixels pooled; OV-PARTS' Oracle-Obj",
    "pred_obj": "the object has to be found too; OV-PARTS' Pred-Obj, which has no public code",
    "pred_all": "all classes and background at once; PartCLIPSeg's Pred-All",
    "oracle_box_prompt": "SAM prompted with the true boxes: the ceiling",
    "oracle_filled_box": "the true boxes filled in: the floor",
}
# Means over a group of classes, though a hyphen otherwise marks the score of one class.
_GROUP_MEANS = tuple(f"{mean}-{group}" for mean in ("mIoU", "mIoU_gt", "AP") for group in ("base", "unbase"))
# Heading of a column of the part table, and where its numbers come from.
_PART_COLUMNS = (
    ("IoU", "d2_semseg", "IoU"),
    ("ACC", "d2_semseg", "ACC"),
    ("IoU, oracle", "ov_oracle", "IoU"),
    ("IoU, pred-obj", "pred_obj", "IoU"),
    ("IoU, pred-all", "pred_all", "IoU"),
    ("sq-IoU", "pascal_sq", "sqIoU"),
    ("mask AP", "coco_ap", "AP"),
    ("IoU, box prompt", "oracle_box_prompt", "IoU"),
    ("IoU, filled box", "oracle_filled_box", "IoU"),
)


def format_results_table(
    results: Mapping[str, Mapping[str, float]], class_names: Sequence[str], unseen: Container[int] = ()
) -> str:
    """The results of one data set: a row for each protocol, then a row for each part.

    Args:
        results: {protocol: {metric: percent}}, as the evaluators give them.
        class_names: the C part names, in the order of the rows.
        unseen: the classes that training did not show; marked so where a protocol averages over them.

    Returns:
        Text of several lines, "-" for what cannot be computed (NaN).
    """
    width = max([len(p) for p in results], default=0)
    lines = ["All numbers in percent, except counts per image."]
    for protocol, scores in results.items():
        # A hyphen marks the score of one class; those have their own table.
        shown = [
            f"{name} {_number(value)}"
            for name, value in scores.items()
            if "-" not in name or name in _GROUP_MEANS
        ]
        note = _NOTES.get(protocol)
        lines.append(f"{protocol:<{width}}  " + "  ".join(shown) + (f"   ({note})" if note else ""))
    columns = [
        (heading, [results[protocol].get(f"{metric}-{name}", math.nan) for name in class_names])
        for heading, protocol, metric in _PART_COLUMNS
        if protocol in results and any(f"{metric}-{name}" in results[protocol] for name in class_names)
    ]
    if columns:
        marked = unseen if any("mIoU-unbase" in scores for scores in results.values()) else ()
        rows = [name + " (unseen)" * (c in marked) for c, name in enumerate(class_names)]
        name_width = max(len(row) for row in [*rows, "part"])
        lines += ["", f"{'part':<{name_width}}" + "".join(f"  {heading:>8}" for heading, _ in columns)]
        for c, row in enumerate(rows):
            cells = (f"  {_number(values[c]):>{max(len(heading), 8)}}" for heading, values in columns)
            lines.append(f"{row:<{name_width}}" + "".join(cells))
    return "\n".join(lines)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
