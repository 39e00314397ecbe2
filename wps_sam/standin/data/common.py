"""Data sets around data sets."""

from __future__ import annotations

import copy
import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch.utils.data as torchdata

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "ToIterableDataset"]


class DatasetFromList(torchdata.Dataset):
    """A list as a data set.

    ``serialize`` keeps the elements as bytes in one array: worker processes share it, where the reference
    counts of many small objects would make each copy its pages. ``copy`` (without ``serialize``) returns
    deep copies.
    """

    def __init__(self, lst: list, copy: bool = True, serialize: bool = True) -> None:
        self._copy, self._serialize = copy, serialize
        if serialize:
            pickled = [np.frombuffer(pickle.dumps(element, protocol=-1), dtype=np.uint8) for element in lst]
            self._ends = np.cumsum([len(element) for element in pickled], dtype=np.int64)
            self._bytes = np.concatenate(pickled) if pickled else np.zeros(0, dtype=np.uint8)
        else:
            self._list = lst

    def __len__(self) -> int:
        return len(self._ends) if self._serialize else len(self._list)

    def __getitem__(self, idx: int) -> Any:
        if not self._serialize:
            return copy.deepcopy(self._list[idx]) if self._copy else self._list[idx]
        start = self._ends[idx - 1] if idx % len(self) else 0
        return pickle.loads(memoryview(self._bytes[start : self._ends[idx]]))


class _MapIterable(torchdata.IterableDataset):
    def __init__(self, dataset: Iterable, function: Callable[[Any], Any]) -> None:
        self._dataset, self._function = dataset, function

    def __iter__(self) -> Iterator[Any]:
        return (mapped for mapped in map(self._function, self._dataset) if mapped is not None)


class MapDataset(torchdata.Dataset):
    """A data set with a function on each element.

    Where the function returns None, another element is tried (of an iterable data set: the next).
    """

    def __new__(cls, dataset: Any = None, map_func: Callable | None = None) -> Any:
        # Without arguments: an object is being unpickled.
        if isinstance(dataset, torchdata.IterableDataset) and map_func is not None:
            return _MapIterable(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset: Any, map_func: Callable[[Any], Any]) -> None:
        self._dataset, self._map_func = dataset, map_func
        # Its own generator: which elements fail must not change the augmentation of others.
        self._rng = random.Random(42)
        self._candidates = set(range(len(dataset)))

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        retries = 0
        current = int(idx)
        while True:
            mapped = self._map_func(self._dataset[current])
            if mapped is not None:
                self._candidates.add(current)
                return mapped
            retries += 1
            self._candidates.discard(current)
            if not self._candidates:
                raise ValueError("the mapper returned None for every element of the data set")
            current = self._rng.sample(sorted(self._candidates), k=1)[0]
            if retries >= 3:
                logging.getLogger(__name__).warning(
                    "no usable element for index %d after %d tries", idx, retries
                )


def _shard(items: Iterable, size: int, shard: int, shards: int) -> Iterator[Any]:
    """Of consecutive chunks of ``size`` items, those numbered ``shard``, ``shard + shards``, ..."""
    iterator = iter(items)
    for number in itertools.count():
        chunk = list(itertools.islice(iterator, size))
        if not chunk:
            return
        if number % shards == shard:
            yield from chunk


class ToIterableDataset(torchdata.IterableDataset):
    """The elements of a map-style data set in a sampler's order, shared out over the workers by chunks."""

    def __init__(
        self,
        dataset: torchdata.Dataset,
        sampler: Iterable[int],
        shard_sampler: bool = True,
        shard_chunk_size: int = 1,
    ) -> None:
        self.dataset, self.sampler = dataset, sampler
        self._shard_sampler, self._chunk_size = shard_sampler, shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        indices: Iterable[int] = self.sampler
        worker = torchdata.get_worker_info()
        if self._shard_sampler and worker is not None:
            # Every worker runs the same sampler and takes whole batches of it, so that the batches are
            # the same for any number of workers.
            indices = _shard(indices, self._chunk_size, worker.id, worker.num_workers)
        for idx in indices:
            yield self.dataset[idx]

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]


class AspectRatioGroupedDataset(torchdata.IterableDataset):
    """Batches of elements that are all wider than high, or all not; elements have "width" and "height"."""

    def __init__(self, dataset: Iterable, batch_size: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self._buckets: list[list[dict]] = [[], []]

    def __iter__(self) -> Iterator[list[dict]]:
        for element in self.dataset:
            bucket = self._buckets[0 if element["width"] > element["height"] else 1]
            bucket.append(element)
            if len(bucket) == self.batch_size:
                # Emptied first: whoever stops iterating here leaves nothing behind twice.
                batch = bucket[:]
                bucket.clear()
                yield batch
