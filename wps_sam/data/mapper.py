"""One data-set record to one model input; labels move with the picture, and no more of them than training may see."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from wps_sam.data.weak_labels import LabelType, PointRule, label_kind, part_mask, part_point, usable_box
from wps_sam.encoders import encoder_class
from wps_sam.masks import mask_to_box, read_picture, record_size
from wps_sam.structures import UNKNOWN, LabelKind

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances

# Of a record, to the model and the evaluators.
_PASSED_ON = ("file_name", "image_id", "category_id")

# Which of the stored views a picture is, by whether it is mirrored.
VIEW_OF = {False: "original", True: "flipped"}


class FeatureReader(Protocol):
    """Where features of pictures are stored, such as :class:`wps_sam.data.feature_store.FeatureStoreReader`."""

    def read(self, record: Mapping[str, Any], view: str) -> Mapping[str, torch.Tensor]:
        """The features of a record's picture, by name."""

    def contents(self) -> Mapping[str, str]:
        """The XXH3 of each picture, by its path."""


class RandomCrop(T.RandomCrop):
    """Detectron2's RandomCrop, which may round a thin picture's crop to no pixel at all; never here."""

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        height, width = super().get_crop_size(image_size)
        return max(1, height), max(1, width)


def random_view(number: int) -> str:
    """Name of one of the fixed crops of a picture, INPUT.RANDOM_VIEWS."""
    return f"random_{number}"


@dataclass(frozen=True)
class RandomViews:
    """A fixed number of crops of every picture: the same ones whoever asks, so that their features can be stored.

    Args:
        augmentations: which draw from numpy's random numbers, the resize last.
        count: crops of a picture.
        only: the number of the one that is always taken; None: any, and as often as each of them none.
    """

    augmentations: Sequence[T.Augmentation]
    count: int
    only: int | None = None

    def draw(self) -> int | None:
        """The number of a crop, or None for the whole picture."""
        number = np.random.randint(self.count + 1) if self.only is None else self.only
        return number if number < self.count else None

    def apply(self, number: int, record: Mapping[str, Any], aug_input: T.AugInput) -> T.TransformList:
        """Takes crop ``number`` of the record's picture."""
        digest = hashlib.sha256(f"{record['image_id']}/{number}".encode()).digest()
        state = np.random.get_state()
        np.random.seed(int.from_bytes(digest[:4], "little"))
        try:
            return T.AugmentationList(self.augmentations)(aug_input)
        finally:
            np.random.set_state(state)


def is_mirrored(transforms: T.TransformList) -> bool:
    """Whether left and right have changed places."""
    return sum(isinstance(t, T.HFlipTransform) for t in transforms.transforms) % 2 == 1


