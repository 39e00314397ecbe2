"""Parts are named by what lies inside their masks."""

import math

from wps_sam.inference.merge import SemanticMerge
from wps_sam.inference.naming import class_inside, name_masks, pixel_probability, within_object
from wps_sam.inference.select import Selection
from wps_sam.structures import Frame

import pytest
import torch

SURE = 20.0


def halves(left, right):
    """Logits [C+1, 4, 4] of a map whose left and right half have these probabilities."""
    columns = [torch.tensor(p).log().view(-1, 1, 1).expand(-1, 4, 2) for p in (left, right)]
    return torch.cat(columns, dim=2)


def mask(*columns):
    logits = torch.full((4, 4), -SURE)
    logits[:, list(columns)] = SURE
    return logits


PART_MAP = halves([0.7, 0.2, 0.1], [0.1, 0.1, 0.8])


def test_the_mean_probability_within_a_mask():
    found = class_inside(torch.stack([mask(0, 1), mask(3), mask(1, 2)]), PART_MAP)
    assert torch.allclose(found[0], torch.tensor([0.7, 0.2, 0.1]), atol=1e-4)
    assert torch.allclose(found[1], torch.tensor([0.1, 0.1, 0.8]), atol=1e-4)
    assert torch.allclose(found[2], torch.tensor([0.4, 0.15, 0.45]), atol=1e-4)
    # Of a mask that covers nothing its likeliest pixels count: here the left ones.
    # A mask of 0.6 at the left and 0.4 at the right is the left one, but for a millionth of what both cover.
    doubtful = torch.where(mask(0, 1) > 0, math.log(1.5), -math.log(1.5))
    weight = torch.tensor([0.1 + 0.6e-6, 0.4e-6])
    expected = (weight @ torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])) / weight.sum()
    assert torch.allclose(class_inside(doubtful[None], PART_MAP)[0], expected, atol=1e-6, rtol=0)
    empty = torch.where(mask(0, 1) > 0, -1.0, -SURE)
    assert torch.allclose(class_inside(empty[None], PART_MAP)[0], torch.tensor([0.7, 0.2, 0.1]), atol=1e-4)


def test_coarse_cells_are_interpolated_to_the_mask():
    part_map = torch.tensor([[[0.0, 4.0]], [[0.0, 0.0]]])
    logits = torch.full((1, 1, 4), SURE)
    # Bilinear: 0, 1, 3 and 4 of the first class.
    expected = sum(1 / (1 + math.exp(-x)) for x in (0, 1, 3, 4)) / 4
    assert float(class_inside(logits, part_map)[0, 0]) == pytest.approx(expected, abs=1e-4)


def test_proposal_and_inside_agree_by_their_geometric_mean():
    # Query 2 says class 1, its mask lies where class 0 is; query 0 lies on background.
    logits = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0], [0.3, 0.6, 0.1]]).log()
    selected = Selection(torch.tensor([2, 0]), torch.tensor([0.6, 0.5]), torch.tensor([1, 1]))
    masks = torch.stack([mask(0, 1), mask(3)])
    found, kept = name_masks(selected, masks, logits, PART_MAP, 0.5)
    # sqrt(.3 * .7) = .458 of class 0 against sqrt(.6 * .2) = .346; of query 0 "no part", sqrt(.3 * .8), wins.
    assert found.queries.tolist() == [2] and found.classes.tolist() == [0]
    assert float(found.scores) == pytest.approx(math.sqrt(0.21), abs=1e-4)
    assert torch.equal(kept, masks[:1])
    # Nothing of the insides: the proposals as they were.
    unchanged, kept = name_masks(selected, masks, logits, PART_MAP, 0.0)
    assert unchanged.queries.tolist() == [2, 0] and unchanged.classes.tolist() == [1, 1] and len(kept) == 2
    # Nothing but the insides.
    assert name_masks(selected, masks, logits, PART_MAP, 1.0)[0].scores.tolist() == pytest.approx([0.7], abs=1e-4)


def test_the_surest_comes_first_with_its_mask():
    logits = torch.tensor([[0.5, 0.1, 0.4], [0.9, 0.05, 0.05]]).log()
    selected = Selection(torch.tensor([0, 1]), torch.tensor([0.5, 0.9]), torch.tensor([0, 0]))
    masks = torch.stack([mask(0), mask(1)])
    found, kept = name_masks(selected, masks, logits, PART_MAP, 0.5)
    assert found.queries.tolist() == [1, 0] and torch.equal(kept, masks[[1, 0]])


def test_of_one_object_every_proposal_still_speaks_for_each_part():
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log()
    selected = Selection(torch.tensor([0]), torch.tensor([[0.5]]), torch.tensor([1]))
    found, _ = name_masks(selected, mask(3)[None], logits, PART_MAP, 0.5)
    assert found.scores.shape == (1, 1) and float(found.scores) == pytest.approx(math.sqrt(0.05), abs=1e-4)


def test_where_masks_overlap_the_pixel_itself_decides():
    """Both masks cover everything, and class 0 is surer; but the right half is more likely class 1."""
    of_pixels = pixel_probability(halves([0.8, 0.1, 0.1], [0.2, 0.7, 0.1]), Frame(16, 16, 16), 16, 16)
    assert torch.allclose(of_pixels.sum(0), torch.ones(16, 16), atol=1e-5)
    found = {}
    for known in (True, False):
        merge = SemanticMerge(2, 16, 16)
        for label, score in ((0, 0.6), (1, 0.5)):
            merge.add(torch.full((16, 16), 0.9), score, label, of_pixels[label] if known else None)
        found[known] = merge.part_map().argmax(0)
    assert (found[False] == 0).all()
    assert (found[True][:, :6] == 0).all() and (found[True][:, 10:] == 1).all()


