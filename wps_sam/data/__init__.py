"""Part data sets: loaders, registration, weak labels, and the mapper that feeds the model."""

from .sources import builtin  # noqa: F401  (registers the published data sets)
from .mapper import PartDatasetMapper
from .sources.descriptions import register_descriptions
from .sources.coco import check_part_map_ids, load_coco_parts, load_partimagenet
from .part_mask_mapper import PartMaskMapper
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
