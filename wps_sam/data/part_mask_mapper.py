"""One data-set record to one model input with part and object maps, for models that are trained on masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wps_sam.data.mapper import RandomCrop, is_mirrored
from wps_sam.data.photometric import PhotometricDistortion
from wps_sam.masks import (
    read_object_map,
    read_part_map,
    read_picture,
    read_predicted_objects,
    record_size,
    restrict_to_object,
)

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Instances
from torch.nn import functional as F

# Ids and ignore values of label PNGs have 16 bits at most.
_NUM_LABELS = 1 << 16
# What pictures are padded with.
_GREY = 128


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Detectron2's resize of the shortest edge; in training then INPUT.CROP, RANDOM_FLIP and COLOR_AUG_SSD.

    The crop comes after the resize, as in OV-PARTS: a crop in pixels is then of the size that the model wants.
    """
    if not is_train:
        return [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)]
    augmentations: list[T.Augmentation] = [
        T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)
    ]
    if cfg.INPUT.CROP.ENABLED:
        augmentations.append(RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    if cfg.INPUT.RANDOM_FLIP == "horizontal":
        augmentations.append(T.RandomFlip())
    if cfg.INPUT.COLOR_AUG_SSD:
        augmentations.append(PhotometricDistortion())
    return augmentations


class PartMaskMapper:
    """Reads a record's picture, augments it and, in training, attaches its part map and its object map.

    Args:
        is_train: whether maps are attached.
        augmentations: applied in turn to the picture; maps follow it exactly.
        metadata: of the data set: thing_classes, label_map, ignore_label and, if the set has them,
            background_label; flip_map (class to its mirror image); obj_classes, with obj_map (object id
            to the label in the output) where these differ.
        pad_to: smaller pictures become squares of this side in training; 0: they do not.
        object_maps: whether the object map is attached at test time, too.
        object_predictions: the folder of maps that another model predicted, which are it for records of whole pictures.
    """

    @configurable
    def __init__(
        self,
        *,
        is_train: bool,
        augmentations: Sequence[T.Augmentation],
        metadata: Any,
        pad_to: int = 0,
        object_maps: bool = False,
        object_predictions: str = "",
    ) -> None:
        self.is_train = is_train
        self.pad_to = pad_to if is_train else 0
        self.object_maps = object_maps
        self.object_predictions = object_predictions
        self.augmentations = T.AugmentationList(augmentations)
        self.metadata = metadata
        classes = range(len(metadata.thing_classes))
        # The background is no class, so it becomes ignore: models differ in what they make of it.
        self._part_labels = self._lookup(dict(enumerate(classes)))
        self._mirrored_part_labels = self._lookup(dict(enumerate(getattr(metadata, "flip_map", classes))))
        objects = range(len(getattr(metadata, "obj_classes", ())))
        self._object_labels = self._lookup(getattr(metadata, "obj_map", dict(enumerate(objects))))

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool, dataset_name: str) -> dict[str, Any]:
        return {
            "is_train": is_train,
            "augmentations": build_augmentations(cfg, is_train),
            "metadata": MetadataCatalog.get(dataset_name),
            "pad_to": cfg.INPUT.PAD_TO,
            "object_maps": cfg.INPUT.OBJECT_MAPS_AT_TEST,
            "object_predictions": cfg.TEST.OBJECT_PREDICTIONS,
        }

    def __call__(self, dataset_dict: Mapping[str, Any]) -> dict[str, Any]:
        """One model input.

        Returns:
            image: uint8 tensor [3, h, w], RGB, after augmentation; file_name, image_id; height, width: of the
            original picture; category_id, if the record is of one object. In training also sem_seg: int64 [h, w],
            class ids, and ignore_label elsewhere (background, unseen classes, other objects than category_id);
            ignore_label; instances: Instances of size (h, w) with gt_classes int64 [M] and gt_masks BitMasks
            [M, h, w], one for each class in sem_seg, ascending. With an object map, obj_sem_seg and obj_instances
            say the same of objects. At test time, if asked for, ignore_label and obj_sem_seg; no part labels.

            sem_seg may be ignore everywhere, after a crop for example. OV-PARTS' code leaves such samples out, for
            which Detectron2 draws other pictures; here they stay, so that a step's pictures follow from its seed
            alone. Models that take ignore for background learn from them, too.

        Raises:
            ValueError: names the picture or map, which is missing, damaged, of another size than its record
                says, or holds unknown values.
        """
        height, width = record_size(dataset_dict)
        # With the size of the annotations, the picture comes in their pixel grid, whatever its EXIF tag says.
        aug_input = T.AugInput(read_picture(dataset_dict), sem_seg=self._labels_to_move(dataset_dict))
        transforms = self.augmentations(aug_input)
        output = {
            "image": self._padded(torch.from_numpy(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1))), _GREY),
            **{key: dataset_dict[key] for key in ("file_name", "image_id")},
            "height": height,
            "width": width,
        }
        if "category_id" in dataset_dict:
            output["category_id"] = dataset_dict["category_id"]
        if self.is_train:
            output.update(self._labels(dataset_dict, transforms, aug_input.sem_seg))
        elif self.object_maps:
            output.update(self._objects_at_test(dataset_dict, transforms))
        return output

    def _objects_at_test(self, record: Mapping[str, Any], transforms: T.TransformList) -> dict[str, Any]:
        """The map of the record's object; of a whole picture that of predicted objects, if there is a prediction."""
        ignore_label = self.metadata.ignore_label
        if "category_id" in record:
            object_map = read_object_map(record, self.metadata)
            object_map = restrict_to_object(object_map, object_map, record["category_id"], ignore_label)
        elif self.object_predictions:
            object_map = read_predicted_objects(self.object_predictions, record)
        else:
            return {}
        # What is no object's id, such as 255 of a prediction, is ignored.
        moved = self._object_labels[move_labels(object_map, transforms)]
        return {"obj_sem_seg": torch.from_numpy(moved), "ignore_label": ignore_label}

    def _padded(self, channels: torch.Tensor, value: int) -> torch.Tensor:
        """[..., h, w] with ``value`` at the right and below, up to the square."""
        height, width = channels.shape[-2:]
        return F.pad(channels, (0, max(self.pad_to - width, 0), 0, max(self.pad_to - height, 0)), value=value)

    def _labels_to_move(self, record: Mapping[str, Any]) -> np.ndarray | None:
        """Labels that augmentations have to see, uint8 [H, W, n]."""
        return None

    def _labels(
        self, record: Mapping[str, Any], transforms: T.TransformList, moved_labels: np.ndarray | None
    ) -> dict[str, Any]:
        """What training adds to a model input; ``moved_labels``: :meth:`_labels_to_move`, augmented."""
        ignore_label = self.metadata.ignore_label
        labels: dict[str, Any] = {"ignore_label": ignore_label}
        part_map = read_part_map(record, self.metadata)
        # Data sets of parts alone have no objects.
        if "obj_sem_seg_file_name" in record:
            object_map = read_object_map(record, self.metadata)
            if "category_id" in record:
                part_map, object_map = (
                    restrict_to_object(ids, object_map, record["category_id"], ignore_label)
                    for ids in (part_map, object_map)
                )
            moved = self._object_labels[move_labels(object_map, transforms)]
            labels["obj_sem_seg"] = self._padded(torch.from_numpy(moved), ignore_label)
            labels["obj_instances"] = _class_masks(labels["obj_sem_seg"].numpy(), ignore_label)
        part_labels = self._mirrored_part_labels if is_mirrored(transforms) else self._part_labels
        moved = part_labels[move_labels(part_map, transforms)]
        labels["sem_seg"] = self._padded(torch.from_numpy(moved), ignore_label)
        labels["instances"] = _class_masks(labels["sem_seg"].numpy(), ignore_label)
        return labels

    def _lookup(self, labels: Mapping[int, int]) -> np.ndarray:
        """int64 [65536]: the new label of every old one; ignore_label for those that ``labels`` lacks."""
        lookup = np.full(_NUM_LABELS, self.metadata.ignore_label, dtype=np.int64)
        lookup[list(labels)] = list(labels.values())
        return lookup


