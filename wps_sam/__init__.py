"""WPS-SAM: weakly supervised part segmentation with a frozen Segment Anything Model."""

from . import _detectron2

__version__ = "0.1.0"

# Before any module of ours that says `from detectron2 ...`.
_detectron2.choose()

from . import data, models  # noqa: E402, F401  (registers the data sets and the meta-architecture)
from .predictor import PartPredictor  # noqa: E402

__all__ = ["PartPredictor"]
