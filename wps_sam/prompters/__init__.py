"""The trained part: what a frozen encoder saw to class scores and prompts."""

from .prompter import PROMPTER_REGISTRY, DensePrompter, DETRPrompter

__all__ = ["PROMPTER_REGISTRY", "DETRPrompter", "DensePrompter"]
