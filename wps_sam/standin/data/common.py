"""Data sets around data sets."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch.utils.data as torchdata


class DatasetFromList(torchdata.Dataset):
    """A list as a data set.

    ``serialize`` keeps the elements as bytes in one array: worker processes share it, where the reference
    counts of many small objects would make each copy its pages. ``copy`` (without ``serialize``) returns
    deep copies.
    """

    def __init__(self, lst: list, copy: bool = True, serialize: bool = True) -> None:
        self._copy, self._serialize = copy, serialize
        if serialize:
            pickled = [pickle.dumps(element, protocol=-1) for element in lst]
            self._ends = np.cumsum([0, *map(len, pickled)])
            self._bytes = np.frombuffer(b"".join(pickled), dtype=np.uint8)
        else:
            self._list = lst

    def __len__(self) -> int:
        return len(self._ends) - 1 if self._serialize else len(self._list)

    def __getitem__(self, idx: int) -> Any:
        if not self._serialize:
            return copy.deepcopy(self._list[idx]) if self._copy else self._list[idx]
        idx = range(len(self))[idx]
        return pickle.loads(self._bytes[self._ends[idx] : self._ends[idx + 1]].data)


class MapDataset(torchdata.Dataset):
    """A data set with a function on each element; where that returns None, another element is tried."""

    def __init__(self, dataset: Any, map_func: Callable[[Any], Any]) -> None:
        self._dataset, self._map_func = dataset, map_func
        # Its own generator: which elements fail must not change the augmentation of others.
        self._rng = random.Random(42)
        self._candidates = set(range(len(dataset)))

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        idx = int(idx)
        while (mapped := self._map_func(self._dataset[idx])) is None:
            self._candidates.discard(idx)
            if not self._candidates:
                raise ValueError("the mapper returned None for every element of the data set")
            idx = self._rng.choice(sorted(self._candidates))
        return mapped


class AspectRatioGroupedDataset(torchdata.IterableDataset):
    """Batches of elements that are all wider than high, or all not; elements have "width" and "height"."""

    def __init__(self, dataset: Iterable, batch_size: int, collate_fn: Callable[[list], Any]) -> None:
        self.dataset, self.batch_size, self.collate_fn = dataset, batch_size, collate_fn

    def __iter__(self) -> Iterator[Any]:
        buckets: tuple[list[dict], list[dict]] = ([], [])
        for element in self.dataset:
            bucket = buckets[element["width"] > element["height"]]
            bucket.append(element)
            if len(bucket) == self.batch_size:
                batch = bucket[:]
                bucket.clear()
                yield self.collate_fn(batch)
