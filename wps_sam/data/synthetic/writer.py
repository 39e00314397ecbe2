"""Generated pictures on disk, in PartImageNet's Seg layout."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from wps_sam.data.synthetic.objects import CATEGORIES, SUPERCATEGORIES
from wps_sam.data.synthetic.scene import Instance, generate
from wps_sam.masks import mask_to_box, mask_to_rle
from wps_sam.outputs import write_output

import cv2
import numpy as np

logger = logging.getLogger(__name__)

# Room for the pictures of one split of one seed.
_SEED_STRIDE = 1_000_000


def write_dataset(
    root: str | Path, num_train: int, num_val: int, size: int = 256, seed: int = 0, variety: float = 1.0
) -> None:
    """Writes a data set in PartImageNet's Seg layout below the folder ``root``.

    ``images/{split}/NAME.JPEG``; ``annotations/{split}/NAME.png`` (part map, background = C), ``NAME.json``
    (imgHeight, imgWidth) and ``{split}.json`` (COCO); ``annotations/{split}_whole/NAME.png`` (supercategory of the
    object, background = their number). NAME is the supercategory of the first object, "_", and a number.
    Equal arguments give equal bytes.

    Args:
        root: created if missing; files of the same names are overwritten.
        num_train, num_val: pictures of each split, at least 1.
        size: side of the pictures in pixels.
        seed: other seeds give other pictures; training and validation never share one.
        variety: as for :func:`generate`.

    Raises:
        ValueError: a number is out of range.
    """
    for name, count in (("num_train", num_train), ("num_val", num_val)):
        if not 1 <= count <= _SEED_STRIDE:
            raise ValueError(f"{name}: expected 1..{_SEED_STRIDE}, got {count}")
    if seed < 0:
        raise ValueError(f"seed: expected at least 0, got {seed}")
    for part, (split, count) in enumerate((("train", num_train), ("val", num_val))):
        _write_split(Path(root), split, (2 * seed + part) * _SEED_STRIDE, count, size, variety)
        logger.info("%s: %d pictures written to %s", split, count, root)


def _write_split(root: Path, split: str, first_seed: int, count: int, size: int, variety: float) -> None:
    image_dir, label_dir = root / "images" / split, root / "annotations" / split
    whole_dir = root / "annotations" / f"{split}_whole"
    for folder in (image_dir, label_dir, whole_dir):
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        picture = generate(first_seed + number, size, variety)
        name = f"{SUPERCATEGORIES[picture.objects[0]].lower()}_{number:06d}"
        _write_image(image_dir / f"{name}.JPEG", picture.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        _write_image(label_dir / f"{name}.png", picture.part_map.astype(np.uint8), [])
        whole = np.full((size, size), len(SUPERCATEGORIES), np.uint8)
        for instance in picture.instances:
            whole[instance.mask] = picture.objects[instance.object_id]
        _write_image(whole_dir / f"{name}.png", whole, [])
        size_json = json.dumps({"imgHeight": size, "imgWidth": size}).encode()
        write_output(label_dir / f"{name}.json", size_json, durable=False)
        images.append({"id": number + 1, "file_name": f"{name}.JPEG", "height": size, "width": size})
        for instance in picture.instances:
            annotations.append(_annotation(len(annotations) + 1, number + 1, instance))
    categories = [{"id": i, "name": f"{s} {p}", "supercategory": s} for i, (s, p) in enumerate(CATEGORIES)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    write_output(label_dir / f"{split}.json", json.dumps(coco, separators=(",", ":")).encode())


def _annotation(number: int, image_number: int, instance: Instance) -> dict[str, Any]:
    x0, y0, x1, y1 = mask_to_box(instance.mask)
    return {
        "id": number,
        "image_id": image_number,
        "category_id": instance.category_id,
        "segmentation": _segmentation(instance.mask),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(instance.mask.sum()),
        "iscrowd": 0,
    }


def _write_image(path: Path, pixels: np.ndarray, options: list[int]) -> None:
    # cv2.imwrite picks the format by suffix and returns False instead of raising.
    done, data = cv2.imencode(".jpg" if path.suffix == ".JPEG" else path.suffix, pixels, options)
    if not done:
        raise ValueError(f"{path}: the picture could not be encoded, array {pixels.shape} {pixels.dtype}")
    write_output(path, data.tobytes(), durable=False)


def _segmentation(mask: np.ndarray) -> list[list[float]] | dict[str, Any]:
    """Polygons along the pixels' outer edges; run lengths for a mask with holes, which polygons cannot say."""
    # Contours run through pixel centres. On a four times finer grid they lie an eighth of a pixel inside the edge.
    x0, y0, x1, y1 = (int(v) for v in mask_to_box(mask))
    fine = mask[y0:y1, x0:x1].repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if (hierarchy[0, :, 3] >= 0).any():
        return mask_to_rle(mask)
    # Tolerance in quarters of a pixel: below 2 the rasterised polygon is still exactly the mask.
    outlines = [cv2.approxPolyDP(c, 1.5, True) for c in contours]
    return [((c[:, 0] + 0.5) / 4 + (x0, y0)).reshape(-1).tolist() for c in outlines]
