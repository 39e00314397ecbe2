"""An exported model at work with ONNX Runtime and NumPy, without PyTorch.

Needs of this project no more than ``prediction`` and ``masks``, and none of them imports PyTorch; nor does
``import wps_sam``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from .masks import PixelGrid, mask_to_box
from .prediction import PartPrediction
from .prediction.overlap import parts_to_show
from .prediction.pictures import ImageLike, to_rgb, working_size

if TYPE_CHECKING:
    import onnxruntime

# Under this name the metadata of a file say what it was made of, as JSON. A file of another version is refused.
METADATA_KEY = "wps_sam"
VERSION = 1
# As wps_sam.inference.merge has them, which needs PyTorch.
LEAST_OF_PIXEL = 1e-6
# Below 0, the rule of the evaluation says what is a part.
BY_THE_RULE = -1.0


class Place(NamedTuple):
    """Where a picture lies in its square of ``side`` pixels, all in pixels."""

    side: int
    height: int
    width: int
    top: int
    left: int


class OnnxPartPredictor:
    """Finds and names the parts in pictures, as :class:`wps_sam.PartPredictor` does, with a file of ``wps-sam export``.

    Args:
        path: the .onnx file.
        confidence: parts with a lower score (0 to 1) are left out and no others; None for the rule of the evaluation.
        providers: ONNX Runtime's execution providers, the first that works is taken.
        options: ONNX Runtime's SessionOptions, such as the number of threads; None for its own choice.

    Attributes:
        class_names: the C names that the model knows.
        about: all that the file says of itself, see docs/export.md.

    Raises:
        ValueError: the file is missing, damaged, or was not made by ``wps-sam export``.
        ImportError: ONNX Runtime is not installed.

    Example::

        parts = OnnxPartPredictor("model.onnx")("dog.jpg")
        print(parts.names, parts.scores, parts.boxes, parts.part_map)
    """

    def __init__(
        self,
        path: str | Path,
        *,
        confidence: float | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        options: onnxruntime.SessionOptions | None = None,
    ) -> None:
        if confidence is not None and not 0 <= confidence <= 1:
            raise ValueError(f"confidence: expected a number from 0 to 1, got {confidence!r}")
        self.confidence = confidence
        self.session = _open(path, providers, options)
        self.about = read_about(path, self.session.get_modelmeta().custom_metadata_map)
        self.class_names = tuple(self.about["class_names"])
        self.exif: PixelGrid = self.about["exif"]
        self._outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, image: ImageLike) -> PartPrediction:
        """The parts of one picture: a file's path, a PIL image, or an array [H, W, 3], RGB.

        Raises:
            ValueError: as of :func:`wps_sam.prediction.pictures.to_rgb`.
        """
        rgb, file_name = to_rgb(image, "picture 0", self.exif)
        square, place = self._to_square(rgb)
        confidence = BY_THE_RULE if self.confidence is None else self.confidence
        given = {
            "image": square,
            "size": np.array([place.height, place.width], dtype=np.int64),
            "confidence": np.array([confidence], dtype=np.float32),
        }
        found = dict(zip(self._outputs, self.session.run(self._outputs, given)))
        height, width = working_size(*rgb.shape[:2])
        count = int((found["scores"] > 0).sum())
        scores, classes = found["scores"][:count], found["classes"][:count]
        pixels = None
        if "pixel_logits" in found:
            pixels = _softmax(np.stack([_enlarge(cells, place, height, width) for cells in found["pixel_logits"]]))
        masks, part_map = self._merge(found["mask_logits"][:count], scores, classes, pixels, place, (height, width))
        kept = parts_to_show(masks, scores, classes)
        return PartPrediction(
            image=rgb,
            class_names=self.class_names,
            classes=classes[kept],
            scores=scores[kept],
            coarse_masks=masks[kept],
            coarse_map=part_map,
            coarse_boxes=np.array([mask_to_box(mask) for mask in masks[kept]], dtype=np.float32).reshape(-1, 4),
            file_name=file_name,
        )

    def _to_square(self, rgb: np.ndarray) -> tuple[np.ndarray, Place]:
        """The input uint8 [1, 3, S, S] of a picture [H, W, 3], and where it lies in it."""
        side = int(self.about["image_size"])
        height, width = rgb.shape[:2]
        scale = side / max(height, width)
        height, width = (max(1, int(length * scale + 0.5)) for length in (height, width))
        resized = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))
        top, left = ((side - height) // 2, (side - width) // 2) if self.about["padding"] == "center" else (0, 0)
        square = np.zeros((1, 3, side, side), dtype=np.uint8)
        square[0, :, top : top + height, left : left + width] = resized.transpose(2, 0, 1)
        return square, Place(side, height, width, top, left)

    def _merge(
        self,
        mask_logits: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        pixels: np.ndarray | None,
        place: Place,
        size: tuple[int, int],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Masks bool [K, h, w] and the part map int64 [h, w], as wps_sam.inference.merge.SemanticMerge makes them."""
        masks = np.zeros((len(scores), *size), dtype=bool)
        best = np.zeros(size, dtype=np.float32)
        part_map = np.full(size, len(self.class_names), dtype=np.int64)
        for mask, cells, score, label in zip(masks, mask_logits, scores, classes):
            logits = _enlarge(cells, place, *size)
            # Where a probability reaches one half.
            np.greater_equal(logits, 0, out=mask)
            found = score / (1 + np.exp(-logits[mask]))
            if pixels is not None:
                found *= np.maximum(pixels[label][mask], LEAST_OF_PIXEL)
            better = np.zeros_like(mask)
            better[mask] = found > best[mask]
            best[better] = found[better[mask]]
            part_map[better] = label
        if self.about["merge"] == "part_map":
            assert pixels is not None, "a model with a dense head"
            part_map = pixels.argmax(axis=0)
        return masks, part_map


