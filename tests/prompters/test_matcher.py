"""Matching against brute force, and its properties."""

import itertools
import math

from wps_sam.prompters.matcher import CenterMatcher, HungarianMatcher
from wps_sam.structures import LabelKind, PartTargets

import pytest
import torch


def _targets(count, num_classes=4, seed=0):
    """Labels of boxes, and their teachers [M, 2, 8]."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (count,), generator=g)
    taught = torch.randn(count, 2, 8, generator=g)
    return PartTargets.of_boxes(labels, torch.rand(count, 4, generator=g)), taught


def _prediction(batch=1, queries=6, num_classes=4, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, queries, num_classes + 1, generator=g), torch.randn(batch, queries, 2, 8, generator=g)


def _cost(logits, tokens, target, taught, query, part):
    probability = logits[query].softmax(-1)[target.labels[part]]
    return (-10 * probability + (tokens[query] - taught[part]).pow(2).sum().sqrt()).item()


def test_hungarian_is_the_cheapest_of_all_assignments():
    for seed in range(5):
        (logits, tokens), (target, taught) = _prediction(seed=seed), _targets(3, seed=seed + 10)
        ((query, part),) = HungarianMatcher(class_weight=10, prompt_weight=1)(logits, tokens, [target], [taught])
        costs = {
            chosen: sum(_cost(logits[0], tokens[0], target, taught, q, m) for m, q in enumerate(chosen))
            for chosen in itertools.permutations(range(6), 3)
        }
        best = min(costs, key=costs.get)
        assert [query[part == m].item() for m in range(3)] == list(best)


def test_batched_equals_alone_and_empty_targets_survive():
    logits, tokens = _prediction(batch=3)
    targets, taught = zip(_targets(2, seed=5), _targets(0), _targets(6, seed=6))
    matcher = HungarianMatcher(class_weight=10, prompt_weight=1)
    together = matcher(logits, tokens, targets, taught)
    for i, target in enumerate(targets):
        ((query, part),) = matcher(logits[i : i + 1], tokens[i : i + 1], [target], [taught[i]])
        assert torch.equal(query, together[i][0]) and torch.equal(part, together[i][1])
        assert len(query) == len(target)


def test_more_parts_than_queries_is_a_clear_error():
    target, taught = _targets(7)
    with pytest.raises(
        ValueError, match="7 parts but the prompter only 6 queries: raise MODEL.DETR_PROMPTER.NUM_QUERIES"
    ):
        HungarianMatcher(class_weight=10, prompt_weight=1)(*_prediction(), [target], [taught])


def test_hungarian_matcher_leaves_nan_to_the_losses():
    """scipy would stop at it, and name neither the iteration nor the pictures, as the trainer does."""
    (logits, tokens), (target, taught) = _prediction(), _targets(2)
    ((query, part),) = HungarianMatcher(class_weight=10, prompt_weight=1)(logits * math.nan, tokens, [target], [taught])
    assert sorted(part.tolist()) == [0, 1] and len(set(query.tolist())) == 2


def _cells(side=4, stride=8):
    y, x = torch.meshgrid(*[(torch.arange(side) + 0.5) * stride] * 2, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def _part(geometry):
    geometry = torch.tensor(geometry, dtype=torch.float32).reshape(len(geometry), -1)
    labels = torch.zeros(len(geometry), dtype=torch.int64)
    return (PartTargets.of_boxes if geometry.shape[1] == 4 else PartTargets.of_points)(labels, geometry)


def test_centre_matcher_takes_the_middle_half_and_the_smallest_box():
    # Box 0..32: middle half is 8..24, which holds the cell centres 12 and 20 in each direction: cells 5, 6, 9, 10.
    # Box 16..24 has its middle at 20; with a radius of 4 only cell 10 (centre 20, 20) is near, and it is smaller.
    ((query, part),) = CenterMatcher(min_radius=4)(_cells(), [_part([[0, 0, 32, 32], [16, 16, 24, 24]])])
    assert query.tolist() == [5, 6, 9, 10]
    assert part.tolist() == [0, 0, 0, 1]


def test_centre_matcher_gives_the_smallest_part_a_cell_and_survives_none():
    ((query, part),) = CenterMatcher(min_radius=8)(_cells(), [_part([[13, 13, 14, 14]])])
    assert len(query) >= 1 and not part.any()
    empty = PartTargets.of_boxes(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    ((query, part),) = CenterMatcher(min_radius=8)(_cells(), [empty])
    assert len(query) == len(part) == 0


def test_centre_matcher_gives_a_cell_between_two_points_to_the_nearest():
    ((query, part),) = CenterMatcher(min_radius=8)(_cells(), [_part([[12, 12], [19, 12]])])
    owner = dict(zip(query.tolist(), part.tolist()))
    assert owner[5] == 0 and owner[6] == 1


def test_centre_matcher_takes_boxes_masks_and_points_of_one_picture():
    # As above, the second box a mask's, and a point in cell 5, whose cell it takes from the large box around it.
    boxes = torch.tensor([[0.0, 0, 32, 32], [16, 16, 24, 24], [0, 0, 0, 0]])
    points = torch.tensor([[0.0, 0], [0, 0], [12, 12]])
    kinds = torch.tensor([LabelKind.BOX, LabelKind.MASK, LabelKind.POINT])
    target = PartTargets(torch.zeros(3, dtype=torch.int64), kinds, boxes, points)
    ((query, part),) = CenterMatcher(min_radius=4)(_cells(), [target])
    assert dict(zip(query.tolist(), part.tolist())) == {5: 2, 6: 0, 9: 0, 10: 1}


def test_centre_matcher_measures_each_direction_by_its_own_side():
    # Middle (14, 12), a quarter of the sides 6 and 2: columns 8 to 20, whose end is a cell's centre, and rows 10 to 14.
    ((query, _),) = CenterMatcher(min_radius=1)(_cells(), [_part([[2, 8, 26, 16]])])
    assert query.tolist() == [5, 6]
    # Middle (12, 12), 7.5 to either side: the cells at 4 and 20 are 8 away.
    ((query, _),) = CenterMatcher(min_radius=1)(_cells(), [_part([[-3, 8, 27, 16]])])
    assert query.tolist() == [5]
    # A flat and wide one: all columns of its row.
    ((query, _),) = CenterMatcher(min_radius=1)(_cells(), [_part([[-20, 8, 44, 16]])])
    assert query.tolist() == [4, 5, 6, 7]


def test_centre_matcher_counts_the_least_radius_from_the_middle():
    # Cells at 4, 12, 20, 28; a part of one pixel at 12: 8 pixels reach 4 and 20, 7.9 do not, and 16 would reach 28.
    tiny = _part([[11.5, 11.5, 12.5, 12.5]])
    ((query, _),) = CenterMatcher(min_radius=8)(_cells(), [tiny])
    assert query.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    ((query, _),) = CenterMatcher(min_radius=7.9)(_cells(), [tiny])
    assert query.tolist() == [5]


def test_a_point_goes_before_the_smallest_box_however_far():
    """One cell at (12, 12), in the middle of a box of 0.04 square pixels, 7 from a point."""
    boxes, points = torch.tensor([[11.9, 11.9, 12.1, 12.1], [0, 0, 0, 0]]), torch.tensor([[0.0, 0], [19, 12]])
    kinds = torch.tensor([LabelKind.BOX, LabelKind.POINT])
    target = PartTargets(torch.zeros(2, dtype=torch.int64), kinds, boxes, points)
    ((query, part),) = CenterMatcher(min_radius=8)(torch.tensor([[12.0, 12.0]]), [target])
    assert query.tolist() == [0] and part.tolist() == [1]
    # Of two points the nearest, here too.
    both = _part([[19, 12], [13, 12]])
    ((_, part),) = CenterMatcher(min_radius=8)(torch.tensor([[12.0, 12.0]]), [both])
    assert part.tolist() == [1]
