"""Losses by hand."""

import math
from functools import partial

from wps_sam.prompters.losses import (
    KINDS_OF_PLACE,
    balanced,
    box_loss,
    class_loss,
    cross_entropy,
    focal_cross_entropy,
    mask_loss,
    place_loss,
    point_loss,
    presence_loss,
    token_loss,
    unplaced_tags,
)
from wps_sam.structures import LabelKind, PartTargets

import pytest
import torch

NO_PARTS = PartTargets.of_boxes(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
NONE = torch.zeros(0, dtype=torch.int64)


def test_focal_loss_by_hand():
    # Two queries, one part (class 0 of 1) and one "no part"; logits give p = 3/4 for the truth of both.
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])
    expected = 2 * (1 - 0.75) ** 2 * -math.log(0.75) / 1
    assert focal_cross_entropy(logits, torch.tensor([0, 1])).item() == pytest.approx(expected, rel=1e-6)
    # With gamma 0 it is the summed cross-entropy, which a focal weight must lower.
    assert focal_cross_entropy(logits, torch.tensor([0, 1]), gamma=0.0).item() == pytest.approx(-2 * math.log(0.75))


def test_focal_loss_without_parts_divides_by_one():
    logits = torch.zeros(2, 2)
    assert focal_cross_entropy(logits, torch.tensor([1, 1])).item() == pytest.approx(2 * 0.25 * math.log(2))


def test_token_loss_is_smooth_l1_with_beta_one():
    student, teacher = torch.tensor([[[0.5, 3.0]]]), torch.zeros(1, 1, 2)
    # 0.5 * 0.5^2 = 0.125 inside, 3 - 0.5 = 2.5 outside: mean 1.3125. Plain L1 would be 1.75.
    assert token_loss(student, teacher).item() == pytest.approx(1.3125)


def test_box_loss_is_one_minus_giou():
    # Two unit squares with a gap of one: IoU 0, hull 3, GIoU = 0 - (3 - 2) / 3 = -1/3.
    a, b = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
    assert box_loss(a, b).item() == pytest.approx(4 / 3, rel=1e-5)
    assert box_loss(a, a).item() == pytest.approx(0, abs=1e-5)


def test_point_loss_counts_cells():
    a, b = torch.tensor([[8.0, 4.0]]), torch.tensor([[0.0, 0.0]])
    assert point_loss(a, b, stride=8).item() == pytest.approx(1.5)
    assert point_loss(a, b, stride=16).item() == pytest.approx(0.75)


def test_unmatched_queries_are_no_part_and_images_weigh_the_same():
    matches = [(torch.tensor([1]), torch.tensor([0])), (NONE, NONE)]
    logits = torch.randn(2, 3, 3, requires_grad=True)
    tokens = torch.randn(2, 3, 2, 4, requires_grad=True)
    targets = [PartTargets.of_boxes(torch.tensor([0]), torch.zeros(1, 4)), NO_PARTS]
    taught = [torch.randn(1, 2, 4), torch.zeros(0, 2, 4)]
    of_class = class_loss(cross_entropy, logits, targets, matches)
    of_place = place_loss(KINDS_OF_PLACE["box"], token_loss, tokens, taught, targets, matches)
    log_p = logits.log_softmax(-1)
    first = -(log_p[0, 0, 2] + log_p[0, 1, 0] + log_p[0, 2, 2]) / 3
    second = -log_p[1, :, 2].mean()
    d = (tokens[0, 1] - taught[0]).abs()
    smooth = torch.where(d < 1, d**2 / 2, d - 0.5).mean()
    assert of_class.item() == pytest.approx(((first + second) / 2).item(), rel=1e-5)
    assert of_place.item() == pytest.approx(((smooth + 0) / 2).item(), rel=1e-5)
    (of_class + of_place).backward()
    assert not tokens.grad[1].any() and not tokens.grad[0, 0].any() and tokens.grad[0, 1].any()


def test_each_label_counts_alike_whatever_its_kind():
    """Three matched queries: a box, a mask and a point; each kind's mean is weighed by its share of the three."""
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]])
    points = torch.tensor([[0.0, 0], [0, 0], [8.0, 4]])
    kinds = torch.tensor([LabelKind.BOX, LabelKind.MASK, LabelKind.POINT])
    target = PartTargets(torch.zeros(3, dtype=torch.int64), kinds, boxes, points)
    matches = [(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]))]
    students = torch.tensor([[[2.0, 0, 3, 1], [0, 0, 1, 1], [5, 5, 6, 6]]])
    # 1 - GIoU is 4/3 of the box, see above, and 0 of the mask.
    of_boxes = place_loss(KINDS_OF_PLACE["box"], box_loss, students, [boxes], [target], matches)
    assert of_boxes.item() == pytest.approx((4 / 3 + 0) / 3, rel=1e-5)
    of_points = place_loss(
        KINDS_OF_PLACE["point"], partial(point_loss, stride=8), students[..., :2], [points], [target], matches
    )
    assert of_points.item() == pytest.approx((3 + 1) / 8 / 3, rel=1e-5)
    # A mean over the boxes alone would make a label count more, the fewer there are of its kind.
    assert of_boxes.item() != pytest.approx((4 / 3 + 0) / 2)


