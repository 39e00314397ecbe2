"""Masks, boxes, label maps and pictures as arrays: pure functions of files and numbers.

Coordinates are x to the right and y down, in pixels of the stored pixel grid. A box is (x0, y0, x1, y1)
with x1 and y1 exclusive, so that a one-pixel part has width 1.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

from wps_sam.picture_files import PictureError, decoding, open_picture

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

logger = logging.getLogger(__name__)

Polygons = Sequence[Sequence[float]]
Segmentation = Polygons | Mapping[str, Any]
# Which way up labels lie: on the pixels as stored, or on the picture turned as its EXIF tag says.
PixelGrid = Literal["stored", "upright"]

_EXIF_ORIENTATION = 0x0112
# From here on an orientation exchanges height and width.
EXIF_EXCHANGES_SIDES = 5
# Depths of files of 16 bits that this process has warned of.
_BITS_SAID: set[int] = set()
# Modes whose numbers are label ids as stored; any other mode would need a conversion that changes them.
_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


def valid_polygons(segmentation: Polygons, rule: Literal["strict", "wps_sam"] = "strict") -> list[list[float]]:
    """The polygons of one annotation that can be drawn; [] where the annotation has no usable mask.

    PartImageNet holds polygons with 0, 2 and 4 numbers. pycocotools takes a list whose first polygon has 4
    numbers for a box, silently, and raises on shorter ones, so they must go before it sees them.

    Args:
        segmentation: a list of polygons, each [x0, y0, x1, y1, ...] in pixels; a single one may be without its list.
        rule: "strict" keeps every polygon with an even count of at least 6 finite numbers. "wps_sam", the rule
            of the WPS-SAM authors' code, looks at the first polygon only: more than 4 numbers keeps the
            annotation with all its polygons, otherwise it is dropped whole.

    Raises:
        ValueError: ``segmentation`` is no list of lists of numbers, or the rule is unknown.
    """
    if rule not in ("strict", "wps_sam"):
        raise ValueError(f"rule: expected 'strict' or 'wps_sam', got {rule!r}")
    if not isinstance(segmentation, (list, tuple)):
        raise ValueError(f"segmentation: expected a list of polygons, got {type(segmentation).__name__}")
    if segmentation and all(isinstance(v, int | float) for v in segmentation):
        segmentation = [segmentation]
    for polygon in segmentation:
        if not isinstance(polygon, (list, tuple, np.ndarray)):
            raise ValueError(f"segmentation: expected polygons as lists of numbers, got {polygon!r:.80}")
    if rule == "wps_sam":
        kept = segmentation if segmentation and len(segmentation[0]) > 4 else []
    else:
        kept = [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0 and _is_finite(p)]
    return [list(polygon) for polygon in kept]


def _is_finite(polygon: Sequence[float]) -> bool:
    try:
        # One sum instead of a test per number: a data set holds tens of millions of them.
        return math.isfinite(sum(polygon))
    except TypeError as error:
        raise ValueError(f"segmentation: expected numbers in a polygon, got {polygon!r:.80}") from error
    except OverflowError:  # An integer that no float can hold.
        return False


def clip_far_polygons(polygons: Polygons, height: int, width: int) -> list[list[float]]:
    """The polygons without what lies more than the picture's size outside it; nearer ones are left as they are.

    pycocotools allocates by the largest coordinate, and one far outside ends the process.

    Args:
        polygons: of :func:`valid_polygons`.
        height, width: of the picture in pixels.
    """
    clipped = [_clip(polygon, (-width, -height), (2 * width, 2 * height)) for polygon in polygons]
    return [polygon for polygon in clipped if len(polygon) >= 6]


def _clip(polygon: Sequence[float], lowest: tuple[int, int], highest: tuple[int, int]) -> list[float]:
    """A polygon within a rectangle (Sutherland and Hodgman, 1974): cut at its four sides in turn."""
    if all(lowest[i % 2] <= v <= highest[i % 2] for i, v in enumerate(polygon)):
        return list(polygon)
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    for axis in (0, 1):
        for limit, sign in ((lowest[axis], 1), (highest[axis], -1)):
            kept: list[np.ndarray] = []
            depths = sign * (points[:, axis] - limit)
            for before, point, depth_before, depth in zip(np.roll(points, 1, 0), points, np.roll(depths, 1), depths):
                if (depth_before < 0) != (depth < 0):
                    share = depth_before / (depth_before - depth)
                    kept.append(before * (1 - share) + point * share)
                if depth >= 0:
                    kept.append(point)
            points = np.asarray(kept).reshape(-1, 2)
    # What is left of rounding; of numbers near the largest float that is much.
    return points.clip(lowest, highest).ravel().tolist()


def segmentation_to_mask(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """Rasterises one annotation: the union of its polygons, or the decoded run-length encoding.

    Args:
        segmentation: polygons (see :func:`valid_polygons`; broken ones are left out), or COCO's run-length
            encoding {"size": [height, width], "counts": list of int | str | bytes}.
        height, width: size of the picture in pixels.

    Returns:
        bool [height, width]; all False where no polygon is usable.

    Raises:
        ValueError: the encoding is malformed or belongs to a picture of another size.
    """
    if isinstance(segmentation, Mapping):
        return _rle_to_mask(segmentation, height, width)
    polygons = clip_far_polygons(valid_polygons(segmentation), height, width)
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    encoded = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return coco_mask.decode(encoded).astype(bool)


def _rle_to_mask(rle: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    runs = rle_runs(rle, height, width)
    # Column by column, outside and inside in turn, beginning outside.
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def rle_runs(rle: Mapping[str, Any], height: int, width: int) -> list[int]:
    """The run lengths of COCO's run-length encoding {"size", "counts"}, which fill a picture of height x width.

    Raises:
        ValueError: the encoding is malformed or belongs to a picture of another size.
    """
    if not {"size", "counts"} <= set(rle):
        raise ValueError(f"segmentation: expected an encoding with size and counts, got the keys {list(rle)!r:.80}")
    size, counts = rle["size"], rle["counts"]
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise ValueError(f"segmentation.size: expected [{height}, {width}], the picture's, got {size!r:.80}")
    if isinstance(counts, str | bytes):
        runs = _runs(counts.encode(errors="surrogatepass") if isinstance(counts, str) else counts)
    elif isinstance(counts, list | tuple) and all(isinstance(run, int) for run in counts):
        runs = list(counts)
    else:
        raise ValueError(f"segmentation.counts: expected a list of integers, str or bytes, got {counts!r:.80}")
    # pycocotools would not mind runs that do not fill the picture, and leave noise from memory in the rest.
    if sum(runs) != height * width or min(runs) < 0:
        raise ValueError(
            f"segmentation.counts: expected runs that add up to {height} * {width} = {height * width}, got {sum(runs)}"
        )
    return runs


def _runs(counts: bytes) -> list[int]:
    """The run lengths in COCO's compressed encoding.

    A number is written in groups of 5 bits, lowest first, one a byte (plus 48); bit 5 says that more follow and bit
    4 of the last one is the sign. From the fourth run on, the difference to the run before the last is stored.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for byte in counts:
        bits = byte - 48
        # 64 - 48 = 0x10 is the sign bit, 0x20 "more follow": a byte holds 6 bits, a run of any picture 7 bytes.
        if not 0 <= bits < 64 or shift > 35:
            raise ValueError(f"segmentation.counts: expected COCO's compressed encoding, got {counts!r:.80}")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value -= (1 << shift) if bits & 0x10 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return runs


