"""A table of what this runs on, for the head of a log."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

import torch
from tabulate import tabulate

_PACKAGES = ("torchvision", "numpy", "fvcore", "iopath", "pycocotools", "opencv-python", "pillow")


def collect_env_info() -> str:
    """Versions of Python, torch and the libraries, and the GPUs, as a table."""
    from .. import __version__

    rows = [
        ("platform", platform.platform()),
        ("python", sys.version.replace("\n", "")),
        ("detectron2", f"{__version__} (stand-in) @ {os.path.dirname(os.path.dirname(__file__))}"),
        ("torch", f"{torch.__version__} @ {os.path.dirname(torch.__file__)}"),
        ("GPU available", str(torch.cuda.is_available())),
    ]
    for i in range(torch.cuda.device_count()):
        rows.append((f"GPU {i}", torch.cuda.get_device_name(i)))
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions() if d.metadata["Name"]}
    rows += [(name, importlib.metadata.version(name)) for name in _PACKAGES if name in installed]
    return tabulate(rows)