def test_a_pixel_under_one_mask_has_its_class_however_unlikely():
    merge = SemanticMerge(2, 4, 4)
    merge.add(torch.full((4, 4), 0.9), 0.5, 1, torch.zeros(4, 4))
    assert (merge.part_map().argmax(0) == 1).all()


def test_with_a_confidence_no_part_does_not_compete():
    # Query 1 is likelier no part, sqrt(.6 * .8) against sqrt(.3 * .1) = .17 of class 1.
    logits = torch.tensor([[0.3, 0.6, 0.1], [0.1, 0.3, 0.6]]).log()
    selected = Selection(torch.tensor([0, 1]), torch.tensor([0.6, 0.3]), torch.tensor([1, 1]))
    masks = torch.stack([mask(0, 1), mask(3)])
    assert name_masks(selected, masks, logits, PART_MAP, 0.5)[0].queries.tolist() == [0]
    found, kept = name_masks(selected, masks, logits, PART_MAP, 0.5, confidence=0.15)
    assert found.queries.tolist() == [0, 1] and found.classes.tolist() == [0, 1] and len(kept) == 2
    assert found.scores.tolist() == pytest.approx([math.sqrt(0.21), math.sqrt(0.03)], abs=1e-4)
    assert name_masks(selected, masks, logits, PART_MAP, 0.5, confidence=0.2)[0].queries.tolist() == [0]


def test_sure_pixels_count_more_than_those_of_the_border():
    """Masks of 0.9 on the left and 0.6 on the right: 0.4 and 0.1 above one half weigh the halves of the map 4 to 1."""
    columns = torch.tensor([0.9, 0.9, 0.6, 0.6]).logit()
    found = class_inside(columns.expand(1, 4, 4), PART_MAP)[0]
    expected = 0.8 * torch.tensor([0.7, 0.2, 0.1]) + 0.2 * torch.tensor([0.1, 0.1, 0.8])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_cells_of_a_square_become_pixels_by_way_of_the_masks_size():
    """Logits 0 and 4 of a square of 16 pixels: 0, 1, 3, 4 in its four cells of a mask, then bilinear to the pixels."""
    part_map = torch.stack([torch.tensor([[0.0, 4.0], [0.0, 4.0]]), torch.zeros(2, 2)])
    found = pixel_probability(part_map, Frame(16, 16, 16), 16, 16)[0, 8].logit()
    # The pixel of column c is at cell (c + 1/2) / 4 - 1/2.
    cells = [(c + 0.5) / 4 - 0.5 for c in range(16)]
    expected = [0 if x < 0 else x if x < 1 else 1 + 2 * (x - 1) if x < 2 else 3 + x - 2 if x < 3 else 4 for x in cells]
    assert found.tolist() == pytest.approx(expected, abs=1e-3)
    lying = pixel_probability(part_map.mT, Frame(16, 16, 16), 16, 16)[0, :, 8].logit()
    assert lying.tolist() == pytest.approx(expected, abs=1e-3)
    # The square lies as the picture does.
    assert pixel_probability(part_map, Frame(16, 16, 16), 4, 6).shape == (2, 4, 6)


def test_a_confidence_takes_what_reaches_it():
    logits = torch.tensor([[0.3, 0.6, 0.1], [0.1, 0.3, 0.6]]).log()
    selected = Selection(torch.tensor([0, 1]), torch.tensor([0.6, 0.3]), torch.tensor([1, 1]))
    masks = torch.stack([mask(0, 1), mask(3)])
    scores = name_masks(selected, masks, logits, PART_MAP, 0.5, confidence=0.0)[0].scores.tolist()
    assert name_masks(selected, masks, logits, PART_MAP, 0.5, confidence=scores[1])[0].scores.tolist() == scores
    assert len(name_masks(selected, masks, logits, PART_MAP, 0.5, confidence=scores[1] + 1e-6)[0].scores) == 1


def test_no_part_inside_of_an_object_is_shared_by_the_parts_that_training_did_not_show():
    # Classes 0 to 4 and background, at two pixels.
    of_pixels = torch.tensor([[0.1, 0.2], [0.2, 0.0], [0.3, 0.1], [0.1, 0.1], [0.0, 0.2], [0.3, 0.4]])[..., None]
    before = of_pixels.clone()
    # 1 and 3 of the object's are new: a third of it each as 0.2 to 0.1, and 0 to 0.1.
    found = within_object(of_pixels, [3, 1, 0], {1, 3, 4})
    expected = [[0.1 + 0.3 / 3, 0.1 + 0.4], [0.2 + 0.3 * 2 / 3, 0.0], [0.1, 0.2]]
    assert torch.allclose(found[..., 0], torch.tensor(expected)) and torch.equal(of_pixels, before)
    # Where no new part is likely at all, none is; and without new parts nothing changes.
    nothing = torch.zeros(6, 1, 1)
    nothing[-1] = 1.0
    assert not within_object(nothing, [3, 1, 0], {1, 3}).any()
    assert torch.equal(within_object(of_pixels, [2, 0], {1, 3}), of_pixels[[2, 0]])
