"""Checkpoints."""
# ruff: noqa: F401  (the public names)

from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

from .detection_checkpoint import DetectionCheckpointer
