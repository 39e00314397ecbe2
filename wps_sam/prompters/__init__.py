"""The trained part: what a frozen encoder saw to class scores and prompts. Each prompter owns its keys and losses."""

from .dense import DensePrompter
from .detr import DETRPrompter
from .prompter import PROMPTER_REGISTRY, Prompter

__all__ = ["PROMPTER_REGISTRY", "DETRPrompter", "DensePrompter", "Prompter"]
