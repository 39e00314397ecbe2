"""Samplers that share a data set out over the processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from ..utils import comm


class TrainingSampler(Sampler):
    """An endless stream of shuffled passes; each process takes every world-size-th index of one stream."""

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        if not isinstance(size, int) or size <= 0:
            raise ValueError(f"TrainingSampler(size=) expects a positive int, got {size!r}")
        self._size, self._shuffle = size, shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    def _indices(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            yield from (
                torch.randperm(self._size, generator=generator).tolist() if self._shuffle else range(self._size)
            )

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._indices(), self._rank, None, self._world_size)


class InferenceSampler(Sampler):
    """Every index once, in order: each process has one run of them, the first ones one more than the last."""

    def __init__(self, size: int) -> None:
        share, rest = divmod(size, comm.get_world_size())
        rank = comm.get_rank()
        start = rank * share + min(rank, rest)
        self._local_indices = range(start, start + share + (rank < rest))

    def __iter__(self) -> Iterator[int]:
        return iter(self._local_indices)

    def __len__(self) -> int:
        return len(self._local_indices)
