"""Networks that are never trained, and what tells two of them apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn


class FrozenModule(nn.Module):
    """Mixin: parameters never get gradients, and ``train()`` leaves the module in eval mode."""

    def freeze(self) -> None:
        """Call once the submodules exist."""
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> FrozenModule:
        """Stays in eval mode, whatever ``mode`` is."""
        super().train(False)
        return self


def hash_tensors(named_tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 over names, shapes and fp32 values: tells two sets of frozen weights apart."""
    digest = hashlib.sha256()
    for name, tensor in named_tensors:
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
