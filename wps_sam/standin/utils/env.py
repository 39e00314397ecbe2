"""Random seeds and the start of the environment."""

from __future__ import annotations

import logging
import os
import random

import numpy as np
import torch


def seed_all_rng(seed: int | None = None) -> None:
    """Seeds torch, numpy and random; None draws a seed from the operating system and logs it."""
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little") >> 1
        logging.getLogger(__name__).info("Using a random seed: %d", seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
