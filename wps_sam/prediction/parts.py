"""The parts found in one picture, and what can be done with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import cv2
import numpy as np
from PIL import Image

from ..masks import mask_to_box, mask_to_rle
from ..user_errors import did_you_mean

if TYPE_CHECKING:
    import supervision

# So many names stand in a repr.
NAMES_SHOWN = 10


@dataclass(frozen=True, eq=False)
class PartInstance:
    """One part of one picture of H x W pixels.

    Attributes:
        name: of its class.
        class_id: of its class, 0..C-1.
        score: 0 to 1.
        box: float32 [4], x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
        mask: bool [H, W].
    """

    name: str
    class_id: int
    score: float
    box: np.ndarray
    mask: np.ndarray

    def __repr__(self) -> str:
        return f"PartInstance({self.name} {self.score:.2f} at {', '.join(f'{side:.0f}' for side in self.box)})"


@dataclass(frozen=True, eq=False, repr=False)
class PartPrediction:
    """The K parts found in one picture of H x W pixels, the surest first.

    ``parts[0]`` is one of them, a :class:`PartInstance`; ``parts[:3]``, ``parts[parts.scores > 0.5]`` and
    :meth:`filter` are some of them, again a prediction; ``for part in parts`` goes through them.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        class_names: the C names that the model knows.
        classes: int64 [K], index into ``class_names``.
        scores: float32 [K], 0 to 1.
        coarse_masks: bool [K, h, w], as they were predicted: h x w is H x W, or less for a large picture.
        coarse_map: int64 [h, w]: 0..C-1 the part of each pixel, C background.
        coarse_boxes: float32 [K, 4], x0, y0, x1, y1 in pixels of h x w, x1 and y1 exclusive.
        file_name: where the picture came from; "" for one given as an array.
    """

    image: np.ndarray
    class_names: tuple[str, ...]
    classes: np.ndarray
    scores: np.ndarray
    coarse_masks: np.ndarray
    coarse_map: np.ndarray
    coarse_boxes: np.ndarray
    file_name: str = ""

    @property
    def names(self) -> list[str]:
        """K part names."""
        return [self.class_names[c] for c in self.classes]

    @property
    def boxes(self) -> np.ndarray:
        """float32 [K, 4], x0, y0, x1, y1 in pixels of the picture, x1 and y1 exclusive."""
        (height, width), (h, w) = self.image.shape[:2], self.coarse_map.shape
        return (self.coarse_boxes * np.array([width / w, height / h] * 2, dtype=np.float32)).round()

    @cached_property
    def masks(self) -> np.ndarray:
        """bool [K, H, W]. Of a large picture they are made here, K * H * W bytes; ``parts[i].mask`` makes one alone."""
        if self.coarse_map.shape == self.image.shape[:2]:
            return self.coarse_masks
        masks = np.empty((len(self), *self.image.shape[:2]), dtype=bool)
        for k in range(len(self)):
            masks[k] = self._mask(k)
        return masks

    @cached_property
    def part_map(self) -> np.ndarray:
        """int64 [H, W]: 0..C-1 the part of each pixel, C background."""
        return enlarge_map(self.coarse_map, *self.image.shape[:2])

    def __len__(self) -> int:
        return len(self.classes)

    def __iter__(self) -> Iterator[PartInstance]:
        return (self[k] for k in range(len(self)))

    @overload
    def __getitem__(self, chosen: int) -> PartInstance: ...
    @overload
    def __getitem__(self, chosen: slice | Sequence[int] | np.ndarray) -> PartPrediction: ...
    def __getitem__(self, chosen: int | slice | Sequence[int] | np.ndarray) -> PartInstance | PartPrediction:
        """One part for a number; for a slice, bool [K] or a list of numbers, the prediction with these parts alone.

        In the part map, pixels of the parts that were left out become background.

        Raises:
            IndexError: there is no such part.
        """
        if isinstance(chosen, int | np.integer):
            k = range(len(self))[chosen]
            c = int(self.classes[k])
            return PartInstance(self.class_names[c], c, float(self.scores[k]), self.boxes[k], self._mask(k))
        kept = np.arange(len(self))[chosen]
        return replace(
            self,
            classes=self.classes[kept],
            scores=self.scores[kept],
            coarse_masks=self.coarse_masks[kept],
            coarse_boxes=self.coarse_boxes[kept],
            coarse_map=self._map_without(np.setdiff1d(np.arange(len(self)), kept)),
        )

    def _map_without(self, dropped: np.ndarray) -> np.ndarray:
        """The part map [h, w] without these parts: what they covered of their class and no other part of it does."""
        part_map = self.coarse_map.copy()
        for c in np.unique(self.classes[dropped]):
            others = np.setdiff1d(np.flatnonzero(self.classes == c), dropped)
            gone = self.coarse_masks[dropped[self.classes[dropped] == c]].any(axis=0) if len(others) else True
            part_map[(part_map == c) & gone & ~self.coarse_masks[others].any(axis=0)] = len(self.class_names)
        return part_map

    def _mask(self, k: int) -> np.ndarray:
        return enlarge_mask(self.coarse_masks[k], *self.image.shape[:2])

    def __repr__(self) -> str:
        shown = [f"{name} {score:.2f}" for name, score in zip(self.names[:NAMES_SHOWN], self.scores)]
        shown += ["..."] if len(self) > NAMES_SHOWN else []
        count = f"{len(self) or 'no'} part{'' if len(self) == 1 else 's'}"
        height, width = self.image.shape[:2]
        return f"PartPrediction({count}{': ' if shown else ''}{', '.join(shown)}; {width}x{height})"

    def filter(self, names: str | Iterable[str] | None = None, confidence: float = 0.0) -> PartPrediction:
        """The parts of these names whose score reaches ``confidence``; no names: of all.

        Raises:
            ValueError: the model knows no part of that name, or ``confidence`` is not 0 to 1.
        """
        if not 0 <= confidence <= 1:
            raise ValueError(f"confidence: expected a number from 0 to 1, got {confidence!r}")
        kept = self.scores >= confidence
        if names is not None:
            kept &= np.isin(self.classes, classes_of(names, self.class_names))
        return self[kept]

    def cutout(self, index: int) -> np.ndarray:
        """One part alone, cut to its box: uint8 [h, w, 4], RGB and an alpha of 255 in the part and 0 around it."""
        mask = self[index].mask
        x0, y0, x1, y1 = map(int, mask_to_box(mask))
        rows, columns = slice(y0, y1), slice(x0, x1)
        return np.dstack([self.image[rows, columns], np.uint8(255) * mask[rows, columns]])

    def draw(self) -> np.ndarray:
        """The picture, and beside it its part map with a legend: uint8 [H', W', 3], RGB."""
        # Drawing needs Detectron2 or the stand-in, and so PyTorch, which parts of other runtimes come without.
        from ..visualization import side_by_side

        titles = ("picture", "ground truth", "parts")
        return side_by_side(self.coarse_image(), None, self.coarse_map, self.class_names, titles=titles)

    def paint(self) -> np.ndarray:
        """The picture under its part map: uint8 [H', W', 3], RGB; of one size for all pictures of one size."""
        from ..visualization import draw_part_map

        return draw_part_map(self.coarse_image(), self.coarse_map, self.class_names, legend=False)

    def coarse_image(self) -> np.ndarray:
        """The picture at the size of what was predicted: uint8 [h, w, 3], RGB."""
        # A drawing is hardly larger than what was predicted: painting at full size would be in vain.
        size = self.coarse_map.shape[::-1]
        return np.asarray(Image.fromarray(self.image).resize(size, Image.Resampling.BICUBIC))

    def save(self, path: str | Path) -> None:
        """Writes :meth:`draw` to ``path``; the ending chooses the format (.png, .jpg ...).

        Raises:
            ValueError: the ending is of no known picture format.
        """
        Image.fromarray(self.draw()).save(path)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pixels, ready for JSON; masks in COCO's compressed run-length encoding."""
        return {
            "file_name": self.file_name,
            "height": int(self.image.shape[0]),
            "width": int(self.image.shape[1]),
            "parts": [
                {
                    "name": part.name,
                    "score": round(part.score, 6),
                    "box": [round(float(v), 2) for v in part.box],
                    "mask": mask_to_rle(part.mask),
                }
                for part in self
            ],
        }

    def to_supervision(self) -> supervision.Detections:
        """For Roboflow's supervision: boxes, masks, scores, class ids, and the names as ``data["class_name"]``.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise ImportError(
                'to_supervision needs the package supervision: pip install ".[supervision]" in the clone'
            ) from error
        return Detections(
            xyxy=self.boxes,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.classes,
            data={"class_name": np.array(self.names, dtype=str)},
        )


def classes_of(names: str | Iterable[str], class_names: Sequence[str]) -> list[int]:
    """The class ids of part names.

    Raises:
        ValueError: names one that the model does not know, and those that look like it.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in class_names:
            knows = "" if (meant := did_you_mean(name, class_names)) else f"; it knows {', '.join(class_names)}"
            raise ValueError(f"part {name!r}: the model knows no part of this name{meant}{knows}")
    return [class_names.index(name) for name in wanted]


def enlarge_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask bool [h, w] at H x W with smooth borders, without steps of the small pixels: bool [H, W]."""
    if mask.shape == (height, width):
        return mask
    enlarged = _shares(mask, height, width) >= 128
    if mask.any() and not enlarged.any():
        # Single pixels, whose centres lie between those of the large ones.
        enlarged = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    return enlarged


def enlarge_map(part_map: np.ndarray, height: int, width: int) -> np.ndarray:
    """A part map int64 [h, w] at H x W: every pixel has the label of which most lies around it. int64 [H, W]."""
    if part_map.shape == (height, width):
        return part_map
    labels = np.unique(part_map)
    enlarged = np.full((height, width), labels[0])
    largest = _shares(part_map == labels[0], height, width)
    for label in labels[1:]:
        share = _shares(part_map == label, height, width)
        np.copyto(enlarged, label, where=share > largest)
        np.maximum(largest, share, out=largest)
    return enlarged


def _shares(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """How much of each pixel of H x W a mask bool [h, w] covers, between the centres of its pixels: uint8 [H, W]."""
    return cv2.resize(255 * mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
