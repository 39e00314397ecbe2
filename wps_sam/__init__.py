"""WPS-SAM: weakly supervised part segmentation with a frozen Segment Anything Model.

``import wps_sam`` takes no time; it decides what ``detectron2`` is. Data sets and meta-architectures are registered by
``wps_sam.config``, and so by all that reads configurations, or when ``detectron2`` is imported after ``wps_sam`` alone.
"""

from typing import TYPE_CHECKING, Any

from . import _detectron2

if TYPE_CHECKING:
    from .predictor import PartPredictor

__version__ = "0.1.0"
__all__ = ["PartPredictor"]

# Before any module of ours that says `from detectron2 ...`.
_detectron2.choose()
_detectron2.import_with_it(f"{__name__}.config")


def __getattr__(name: str) -> Any:
    # PyTorch, which the class needs, takes seconds to import: too long for a --help.
    if name == "PartPredictor":
        from .predictor import PartPredictor

        return PartPredictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