def read_about(path: str | Path, metadata: dict[str, str]) -> dict[str, Any]:
    """What an exported file says of itself.

    Args:
        path: of the file, for what is said of it.
        metadata: of the file.

    Raises:
        ValueError: it is no export of this project, or one of another version.
    """
    if METADATA_KEY not in metadata:
        raise ValueError(f"{path}: no model of wps-sam export: its metadata have no {METADATA_KEY!r}")
    about = json.loads(metadata[METADATA_KEY])
    if about.get("version") != VERSION:
        raise ValueError(f"{path}: an export of version {about.get('version')}, expected {VERSION}; export it anew")
    return about


def _open(path: str | Path, providers: Sequence[str], options: Any) -> onnxruntime.InferenceSession:
    if not Path(path).is_file():
        raise ValueError(f"model {path}: the file does not exist")
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("an exported model needs ONNX Runtime: pip install onnxruntime") from error
    unknown = set(providers) - set(onnxruntime.get_available_providers())
    if unknown:
        raise ValueError(
            f"providers: this ONNX Runtime has {', '.join(onnxruntime.get_available_providers())}, not "
            f"{', '.join(sorted(unknown))}"
        )
    if options is None:
        options = onnxruntime.SessionOptions()
        # Errors alone: it warns of every constant that it does not fold.
        options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    # Its exceptions have no class of their own in common.
    except Exception as error:
        raise ValueError(f"model {path}: ONNX Runtime cannot read it: {error}") from error


def _enlarge(cells: np.ndarray, place: Place, height: int, width: int) -> np.ndarray:
    """Cells [S/4, S/4] of a square to float32 [height, width] of the picture, as wps_sam.inference.merge.resize_mask.

    OpenCV's INTER_LINEAR is bilinear between centres of pixels, as PyTorch's without ``align_corners``.
    """
    square = cv2.resize(cells, (place.side, place.side), interpolation=cv2.INTER_LINEAR)
    inside = square[place.top : place.top + place.height, place.left : place.left + place.width]
    return cv2.resize(inside, (width, height), interpolation=cv2.INTER_LINEAR)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the first axis; writes into ``logits``."""
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    return logits