def move_labels(labels: np.ndarray, transforms: T.Transform) -> np.ndarray:
    """A label map after the transforms of its picture, by the nearest pixel.

    Detectron2 resizes bytes with Pillow, but wider integers with torch: not at all, or, made floating point, on a grid
    that is up to half a pixel off the picture's. So a label travels as its four bytes, one a channel.

    Args:
        labels: int [H, W], of non-negative ids.
        transforms: as they were applied to the picture.

    Returns:
        int64 [h, w].
    """
    return from_bytes(transforms.apply_segmentation(to_bytes(labels)))


def to_bytes(labels: np.ndarray) -> np.ndarray:
    """A label map int [H, W] as the four bytes of each label, uint8 [H, W, 4], which transforms move exactly."""
    return np.ascontiguousarray(labels, dtype="<u4")[..., None].view(np.uint8)


def from_bytes(channels: np.ndarray) -> np.ndarray:
    """Of :func:`to_bytes`: int64 [h, w]."""
    return np.ascontiguousarray(channels).view("<u4")[..., 0].astype(np.int64)


def _class_masks(labels: np.ndarray, ignore_label: int) -> Instances:
    """One instance for each label in int64 [h, w] but ignore_label, in ascending order."""
    classes = np.flatnonzero(np.bincount(labels.ravel()))
    classes = classes[classes != ignore_label]
    instances = Instances((labels.shape[0], labels.shape[1]))
    instances.gt_classes = torch.from_numpy(classes)
    instances.gt_masks = BitMasks(torch.from_numpy(labels == classes[:, None, None]))
    return instances