def test_losses_without_a_label_of_their_kind_are_zero_and_have_a_gradient():
    students = torch.randn(1, 3, 4, requires_grad=True)
    target = PartTargets.of_boxes(torch.tensor([0]), torch.tensor([[0.0, 0, 4, 4]]))
    matches = [(torch.tensor([2]), torch.tensor([0]))]
    loss = place_loss(
        KINDS_OF_PLACE["point"], partial(point_loss, stride=8), students, [target.points], [target], matches
    )
    assert loss.item() == 0
    loss.backward()
    assert students.grad is not None and not students.grad.any()


def test_what_is_tagged_but_not_placed_may_be_any_query():
    """Classes 0 and 1 of two; 0 has a label, 1 is only tagged: an unmatched query may be class 1 or no part."""
    logits = torch.tensor([[[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]]]).log()
    target = PartTargets.of_boxes(torch.tensor([0]), torch.zeros(1, 4))
    target.tags = torch.tensor([0, 1])
    assert unplaced_tags(target).tolist() == [1]
    matches = [(torch.tensor([0]), torch.tensor([0]))]
    expected = -(math.log(0.5) + math.log(0.6 + 0.3)) / 2
    assert class_loss(cross_entropy, logits, [target], matches).item() == pytest.approx(expected, rel=1e-5)
    focal = (0.5**2 * -math.log(0.5) + 0.1**2 * -math.log(0.9)) / 1
    assert class_loss(focal_cross_entropy, logits, [target], matches).item() == pytest.approx(focal, rel=1e-5)
    # Where every tag has a label, nothing is open: the plain loss.
    target.tags = torch.tensor([0])
    assert unplaced_tags(target) is None
    plain = -(math.log(0.5) + math.log(0.3)) / 2
    assert class_loss(cross_entropy, logits, [target], matches).item() == pytest.approx(plain, rel=1e-5)


def test_presence_asks_the_surest_query_of_each_tag():
    logits = torch.tensor([[[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]], [[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]]]).log()
    tagged = PartTargets.of_boxes(NONE, torch.zeros(0, 4))
    tagged.tags = torch.tensor([0, 1])
    expected = -(math.log(0.5) + math.log(0.6)) / 2
    assert presence_loss(logits, [tagged, NO_PARTS]).item() == pytest.approx(expected / 2, rel=1e-5)
    # Of a crop nobody knows.
    tagged.cropped = True
    assert presence_loss(logits, [tagged, NO_PARTS]).item() == 0


def test_mask_loss_is_sams_and_zero_for_the_right_mask():
    truth = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    sure = 50 * (2 * truth - 1)
    assert mask_loss([sure], [truth]).item() == pytest.approx(0, abs=1e-4)
    # At logits 0, p = 1/2 everywhere: focal = mean of (0.25 of the one true pixel, 0.75 of the others) * 1/4 * log 2;
    # dice = 1 - (2 * 0.5 + 1) / (2 + 1 + 1) = 0.5.
    focal = (0.25 + 3 * 0.75) / 4 * 0.25 * math.log(2)
    assert mask_loss([0 * sure], [truth]).item() == pytest.approx(20 * focal + 0.5, rel=1e-5)


def test_parts_of_few_cells_may_be_favoured():
    """Part 0 has four cells and part 1 one: at balance 1/2 they count 2 to 1, at 1 alike, and 5 together as before."""
    part = torch.tensor([0, 0, 1, 0, 0])
    for share, expected in ((0.0, [1, 1, 1, 1, 1]), (0.5, [5 / 6, 5 / 6, 10 / 6]), (1.0, [5 / 8, 5 / 8, 5 / 2])):
        assert balanced(part, share)[: len(expected)].tolist() == pytest.approx(expected)
    logits = torch.randn(1, 7, 3, generator=torch.Generator().manual_seed(0))
    target = PartTargets.of_boxes(torch.tensor([0, 1]), torch.rand(2, 4))
    matches = [(torch.arange(5), part)]
    log_p = logits[0].log_softmax(-1)
    weights = [*balanced(part, 0.5).tolist(), 1, 1]
    expected = sum(
        -w * (1 - log_p[q, c].exp()) ** 2 * log_p[q, c] for q, (w, c) in enumerate(zip(weights, [0, 0, 1, 0, 0, 2, 2]))
    )
    found = class_loss(focal_cross_entropy, logits, [target], matches, 0.5)
    assert found.item() == pytest.approx(float(expected) / 5, rel=1e-5)
    assert found.item() != pytest.approx(class_loss(focal_cross_entropy, logits, [target], matches).item(), rel=1e-2)
