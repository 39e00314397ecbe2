"""The endless, seeded order of training images, which can be entered at any place."""

from __future__ import annotations

import itertools
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from torch.utils.data import IterableDataset, get_worker_info


def seed_everything(*seeds: int) -> None:
    """Seeds Python's, NumPy's and torch's (also CUDA's) random numbers from non-negative integers.

    Used before every sample and every step, so that no random state has to be carried from one to the
    next: neither the number of worker processes, nor an evaluation in between, nor a restart changes a run.
    """
    state = np.random.SeedSequence(seeds).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))
    torch.manual_seed(int(state[2]))


class TrainOrder(IterableDataset):
    """Mapped training records in the order of Detectron2's ``TrainingSampler`` for the same seed.

    The order is one endless list over all processes, ``shuffle + shuffle + ...``; a *position* is a place in it.
    Step t takes the ``batch_size`` positions from ``first_position + t * batch_size``, of which process r of R has
    every R-th, so one process and several see the same batches. Of the data loader's W workers in a
    process, worker w prepares the steps w, w + W, ... which is the order in which the loader asks for them.

    Args:
        records: data-set records in Detectron2's form.
        mapper: one record (a fresh copy) to one model input.
        seed: non-negative; the same in every process.
        batch_size: images of one step, over all processes; a multiple of their number.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        seed: int,
        batch_size: int,
    ) -> None:
        if not records:
            raise ValueError("no training images: the training set is empty")
        if batch_size < 1 or batch_size % comm.get_world_size():
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH is {batch_size}; expected a multiple of the {comm.get_world_size()} processes"
            )
        self.mapper = mapper
        self.seed = seed
        self.batch_size = batch_size
        self.first_position = 0
        # Kept as one array: worker processes share its memory, but copy every Python object that they touch.
        pickled = [pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = np.cumsum([len(p) for p in pickled])
        self._bytes = np.frombuffer(b"".join(pickled), dtype=np.uint8)
        # Not asked for in __iter__: that runs in worker processes, which belong to no process group.
        self._rank, self._world_size = comm.get_rank(), comm.get_world_size()

    @property
    def num_images(self) -> int:
        return len(self._ends)

    def start_at(self, seed: int, position: int) -> None:
        """Continues another run's order of ``seed`` at ``position``. Before the first batch is asked for."""
        self.seed, self.first_position = seed, position

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first_step, steps = (0, 1) if worker is None else (worker.id, worker.num_workers)
        starts = itertools.count(self.first_position + first_step * self.batch_size, steps * self.batch_size)
        for position, index in self._indices(
            start + i for start in starts for i in range(self._rank, self.batch_size, self._world_size)
        ):
            seed_everything(self.seed, position)
            yield self.mapper(self._record(index))

    def _indices(self, positions: Iterator[int]) -> Iterator[tuple[int, int]]:
        """Pairs of each of the growing ``positions`` and the index of the image that stands there."""
        generator = torch.Generator().manual_seed(self.seed)
        epoch, shuffled = -1, torch.empty(0)
        for position in positions:
            while epoch < position // self.num_images:
                epoch, shuffled = epoch + 1, torch.randperm(self.num_images, generator=generator)
            yield position, int(shuffled[position % self.num_images])

    def _record(self, index: int) -> dict[str, Any]:
        start = self._ends[index - 1] if index else 0
        return pickle.loads(self._bytes[start : self._ends[index]].tobytes())
