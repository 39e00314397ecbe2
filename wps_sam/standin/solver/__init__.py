"""Optimisers and learning-rate schedules."""
# ruff: noqa: F401  (the public names)

from .build import build_lr_scheduler, build_optimizer, get_default_optimizer_params
from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler
