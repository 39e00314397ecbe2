"""Which way up the labels of a data set were made: EXIF orientation, decided once for the whole set."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from wps_sam.masks import EXIF_EXCHANGES_SIDES, PixelGrid, stored_size

logger = logging.getLogger(__name__)

ExifRule = Literal["auto", "stored", "upright"]
EXIF_RULES: tuple[ExifRule, ...] = ("auto", "stored", "upright")


def settle_orientation(records: Sequence[dict[str, Any]], rule: ExifRule, where: str) -> None:
    """Gives records ``exif``, "stored" or "upright": the pixel grid that their labels belong to.

    With "auto" the sizes decide: a picture that lies on its side has the size of its annotations either as stored or
    turned. What most of those say goes for the pictures that tell nothing, square ones and such as are mirrored or
    stand on their heads. Records of pictures without an orientation keep no ``exif``.

    Args:
        records: with file_name, height and width.
        rule: of the data set's description.
        where: names the data set in warnings.
    """
    if rule != "auto":
        for record in records:
            record["exif"] = rule
        return
    told: dict[PixelGrid, int] = {"stored": 0, "upright": 0}
    silent = []
    for record in records:
        try:
            height, width, orientation = stored_size(record["file_name"])
        except ValueError:  # Told by whoever reads the picture.
            continue
        expected = (record["height"], record["width"])
        if orientation == 1:
            continue
        if orientation < EXIF_EXCHANGES_SIDES or height == width:
            silent.append(record)
        elif expected in ((height, width), (width, height)):
            record["exif"] = "stored" if expected == (height, width) else "upright"
            told[record["exif"]] += 1
    grid: PixelGrid = "upright" if told["upright"] > told["stored"] else "stored"
    for record in silent:
        record["exif"] = grid
    _report(len(silent), told, grid, where)


def pixel_grid_of(records: Collection[Mapping[str, Any]]) -> PixelGrid | None:
    """The pixel grid on which most labels were made that tell: whoever learned from them should see pictures so.

    "stored" only if most pictures have an orientation that the training did not follow: a few among many that have none
    say nothing of a camera's pictures. None where nothing tells.
    """
    grids = Counter(record.get("exif") for record in records)
    if 2 * grids["stored"] > len(records):
        return "stored"
    return "upright" if grids["upright"] else None


def _report(num_silent: int, told: dict[PixelGrid, int], grid: PixelGrid, where: str) -> None:
    counts = f"{told['stored']} pictures with an EXIF orientation have the size of their labels as stored, "
    counts += f"{told['upright']} turned upright"
    if all(told.values()):
        logger.warning("%s: %s; each is read so", where, counts)
    if num_silent and any(told.values()):
        say = logger.warning if all(told.values()) else logger.info
        say(
            "%s: %s; so the labels of %d more, whose size does not tell, are taken as %s",
            where,
            counts,
            num_silent,
            grid,
        )
    elif num_silent:
        logger.warning(
            "%s: %d pictures have an EXIF orientation, and no size tells whether their labels were made on the stored "
            "pixels or on the picture turned upright; they are taken as stored. Look with tools/visualize_data.py, and "
            "write exif: upright into the description if they lie elsewhere",
            *(where, num_silent),
        )
