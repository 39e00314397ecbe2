"""One data-set record to one model input; weak labels move with the picture, masks stay behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wps_sam.config import image_size, needs_pixels
from wps_sam.data.feature_store import FeatureReaders
from wps_sam.data.weak_labels import LabelType, PointRule, part_point, usable_box
from wps_sam.masks import read_rgb, record_size

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

# Of a record, to the model and the evaluators.
_PASSED_ON = ("file_name", "image_id", "category_id")

# Which of the cached views a picture is, by whether it is mirrored.
VIEW_OF = {False: "original", True: "flipped"}


class ResizeLongestSide(T.Augmentation):
    """Scales a picture to ``size`` pixels on its longest side, keeping its shape, as SAM does.

    Unlike Detectron2's ResizeShortestEdge(size, size) it leaves a thin picture at least one pixel thick.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        scale = self.size / max(height, width)
        new_height, new_width = (max(1, int(side * scale + 0.5)) for side in (height, width))
        return T.ResizeTransform(height, width, new_height, new_width)


class RandomCrop(T.RandomCrop):
    """Detectron2's RandomCrop, which may round a thin picture's crop to no pixel at all; never here."""

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        height, width = super().get_crop_size(image_size)
        return max(1, height), max(1, width)


def is_mirrored(transforms: T.TransformList) -> bool:
    """Whether left and right have changed places."""
    return sum(isinstance(t, T.HFlipTransform) for t in transforms.transforms) % 2 == 1


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """What ``cfg`` does to a picture: in training INPUT.CROP and INPUT.RANDOM_FLIP, then always the resize."""
    augmentations: list[T.Augmentation] = []
    if is_train:
        if cfg.INPUT.CROP.ENABLED:
            augmentations.append(RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        if cfg.INPUT.RANDOM_FLIP == "horizontal":
            augmentations.append(T.RandomFlip())
    return [*augmentations, ResizeLongestSide(image_size(cfg))]


class _UnreadInput(T.AugInput):
    """Stands for a picture of which only the size is needed: draws the same transforms, and moves no pixel."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(np.broadcast_to(np.uint8(0), (height, width, 3)))

    def transform(self, tfm: T.Transform) -> None:
        if isinstance(tfm, T.ResizeTransform):
            self.image = np.broadcast_to(np.uint8(0), (tfm.new_h, tfm.new_w, 3))


class PartDatasetMapper:
    """Reads a record's picture, augments it and, in training, attaches its weak labels.

    Args:
        is_train: whether labels are attached.
        augmentations: applied in turn to the picture; labels follow them exactly.
        label_type: "box" or "point", what the model is allowed to see.
        point_rule, seed: how a point is chosen, see :func:`wps_sam.data.weak_labels.part_point`.
        flip_map: class to class in a mirrored picture, int [C], where classes are sided ("dog's left ear").
        features: where image embeddings are read; None if the model is to make them. Then ``augmentations`` are no
            more than a flip and the resize.
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
        features: FeatureReaders | None = None,
        pixels: bool = True,
    ) -> None:
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.label_type = label_type
        self.point_rule = point_rule
        self.seed = seed
        self.flip_map = flip_map
        self.features = features
        self.pixels = pixels or features is None

    @classmethod
    def from_config(
        cls, cfg: CfgNode, is_train: bool = True, dataset_name: str | None = None
    ) -> dict[str, Any]:
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "label_type": cfg.WEAK_LABELS.TYPE,
            "point_rule": cfg.WEAK_LABELS.POINT,
            "seed": cfg.WEAK_LABELS.SEED,
            "flip_map": MetadataCatalog.get(dataset_name).get("flip_map") if dataset_name else None,
            "pixels": needs_pixels(cfg),
        }

    def __call__(self, dataset_dict: Mapping[str, Any]) -> dict[str, Any]:
        """One model input.

        Returns:
            image: uint8 tensor [3, h, w], RGB, after augmentation, or its size image_size (h, w) where the pixels are
            not needed; image_embedding [256, S/16, S/16] of it where there are features; file_name, image_id; height,
            width: of the original picture; category_id if the record asks for one object's parts only. In training also
            instances: Instances of size (h, w) with gt_classes int64 [M] and, by label type, gt_boxes Boxes [M, 4],
            xyxy, or gt_points float32 [M, 2], xy, pixel centres at integers.
            Parts without a usable label, outside the crop, or marked as crowd are left out; M may be 0.

        Raises:
            ValueError: names the picture, which is missing, damaged or of another size than the record says, the
                annotation whose mask is malformed, if its point is to be taken from it, or the damaged features.
        """
        height, width = record_size(dataset_dict)
        if self.pixels:
            aug_input = T.AugInput(read_rgb(dataset_dict["file_name"], height, width))
        else:
            aug_input = _UnreadInput(height, width)
        transforms = self.augmentations(aug_input)
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
            output["image_embedding"] = self.features.read(dataset_dict, VIEW_OF[is_mirrored(transforms)])
        if self.is_train:
            # Crowd regions are no single part, so neither their box nor their point stands for one.
            parts = [a for a in dataset_dict["annotations"] if not a.get("iscrowd", 0)]
            move = self._moved_box if self.label_type == "box" else self._moved_point
            try:
                classes = [self._class_of(a, transforms) for a in parts]
                labels = [(c, move(a, height, width, transforms, size)) for c, a in zip(classes, parts)]
            except ValueError as error:
                raise ValueError(f"{dataset_dict['file_name']}: {error}") from error
            output["instances"] = self._instances([(c, g) for c, g in labels if g is not None], size)
        return output

    def _class_of(self, annotation: Mapping[str, Any], transforms: T.TransformList) -> int:
        """The part's class, which in a mirrored picture is that of the other side."""
        if self.flip_map is not None and is_mirrored(transforms):
            return self.flip_map[annotation["category_id"]]
        return annotation["category_id"]

    def _moved_box(
        self,
        annotation: Mapping[str, Any],
        height: int,
        width: int,
        transforms: T.TransformList,
        size: tuple[int, int],
    ) -> np.ndarray | None:
        """The box after the augmentation, clipped to the picture; None if it is unusable or cropped away."""
        # The loader has counted and logged the unusable ones.
        box = usable_box(annotation, height, width)
        if box is None:
            return None
        moved = transforms.apply_box(np.asarray([box], dtype=np.float64))[0]
        moved = moved.clip(0, [size[1], size[0], size[1], size[0]])
        return moved if moved[0] < moved[2] and moved[1] < moved[3] else None

    def _moved_point(
        self,
        annotation: Mapping[str, Any],
        height: int,
        width: int,
        transforms: T.TransformList,
        size: tuple[int, int],
    ) -> np.ndarray | None:
        """The point after the augmentation; None if there is none or it was cropped away."""
        point = part_point(annotation, height, width, self.point_rule, self.seed)
        if point is None:
            return None
        # Transforms move continuous coordinates, in which the centre of pixel 0 is 0.5.
        moved = transforms.apply_coords(np.asarray([point], dtype=np.float64) + 0.5)[0]
        inside = 0 <= moved[0] < size[1] and 0 <= moved[1] < size[0]
        return moved - 0.5 if inside else None

    def _instances(self, labels: Sequence[tuple[int, np.ndarray]], size: tuple[int, int]) -> Instances:
        instances = Instances(size)
        instances.gt_classes = torch.tensor([category for category, _ in labels], dtype=torch.int64)
        columns = 4 if self.label_type == "box" else 2
        geometry = np.asarray([moved for _, moved in labels], dtype=np.float32).reshape(-1, columns)
        if self.label_type == "box":
            instances.gt_boxes = Boxes(torch.from_numpy(geometry))
        else:
            instances.gt_points = torch.from_numpy(geometry)
        return instances
