"""As the mapper of part masks, for segmenters whose background is a label like the others, such as Mask2Former."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wps_sam.data.mapper import RandomCrop, is_mirrored
from wps_sam.data.part_mask_mapper import PartMaskMapper, from_bytes, to_bytes
from wps_sam.masks import read_part_map

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import Transform

# Times that a crop is drawn before it is taken as it is.
_TRIES = 10


class LabelMapMapper(PartMaskMapper):
    """Reads a picture and, in training, its part map with the background as label C; see :class:`PartMaskMapper`."""

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool, dataset_name: str) -> dict[str, Any]:
        settings = super().from_config(cfg, is_train, dataset_name)
        if not is_train:
            return settings
        augmentations = settings["augmentations"]
        if cfg.INPUT.CROP.ENABLED and cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA < 1:
            share, ignore_label = cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA, settings["metadata"].ignore_label
            crop = VariedCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE, share, ignore_label)
            augmentations = [crop if isinstance(step, RandomCrop) else step for step in augmentations]
        return {**settings, "augmentations": augmentations}

    def _labels_to_move(self, record: Mapping[str, Any]) -> np.ndarray | None:
        return to_bytes(read_part_map(record, self.metadata)) if self.is_train else None

    def _labels(
        self, record: Mapping[str, Any], transforms: T.TransformList, moved_labels: np.ndarray | None
    ) -> dict[str, Any]:
        """sem_seg int64 [h, w]: 0..C-1, C where there is none of them, ignore_label where nobody knows."""
        assert moved_labels is not None
        moved = from_bytes(moved_labels)
        # The background, the last label, is itself in a mirror.
        pairs = self._mirrored_part_labels if is_mirrored(transforms) else self._part_labels
        is_part = moved < len(self.metadata.thing_classes)
        sem_seg = torch.from_numpy(np.where(is_part, pairs[moved], moved))
        ignore_label = self.metadata.ignore_label
        return {"sem_seg": self._padded(sem_seg, ignore_label), "ignore_label": ignore_label}


class VariedCrop(RandomCrop):
    """A random crop, drawn again while a single label has more than a share of its known pixels."""

    def __init__(self, crop_type: str, crop_size: tuple[float, float], largest_share: float, ignore_label: int) -> None:
        super().__init__(crop_type, crop_size)
        self.largest_share, self.ignore_label = largest_share, ignore_label

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> Transform:
        labels = from_bytes(sem_seg)
        for _ in range(_TRIES):
            crop = super().get_transform(image)
            found, counts = np.unique(crop.apply_segmentation(labels), return_counts=True)
            counts = counts[found != self.ignore_label]
            if len(counts) > 1 and counts.max() < self.largest_share * counts.sum():
                break
        return crop
