"""Training and evaluation: from command-line arguments to metrics.json, evaluation.json and checkpoints."""

from .evaluate import evaluate, evaluate_only, evaluate_oracles
from .launch import launch
from .loader import build_mapper, build_test_loader, build_train_loader
from .setup import check_classes, check_device, setup
from .trainer import Trainer

__all__ = [
    "Trainer",
    "build_mapper",
    "build_test_loader",
    "build_train_loader",
    "check_classes",
    "check_device",
    "evaluate",
    "evaluate_only",
    "evaluate_oracles",
    "launch",
    "setup",
]