def mask_to_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run-length encoding of a bool [H, W] mask, with ``counts`` as str, fit for JSON."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def mask_to_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The tight box (x0, y0, x1, y1) of a bool [H, W] mask, x1 and y1 exclusive; zeros for an empty mask."""
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def deepest_pixel(mask: np.ndarray) -> tuple[int, int]:
    """The pixel (x, y) of a bool [H, W] mask that is farthest from its outside; beyond the picture all is outside.

    Of several the uppermost, and of those the leftmost.

    Raises:
        ValueError: the mask is empty.
    """
    x0, y0, x1, y1 = map(int, mask_to_box(mask))
    if x0 == x1:
        raise ValueError(f"the deepest pixel of an empty mask {mask.shape} was asked for")
    # Around the box lies nothing but outside.
    padded = np.pad(mask[y0:y1, x0:x1].astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    # OpenCV's last bits change from call to call; squares of distances between pixels are whole numbers.
    y, x = divmod(int(np.rint(depth.astype(np.float64) ** 2).argmax()), x1 - x0)
    return x0 + x, y0 + y


def record_size(record: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of a record's stored pixel grid, in pixels.

    Data sets without a json know no sizes; then the header of the part PNG is read, and no pixel decoded.

    Raises:
        ValueError: names the PNG, which is missing or damaged, or the picture, whose record has neither.
    """
    if "height" in record and "width" in record:
        return record["height"], record["width"]
    if not record.get("sem_seg_file_name"):
        raise ValueError(f"{record['file_name']}: expected height and width, or a label map, in its record")
    with _open_label_png(record["sem_seg_file_name"]) as image:
        return image.height, image.width


def read_part_map(record: Mapping[str, Any], metadata: Any) -> np.ndarray:
    """The ground-truth part map of one picture at its original resolution.

    Read from the record's label PNG where it has one. Otherwise painted from the annotations' masks, largest
    first, so that a small part on a large one stays visible; the box of an annotation without a usable
    mask is then ignored where no mask covers it, because nobody knows which of its pixels are the part.

    Args:
        record: of the data set, with sem_seg_file_name if it has a PNG; without one, with height, width and
            annotations.
        metadata: of the data set: label_map (PNG value to class id; to ignore_label for a class that a
            training set must not show), ignore_label, and background_label if it has a background.

    Returns:
        int64 [height, width]: class ids 0..C-1, background_label (= C), or ignore_label.

    Raises:
        ValueError: names the PNG (missing, damaged, another size than the picture, or values that label_map
            lacks), or the picture and the annotation whose mask cannot be read, or that has neither mask nor box.
    """
    if record.get("sem_seg_file_name"):
        return _translated(record, record["sem_seg_file_name"], metadata.label_map, metadata.ignore_label)
    return _paint_annotations(record, metadata)


def read_label_png(file_name: str, record: Mapping[str, Any] | None = None) -> np.ndarray:
    """The numbers of a label PNG exactly as stored (8 or 16 bit, palette indices): int64 [H, W].

    Args:
        file_name: the PNG.
        record: of the picture whose size it must have.

    Raises:
        ValueError: the file is missing, damaged or of another size, or holds colours instead of labels.
    """
    with _open_label_png(file_name) as image:
        # Before any pixel is decoded: a file may claim to hold any number of them.
        if record is not None and (image.height, image.width) != record_size(record):
            raise PictureError(
                f"label map {file_name}: height and width are {(image.height, image.width)}, "
                f"but the annotation of {record['file_name']} says {record_size(record)}"
            )
        # int64 at once: a narrower cast would turn the 16-bit ignore value 65535 into the class 255.
        return np.asarray(image).astype(np.int64)


@contextmanager
def _open_label_png(file_name: str) -> Iterator[Image.Image]:
    """The opened file; what goes wrong with it inside the block becomes a ValueError that names it."""
    with decoding("label map", file_name), open_picture(file_name) as image:
        if image.mode not in _LABEL_MODES:
            raise ValueError(f"expected one channel of label ids, got mode {image.mode}")
        yield image


def _translated(
    record: Mapping[str, Any], file_name: str, label_map: Mapping[int, int], ignore_label: int
) -> np.ndarray:
    """A label PNG of a record's size with its values replaced as ``label_map`` says: int64 [height, width]."""
    stored = read_label_png(file_name, record)
    labels = np.full(stored.shape, ignore_label, dtype=np.int64)
    for value in np.unique(stored).tolist():
        if value in label_map:
            labels[stored == value] = label_map[value]
        elif value != ignore_label:
            raise ValueError(
                f"label map {file_name}: unknown value {value}; expected one of "
                f"{sorted(label_map)} or {ignore_label} (ignore)"
            )
    return labels


def read_object_map(record: Mapping[str, Any], metadata: Any) -> np.ndarray:
    """Which object each pixel is of, at original resolution, in OV-PARTS' data sets.

    Read from the record's object PNG (Pascal-Part-116), or painted from its object annotations in their order, of
    which later ones win (ADE20K-Part-234).

    Args:
        record: with obj_sem_seg_file_name, the PNG or "NA"; with "NA", obj_annotations in COCO's form.
        metadata: of the data set: obj_classes, the names of all objects, ignore_label and, where the PNG also has
            other values than the objects' ids, obj_label_map (PNG value to object id or ignore_label).

    Returns:
        int64 [height, width]: object ids 0..len(obj_classes)-1, ignore_label where there is no object.

    Raises:
        ValueError: names the PNG (missing, damaged, another size than the picture, or unknown values), or the
            picture and the annotation whose mask or object id is wrong.
    """
    num_objects, ignore_label = len(metadata.obj_classes), metadata.ignore_label
    file_name = record["obj_sem_seg_file_name"]
    if file_name != "NA":
        label_map = getattr(metadata, "obj_label_map", {i: i for i in range(num_objects)})
        return _translated(record, file_name, label_map, ignore_label)
    object_map = np.full(record_size(record), ignore_label, dtype=np.int64)
    for annotation in record["obj_annotations"]:
        if not 0 <= annotation["category_id"] < num_objects:
            raise ValueError(
                f"{record['file_name']}: annotation {annotation['id']}: category_id: expected an object "
                f"0..{num_objects - 1}, got {annotation['category_id']}"
            )
        object_map[annotation_mask(record, annotation)] = annotation["category_id"]
    return object_map


def read_predicted_objects(folder: str, record: Mapping[str, Any]) -> np.ndarray:
    """The object map that another model predicted for a record's picture, {its name}.png in ``folder``: int64 [H, W].

    Raises:
        ValueError: names the PNG, which is missing, damaged or of another size than the picture.
    """
    stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
    return read_label_png(os.path.join(folder, f"{stem}.png"), record)


def restrict_to_object(part_map: np.ndarray, object_map: np.ndarray, category_id: int, ignore_label: int) -> np.ndarray:
    """``part_map`` with ``ignore_label`` wherever ``object_map`` is not ``category_id``; all of them [H, W]."""
    return np.where(object_map == category_id, part_map, ignore_label)


def annotation_mask(record: Mapping[str, Any], annotation: Mapping[str, Any]) -> np.ndarray:
    """bool [H, W]: one annotation's mask at the resolution of its record.

    Raises:
        ValueError: names the picture and the annotation whose mask cannot be read.
    """
    try:
        return segmentation_to_mask(annotation["segmentation"], *record_size(record))
    except ValueError as error:
        raise ValueError(f"{record['file_name']}: annotation {annotation['id']}: {error}") from error


def _paint_annotations(record: Mapping[str, Any], metadata: Any) -> np.ndarray:
    height, width = record["height"], record["width"]
    # A set that knows no background does not know what the other pixels are.
    elsewhere = getattr(metadata, "background_label", metadata.ignore_label)
    part_map = np.full((height, width), elsewhere, dtype=np.int64)
    painted = []
    for annotation in record["annotations"]:
        if "segmentation" not in annotation:
            if "bbox" not in annotation:
                # Background in its place would count against whatever finds the part.
                raise ValueError(
                    f"{record['file_name']}: annotation {annotation['id']}: expected a mask or a box to paint the "
                    "part map from; a point or a tag does not say which pixels are the part"
                )
            x, y, box_width, box_height = annotation["bbox"]
            rows = slice(max(math.floor(y), 0), max(math.ceil(y + box_height), 0))
            columns = slice(max(math.floor(x), 0), max(math.ceil(x + box_width), 0))
            part_map[rows, columns] = metadata.ignore_label
            continue
        painted.append((annotation_mask(record, annotation), annotation["category_id"]))
    # Python's sort is stable: of two equally large parts the later annotation wins, on every machine.
    for mask, category in sorted(painted, key=lambda item: -int(item[0].sum())):
        part_map[mask] = category
    return part_map


def read_picture(record: Mapping[str, Any]) -> np.ndarray:
    """The picture of a data-set record in the pixel grid of its labels: :func:`read_rgb` with what the record says."""
    return read_rgb(record["file_name"], *record_size(record), exif=record.get("exif"))


def read_rgb(
    file_name: str,
    height: int | None = None,
    width: int | None = None,
    exif: PixelGrid | None = None,
) -> np.ndarray:
    """Decodes any picture to RGB. The one decoder of the project: two would disagree on CMYK and EXIF.

    Grey and CMYK files are converted; transparency is dropped. Of 16 bits the upper 8 are taken that the picture uses:
    one whose values end at 4095 has 12 bits.

    Args:
        file_name: the picture.
        height, width: of the annotations, in pixels.
        exif: whether the annotations belong to the stored pixel grid or to the picture turned "upright" as its EXIF tag
            says. None decides by the size: without one the picture is turned; with one, only if it has this size
            turned and not as stored.

    Returns:
        uint8 [H, W, 3], RGB in 0..255.

    Raises:
        ValueError: names the file, which is missing, damaged, or of another size than height x width.
    """
    with decoding("image", file_name), open_picture(file_name) as image:
        # First, as asking a PNG for its EXIF block may decode it.
        wide = _holds_wide_colours(image)
        orientation = _exif_orientation(image, file_name)
        expected = None if height is None or width is None else (height, width)
        turn = _must_turn(file_name, (image.height, image.width, orientation), expected, exif)
        return _turned(_to_rgb(image, file_name, wide), orientation if turn else 1)


def stored_size(file_name: str) -> tuple[int, int, int]:
    """Height and width in pixels as stored, and EXIF orientation 1..8 of a picture, from its header, read once.

    Raises:
        ValueError: names the file, which is missing or no picture.
    """
    with decoding("image", file_name):
        return _stored_size(file_name, os.stat(file_name).st_mtime_ns)


@cache
def _stored_size(file_name: str, mtime: int) -> tuple[int, int, int]:
    with open_picture(file_name) as image:
        if image.format == "PNG" and "exif" not in image.info:
            # Pillow would decode the whole picture to look behind its pixels.
            found = _late_exif(file_name)
            if found:
                image.info["exif"] = found
        return image.height, image.width, _exif_orientation(image, file_name, Image.Image.getexif)


def _late_exif(file_name: str) -> bytes | None:
    """The EXIF block of a PNG, wherever it stands. The format: length, name, content and checksum of every chunk."""
    with open(file_name, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"eXIf":
                return b"Exif\0\0" + file.read(length)
            file.seek(length + 4, os.SEEK_CUR)
    return None


def pil_to_rgb(image: Image.Image, exif: PixelGrid = "upright") -> np.ndarray:
    """What :func:`read_rgb` makes of a file, for a picture that Pillow has opened: uint8 [H, W, 3].

    Raises:
        ValueError: the picture is damaged or empty, or holds floating point numbers.
    """
    name = str(getattr(image, "filename", "")) or "without a file name"
    with decoding("image", name):
        wide = _holds_wide_colours(image)
        orientation = _exif_orientation(image, name) if exif == "upright" else 1
        pixels = _turned(_to_rgb(image, name, wide), orientation)
    if not pixels.size:
        raise ValueError(f"image {name}: expected pixels, got {image.width} x {image.height}")
    return pixels


def _must_turn(
    file_name: str,
    stored: tuple[int, int, int],
    expected: tuple[int, int] | None,
    exif: PixelGrid | None,
) -> bool:
    """Whether a picture, as :func:`stored_size` describes it, is to be turned; see :func:`read_rgb`."""
    *size, orientation = stored
    as_stored = (size[0], size[1])
    upright = as_stored[::-1] if orientation >= EXIF_EXCHANGES_SIDES else as_stored
    if expected is None:
        return exif != "stored"
    turn = exif == "upright" or (exif is None and as_stored != expected)
    if (upright if turn else as_stored) != expected:
        raise PictureError(
            f"image {file_name}: height and width are {as_stored} (EXIF orientation {orientation}), "
            f"but its annotation says {expected}" + (f", and its data set exif: {exif}" if exif else "")
        )
    return turn


def _exif_orientation(image: Image.Image, file_name: str, getexif: Callable[..., Any] | None = None) -> int:
    try:
        exif = getexif(image) if getexif else image.getexif()
        orientation = exif.get(_EXIF_ORIENTATION, 1)
    except Exception as error:  # A damaged block makes Pillow raise anything.
        logger.warning("image %s: its EXIF block is damaged (%s); taken as upright", file_name, error)
        return 1
    # Cameras also write 0 for "unknown".
    return orientation if orientation in range(2, 9) else 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """uint8 [H, W, 3] turned and mirrored as an EXIF orientation 1..8 asks."""
    # 5 to 8 are 1 to 4 with rows and columns exchanged.
    if orientation > 4:
        pixels, orientation = pixels.swapaxes(0, 1), {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
    rows = slice(None, None, -1 if orientation in (3, 4) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3) else 1)
    return np.ascontiguousarray(pixels[rows, columns])


def _holds_wide_colours(image: Image.Image) -> bool:
    """Whether an opened, not yet decoded file has colours of 16 bits, which Pillow would cut to their upper 8."""
    several = image.mode not in ("F", "L") and not image.mode.startswith("I")
    # OpenCV, which decodes those, knows the first page of a file only.
    several = several and image.tell() == 0
    return several and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _to_rgb(image: Image.Image, file_name: str, wide: bool) -> np.ndarray:
    """uint8 [H, W, 3] of an opened picture as stored; ``wide``: see :func:`_holds_wide_colours`."""
    if wide and os.path.isfile(file_name):
        flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        values = cv2.imdecode(np.fromfile(file_name, np.uint8), flags)
        if values is not None and values.dtype == np.uint16:
            return to_eight_bits(values[..., ::-1], file_name)
    image.load()
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16 bits at 255 and would make the whole picture white.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"expected 8 or 16 bits a channel, got values {values.min()}..{values.max()}")
        return np.repeat(to_eight_bits(values, file_name)[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("expected 8 or 16 bits a channel, got floating point numbers")
    return np.array(image.convert("RGB"))


def to_eight_bits(values: np.ndarray, file_name: str) -> np.ndarray:
    """0..65535 to 0..255: the upper 8 of the 8, 10, 12, 14 or 16 bits that the picture uses, as cameras have.

    Args:
        values: integers of any shape.
        file_name: of the picture, for a warning that it uses 10, 12 or 14.

    Returns:
        uint8 of the same shape.
    """
    bits = max(8, int(values.max()).bit_length())
    bits += bits % 2
    if bits < 16 and bits not in _BITS_SAID:
        _BITS_SAID.add(bits)
        logger.warning("image %s: a file of 16 bits that uses %d; such files are read by these alone", file_name, bits)
    return (values >> (bits - 8)).astype(np.uint8)
