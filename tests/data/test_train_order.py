"""The order of training images: Detectron2's, whoever prepares them and wherever one enters it."""

from __future__ import annotations

import itertools
import random

from wps_sam.data import train_order
from wps_sam.data.train_order import TrainOrder

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler

RECORDS = [{"image_id": i, "annotations": [{"id": i}]} for i in range(7)]


def mapper(record):
    """As an augmentation does, draws from all three sources of random numbers."""
    draws = (random.random(), float(np.random.rand()), float(torch.rand(())))
    record["annotations"].clear()
    return {"image_id": record["image_id"], "draws": draws}


def batches(count: int, num_workers: int = 0, position: int = 0, batch_size: int = 2, num_images: int = 7):
    order = TrainOrder(RECORDS[:num_images], mapper, seed=3, batch_size=batch_size)
    order.start_at(3, position)
    loader = build_detection_train_loader(
        order, mapper=None, total_batch_size=batch_size, aspect_ratio_grouping=False, num_workers=num_workers
    )
    return list(itertools.islice(loader, count))


def test_the_order_is_that_of_detectron2s_training_sampler():
    expected = list(itertools.islice(TrainingSampler(7, seed=3), 20))
    assert [d["image_id"] for batch in batches(10) for d in batch] == expected


@pytest.mark.parametrize("num_workers", [1, 2])
def test_worker_processes_change_nothing(num_workers):
    assert batches(9, num_workers) == batches(9)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_entering_in_the_middle_continues_the_order(num_workers):
    """Step 5 of batches of 2 starts at position 10, in the second shuffle of the 7 images."""
    assert batches(4, num_workers, position=10) == batches(9)[5:]


def test_a_batch_may_hold_several_epochs():
    assert [len(b) for b in batches(2, batch_size=10, num_images=3)] == [10, 10]


def test_processes_share_the_batches_of_one(monkeypatch):
    whole = batches(5, batch_size=4)
    monkeypatch.setattr(train_order.comm, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(train_order.comm, "get_rank", lambda rank=rank: rank)
        order = iter(TrainOrder(RECORDS, mapper, seed=3, batch_size=4))
        assert list(itertools.islice(order, 10)) == [d for batch in whole for d in batch[rank::2]]


def test_no_augmentation_repeats_in_the_next_epoch():
    draws = [d["draws"] for batch in batches(14) for d in batch]
    assert len(set(draws)) == len(draws)


def test_bad_sizes_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="training set is empty"):
        TrainOrder([], mapper, seed=0, batch_size=2)
    monkeypatch.setattr(train_order.comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="IMS_PER_BATCH is 3; expected a multiple of the 2 processes"):
        TrainOrder(RECORDS, mapper, seed=0, batch_size=3)
