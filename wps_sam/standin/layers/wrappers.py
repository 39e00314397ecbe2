"""Thin wrappers of torch functions."""

import torch
from torch.nn import functional as F

interpolate = F.interpolate


def cat(tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """``torch.cat`` that returns a single tensor as it is."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)


def nonzero_tuple(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """``x.nonzero(as_tuple=True)``."""
    return x.nonzero(as_tuple=True)
