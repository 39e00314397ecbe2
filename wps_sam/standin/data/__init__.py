"""Data sets, loaders and transforms."""
# ruff: noqa: F401  (the public names)

from . import transforms
from .build import build_detection_test_loader, build_detection_train_loader, get_detection_dataset_dicts
from .catalog import DatasetCatalog, Metadata, MetadataCatalog
from .common import DatasetFromList, MapDataset