def build_augmentations(cfg: CfgNode, is_train: bool, crop: bool = True) -> list[T.Augmentation]:
    """What ``cfg`` does to a picture: in training INPUT.CROP and INPUT.RANDOM_FLIP, then the encoder's resize."""
    augmentations: list[T.Augmentation] = []
    if is_train:
        if cfg.INPUT.CROP.ENABLED and crop:
            augmentations.append(RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        if cfg.INPUT.RANDOM_FLIP == "horizontal":
            augmentations.append(T.RandomFlip())
    return [*augmentations, encoder_class(cfg).spec_of(cfg).resize]


class _UnreadInput(T.AugInput):
    """Stands for a picture of which only the size is needed: draws the same transforms, and moves no pixel."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(np.broadcast_to(np.uint8(0), (height, width, 3)))

    def transform(self, tfm: T.Transform) -> None:
        if isinstance(tfm, T.ResizeTransform):
            self.image = np.broadcast_to(np.uint8(0), (tfm.new_h, tfm.new_w, 3))
        elif isinstance(tfm, T.CropTransform):
            self.image = np.broadcast_to(np.uint8(0), (tfm.h, tfm.w, 3))


@dataclass(frozen=True)
class _Label:
    """One label in the augmented picture: a box [4] for a box or a mask, a point [2], a mask bool [h, w]."""

    category_id: int
    kind: LabelKind
    box: np.ndarray | None = None
    point: np.ndarray | None = None
    mask: np.ndarray | None = None


class PartDatasetMapper:
    """Reads a record's picture, augments it and, in training, attaches its labels.

    Args:
        is_train: whether labels are attached.
        augmentations: applied in turn to the picture; labels follow them exactly.
        label_type: WEAK_LABELS.TYPE, what the model is allowed to see of an annotation.
        point_rule, seed: how a point is chosen, see :func:`wps_sam.data.weak_labels.part_point`.
        flip_map: class to class in a mirrored picture, int [C], where classes are sided ("dog's left ear").
        features: where features are read; None if the model is to make them. Then ``augmentations`` are no more than
            a flip and the resize.
        random_views: crops that are taken, too.
        pixels: whether pictures are read although there are ``features``.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation],
        label_type: LabelType = "box",
        point_rule: PointRule = "box_center",
        seed: int = 0,
        flip_map: Sequence[int] | None = None,
        features: FeatureReader | None = None,
        random_views: RandomViews | None = None,
        pixels: bool = True,
    ) -> None:
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.label_type = label_type
        self.point_rule = point_rule
        self.seed = seed
        self.flip_map = flip_map
        self.features = features
        self.random_views = random_views
        self.pixels = pixels or features is None

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True, dataset_name: str | None = None) -> dict[str, Any]:
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train, crop=not cfg.INPUT.RANDOM_VIEWS),
            "random_views": (
                RandomViews(build_augmentations(cfg, is_train), cfg.INPUT.RANDOM_VIEWS)
                if is_train and cfg.INPUT.RANDOM_VIEWS
                else None
            ),
            "label_type": cfg.WEAK_LABELS.TYPE,
            "point_rule": cfg.WEAK_LABELS.POINT,
            "seed": cfg.WEAK_LABELS.SEED,
            "flip_map": MetadataCatalog.get(dataset_name).get("flip_map") if dataset_name else None,
        }

    def __call__(self, dataset_dict: Mapping[str, Any]) -> dict[str, Any]:
        """One model input.

        Returns:
            image: uint8 tensor [3, h, w], RGB, after augmentation, or its size image_size (h, w) where the pixels are
            not needed; the stored features of it by name where there are any; file_name, image_id; height, width: of
            the original picture; category_id if the record asks for one object's parts only. In training also
            instances: Instances of size (h, w) with gt_classes int64 [M], gt_kinds int64 [M] and, if a label of their
            kind is possible, gt_boxes Boxes [M, 4], xyxy, gt_points float32 [M, 2], xy, pixel centres at integers,
            gt_masks BitMasks [M, h, w]; rows of another kind are zeros. tags: int64 [T], classes that the record says
            are there (with label type "as_annotated"). part_map: int64 [h, w], of
            records with a "teacher_map", which is a PNG. Parts without a usable label, outside the crop, or marked as
            crowd are left out; M may be 0.

        Raises:
            ValueError: names the picture, which is missing, damaged or of another size than the record says, the
                annotation whose mask is malformed, if it is needed, or the damaged features.
        """
        height, width = record_size(dataset_dict)
        if self.pixels:
            aug_input = T.AugInput(read_picture(dataset_dict))
        else:
            aug_input = _UnreadInput(height, width)
        number = None if self.random_views is None else self.random_views.draw()
        if self.random_views is None or number is None:
            transforms = self.augmentations(aug_input)
            view = VIEW_OF[is_mirrored(transforms)]
        else:
            transforms, view = self.random_views.apply(number, dataset_dict, aug_input), random_view(number)
        size: tuple[int, int] = aug_input.image.shape[:2]
        output = {
            **{key: dataset_dict[key] for key in _PASSED_ON if key in dataset_dict},
            **{"height": height, "width": width},
        }
        if self.pixels:
            output["image"] = torch.from_numpy(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))
        else:
            output["image_size"] = size
        if self.features is not None:
            output.update(self.features.read(dataset_dict, view))
        if self.is_train:
            # Crowd regions are no single part, so no label of theirs stands for one.
            parts = [a for a in dataset_dict["annotations"] if not a.get("iscrowd", 0)]
            try:
                moved = [self._moved(a, height, width, transforms, size) for a in parts]
            except ValueError as error:
                raise ValueError(f"{dataset_dict['file_name']}: {error}") from error
            output["instances"] = self._instances([label for label in moved if label is not None], size)
            if self.label_type == "as_annotated":
                tags = [self._mirrored(c, transforms) for c in dataset_dict.get("tags", ())]
                output["tags"] = torch.tensor(tags, dtype=torch.int64)
                output["cropped"] = any(isinstance(t, T.CropTransform) for t in transforms.transforms)
            if "teacher_map" in dataset_dict:
                output["part_map"] = self._part_map(dataset_dict["teacher_map"], transforms)
        return output

    def _mirrored(self, category_id: int, transforms: T.TransformList) -> int:
        """The part's class, which in a mirrored picture is that of the other side."""
        if self.flip_map is not None and is_mirrored(transforms):
            return self.flip_map[category_id]
        return category_id

    def _part_map(self, png: np.ndarray, transforms: T.TransformList) -> torch.Tensor:
        part_map: Any = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
        if self.flip_map is not None and is_mirrored(transforms):
            swap = np.arange(UNKNOWN + 1, dtype=np.uint16)
            swap[: len(self.flip_map)] = self.flip_map
            part_map = swap[part_map]
        # Byte by byte: only those are resized by the nearest pixel's centre.
        low, high = (transforms.apply_segmentation(np.uint8(plane)) for plane in (part_map & 255, part_map >> 8))
        return torch.from_numpy(low.astype(np.int64) + 256 * high.astype(np.int64))

    def _moved(
        self, annotation: Mapping[str, Any], height: int, width: int, transforms: T.TransformList, size: tuple[int, int]
    ) -> _Label | None:
        """The label after the augmentation; None if there is none or it was cropped away.

        The loader has counted and logged the annotations that give none.
        """
        kind = label_kind(annotation, height, width, self.label_type)
        category_id = self._mirrored(annotation["category_id"], transforms)
        if kind == LabelKind.POINT:
            point = part_point(annotation, height, width, self.point_rule, self.seed)
            moved = None if point is None else _moved_point(point, transforms, size)
            return None if moved is None else _Label(category_id, kind, point=moved)
        if kind == LabelKind.TAG:
            return None
        stored = usable_box(annotation, height, width)
        box = None if stored is None else _moved_box(stored, transforms, size)
        if kind == LabelKind.MASK:
            pixels = part_mask(annotation, height, width).astype(np.uint8)
            mask = np.ascontiguousarray(transforms.apply_segmentation(pixels)).astype(bool)
            if mask.any():
                box = np.asarray(mask_to_box(mask)) if box is None else box
                return _Label(category_id, kind, box=box, mask=mask)
        # Also slivers whose mask covers no pixel, or none that is left.
        return None if box is None else _Label(category_id, LabelKind.BOX, box=box)

    def _instances(self, labels: Sequence[_Label], size: tuple[int, int]) -> Instances:
        instances = Instances(size)
        instances.gt_classes = torch.tensor([label.category_id for label in labels], dtype=torch.int64)
        instances.gt_kinds = torch.tensor([int(label.kind) for label in labels], dtype=torch.int64)
        # A model that is taught points must not see boxes.
        if self.label_type != "point":
            instances.gt_boxes = Boxes(torch.from_numpy(_rows([label.box for label in labels], 4)))
        if self.label_type in ("point", "as_annotated"):
            instances.gt_points = torch.from_numpy(_rows([label.point for label in labels], 2))
        if self.label_type in ("mask", "as_annotated"):
            masks = [np.zeros(size, bool) if label.mask is None else label.mask for label in labels]
            stacked = np.stack(masks) if masks else np.zeros((0, *size), bool)
            instances.gt_masks = BitMasks(torch.from_numpy(stacked))
        return instances


def _rows(values: Sequence[np.ndarray | None], columns: int) -> np.ndarray:
    """float32 [M, columns], zeros for None."""
    rows = [np.zeros(columns) if value is None else value for value in values]
    return np.asarray(rows, dtype=np.float32).reshape(-1, columns)


def _moved_box(
    box: tuple[float, float, float, float], transforms: T.TransformList, size: tuple[int, int]
) -> np.ndarray | None:
    """The box after the augmentation, clipped to the picture; None if it was cropped away."""
    moved = transforms.apply_box(np.asarray([box], dtype=np.float64))[0]
    moved = moved.clip(0, [size[1], size[0], size[1], size[0]])
    return moved if moved[0] < moved[2] and moved[1] < moved[3] else None


def _moved_point(point: tuple[float, float], transforms: T.TransformList, size: tuple[int, int]) -> np.ndarray | None:
    """The point after the augmentation; None if it was cropped away."""
    # Transforms move continuous coordinates, in which the centre of pixel 0 is 0.5.
    moved = transforms.apply_coords(np.asarray([point], dtype=np.float64) + 0.5)[0]
    inside = 0 <= moved[0] <= size[1] and 0 <= moved[1] <= size[0]
    return moved - 0.5 if inside else None
