"""The trained part: what a frozen encoder saw to class scores and prompts. Each prompter owns its keys and losses."""

from .dense import DensePrompter
from .detr import DETRPrompter
from .fcos import FCOSPrompter
from .pixel_classifier import PixelClassifier
from .prompter import PROMPTER_REGISTRY, Prompter

__all__ = ["PROMPTER_REGISTRY", "DETRPrompter", "DensePrompter", "FCOSPrompter", "PixelClassifier", "Prompter"]
