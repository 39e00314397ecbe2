"""The findings in data sets as one HTML page that needs nothing else: counts, sizes, oddities, pictures with labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from wps_sam.data import PartDatasetMapper
from wps_sam.data.check import Findings, Oddity, Record
from wps_sam.data.weak_labels import LabelType, PointRule
from wps_sam.html_page import html_page, image_element
from wps_sam.structures import LabelKind
from wps_sam.visualization import draw_model_input, part_colors

import numpy as np
from detectron2.data import transforms as T

# Sides of the pictures on the page, in pixels.
_SHORT_SIDE, _LONG_SIDE = 420, 640
# Limits of the sizes of boxes: side as a share of the picture's.
_LIMITS = (0, 0.02, 0.05, 0.1, 0.2, 0.4, 1)

_STYLE = """
tr:nth-child(even) td { background: #f5f5f5 }
td.none { color: #bbb }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border: 1px solid #0004 }
.bar { display: inline-block; height: .8em; background: #5b8db8; min-width: 1px; vertical-align: middle }
ul.odd { background: #fff6e0; border-left: 4px solid #e0a020; padding: .6em 1em .6em 2em } .where { color: #777 }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(400px, 1fr)); gap: 1em }
figure img { width: 100%; border: 1px solid #ccc }
"""


def data_page(
    found: Sequence[Findings],
    label_type: LabelType = "as_annotated",
    point_rule: PointRule = "box_center",
    num_pictures: int = 24,
) -> str:
    """The page of some data sets.

    Args:
        found: of :func:`wps_sam.data.check.check_datasets`.
        label_type: WEAK_LABELS.TYPE, what of its annotations a training is shown, and so what is drawn.
        point_rule: WEAK_LABELS.POINT.
        num_pictures: of each data set, spread over it.
    """
    parts = ["<h1>", " · ".join(escape(findings.name) for findings in found), "</h1>"]
    mapper = PartDatasetMapper(
        is_train=True,
        augmentations=[T.ResizeShortestEdge([_SHORT_SIDE, _SHORT_SIDE], max_size=_LONG_SIDE)],
        label_type=label_type,
        point_rule=point_rule,
    )
    for findings in found:
        parts += _section(findings, mapper, num_pictures)
    return html_page(found[0].name, "".join(parts), _STYLE)


def _section(findings: Findings, mapper: PartDatasetMapper, num_pictures: int) -> Iterator[str]:
    total = int(findings.labels.sum())
    yield f"<h2>{escape(findings.name)}</h2>"
    yield f"<p>{len(findings.records)} pictures, {findings.num_empty} of them without labels; {total} labels of "
    yield f"{len(findings.classes)} classes.</p>"
    if findings.oddities:
        yield f'<h3>Worth a look</h3><ul class="odd">{"".join(map(_oddity, findings.oddities))}</ul>'
    yield from _class_table(findings)
    yield from _size_table(findings)
    labelled = [r for r in findings.records if r["annotations"] or r.get("tags")]
    chosen = np.linspace(0, len(labelled) - 1, min(num_pictures, len(labelled))).round().astype(int)
    yield f"<h3>{len(chosen)} pictures, with what {mapper.label_type!r} shows a training of their labels</h3>"
    yield '<div class="sheet">'
    for k in chosen:
        yield _figure(labelled[k], findings.classes, mapper)
    yield "</div>"


def _oddity(oddity: Oddity) -> str:
    where = f' <span class="where">{escape("; ".join(oddity.examples))}</span>' if oddity.examples else ""
    return f"<li><b>{oddity.count}</b> {escape(oddity.what)}{':' if where else '.'}{where}</li>"


def _class_table(findings: Findings) -> Iterator[str]:
    kinds = (LabelKind.MASK, LabelKind.BOX, LabelKind.POINT, LabelKind.TAG)
    heads = ("class", "masks", "boxes", "points", "tags", "pictures", "of all", "middle box side")
    yield f"<h3>Classes</h3><table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"
    for c, (name, color) in enumerate(zip(findings.classes, part_colors(findings.classes).tolist())):
        swatch = f'<span class="swatch" style="background: rgb{tuple(color)}"></span>'
        yield f"<tr><td>{swatch}{escape(name)}</td>"
        for count in (*(findings.labels[c, kind] for kind in kinds), findings.pictures[c]):
            yield f"<td>{count}</td>" if count else '<td class="none">0</td>'
        sides = findings.box_sizes[c]
        yield f"<td>{100 * findings.pictures[c] / max(1, len(findings.records)):.0f}%</td>"
        yield f"<td>{100 * float(np.median(sides)):.0f}%</td></tr>" if sides else '<td class="none">-</td></tr>'
    yield "</table>"


def _size_table(findings: Findings) -> Iterator[str]:
    sides = np.concatenate([np.zeros(0), *map(np.asarray, findings.box_sizes)])
    if not len(sides):
        return
    counts, _ = np.histogram(sides, _LIMITS)
    yield "<h3>Boxes by their side, as a share of the picture's (root of the share of its area)</h3><table>"
    for low, high, count in zip(_LIMITS, _LIMITS[1:], counts.tolist()):
        bar = f'<span class="bar" style="width: {300 * count / max(counts):.0f}px"></span>'
        yield f"<tr><td>{100 * low:.0f} to {100 * high:.0f}%</td><td>{count}</td>"
        yield f'<td style="text-align: left">{bar}</td></tr>'
    yield "</table>"


def _figure(record: Record, classes: Sequence[str], mapper: PartDatasetMapper) -> str:
    name = escape(Path(record["file_name"]).name)
    try:
        model_input = mapper(record)
    except ValueError as error:
        return f"<figure><figcaption>{name}: {escape(str(error))}</figcaption></figure>"
    picture = image_element(draw_model_input(model_input, classes, legend=False), Path(record["file_name"]).name)
    said = [f"{len(model_input['instances'])} labels"]
    tags = [classes[c] for c in model_input["tags"].tolist()] if "tags" in model_input else []
    said += [f"tags: {escape(', '.join(tags))}"] * bool(tags)
    return f"<figure>{picture}<figcaption>{name}: {'; '.join(said)}</figcaption></figure>"
