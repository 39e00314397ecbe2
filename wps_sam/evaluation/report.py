"""Evaluation results as a text that a person can read."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence

from wps_sam.evaluation.protocols import REPORT_ROWS, is_overall


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
    rows = [row for row in REPORT_ROWS.values() if row.name in results]
    notes = {row.name: f"   ({row.note})" for row in rows}
    width = max([len(p) for p in results], default=0)
    lines = ["All numbers in percent, except counts per image."]
    for protocol, scores in results.items():
        shown = [f"{name} {_number(value)}" for name, value in scores.items() if is_overall(protocol, name)]
        lines.append(f"{protocol:<{width}}  " + "  ".join(shown) + notes.get(protocol, ""))
    placed = [(column, results[row.name]) for row in rows for column in row.columns]
    placed.sort(key=lambda column_and_scores: column_and_scores[0].order)
    columns = [
        (column.heading, [scores.get(f"{column.metric}-{name}", math.nan) for name in class_names])
        for column, scores in placed
        if any(f"{column.metric}-{name}" in scores for name in class_names)
    ]
    if columns:
        marked = unseen if any("mIoU-unbase" in scores for scores in results.values()) else ()
        labels = [name + " (unseen)" * (c in marked) for c, name in enumerate(class_names)]
        label_width = max(len(label) for label in [*labels, "part"])
        lines += ["", f"{'part':<{label_width}}" + "".join(f"  {heading:>8}" for heading, _ in columns)]
        for c, label in enumerate(labels):
            cells = (f"  {_number(values[c]):>{max(len(heading), 8)}}" for heading, values in columns)
            lines.append(f"{label:<{label_width}}" + "".join(cells))
    return "\n".join(lines)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
