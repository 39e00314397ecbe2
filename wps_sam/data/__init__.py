"""Part data sets: loaders, registration, weak labels, and the mapper that feeds the model."""

from .mapper import PartDatasetMapper
from .part_mask_mapper import PartMaskMapper
from .sources import builtin  # noqa: F401  (registers the published data sets)
from .sources.coco import load_coco_parts, load_partimagenet
from .sources.descriptions import register_descriptions
from .sources.part_map_check import check_part_map_ids
from .weak_labels import part_point, usable_box

__all__ = [
    "PartDatasetMapper",
    "PartMaskMapper",
    "check_part_map_ids",
    "load_coco_parts",
    "load_partimagenet",
    "part_point",
    "register_descriptions",
    "usable_box",
]
