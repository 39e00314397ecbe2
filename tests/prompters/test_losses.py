"""Losses by hand."""

import math
from functools import partial

from wps_sam.mask_losses import dice_loss, focal_loss
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
    weighted,
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


def test_losses_of_places_are_means_over_the_matched_queries():
    near, far = torch.tensor([[8.0, 0.0], [0.0, 16.0]]), torch.zeros(2, 2)
    # One cell and two: 1.5 in the mean, 3 in the sum.
    assert point_loss(near, far, stride=8).item() == pytest.approx(1.5)
    # 4/3, see above, and 0.
    boxes = torch.tensor([[0.0, 0, 1, 1], [5.0, 5, 6, 6]])
    assert box_loss(boxes, torch.tensor([[2.0, 0, 3, 1], [5, 5, 6, 6]])).item() == pytest.approx(2 / 3, rel=1e-5)


def test_cross_entropy_takes_weights_whether_tags_are_open_or_not():
    probability = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]])
    weight, labels = torch.tensor([3.0, 1.0]), torch.tensor([0, 2])
    expected = -(3 * math.log(0.5) + math.log(0.3)) / 2
    assert cross_entropy(probability.log(), labels, None, weight).item() == pytest.approx(expected, rel=1e-5)
    either = -(3 * math.log(0.5) + math.log(0.9)) / 2
    found = cross_entropy(probability.log(), labels, torch.tensor([1]), weight)
    assert found.item() == pytest.approx(either, rel=1e-5)


def test_parts_are_not_favoured_unless_asked_for():
    logits = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    target = PartTargets.of_boxes(torch.tensor([0, 1]), torch.rand(2, 4))
    matches = [(torch.arange(4), torch.tensor([0, 0, 0, 1]))]
    expected = cross_entropy(logits[0], torch.tensor([0, 0, 0, 1])).item()
    assert class_loss(cross_entropy, logits, [target], matches).item() == pytest.approx(expected)
    assert class_loss(cross_entropy, logits, [target], matches, 1.0).item() != pytest.approx(expected, rel=1e-3)


def test_an_image_without_masks_or_tags_counts_as_zero_and_stays_in_the_graph():
    """Every process of a distributed run needs the same gradients: those of such an image are zeros, not missing."""
    empty, full = torch.zeros(0, 2, 2, requires_grad=True), torch.zeros(2, 2, 2, requires_grad=True)
    truth = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    loss = mask_loss([full, empty], [truth, torch.zeros(0, 2, 2)])
    # Of the first mask see above; of the second focal = 0.25 * 1/4 * log 2 and dice = 1 - (2 * 2 + 1) / (2 + 4 + 1).
    first = 20 * (0.25 + 3 * 0.75) / 4 * 0.25 * math.log(2) + 0.5
    second = 20 * 0.25 * 0.25 * math.log(2) + 2 / 7
    assert loss.item() == pytest.approx((first + second) / 2 / 2, rel=1e-5)
    loss.backward()
    assert empty.grad is not None and empty.grad.shape == (0, 2, 2) and full.grad.all()
    logits = torch.randn(1, 3, 4, requires_grad=True)
    presence_loss(logits, [NO_PARTS]).backward()
    assert logits.grad is not None and not logits.grad.any()


def test_presence_looks_among_all_queries():
    """Three queries, two tags: the largest over the queries, the mean over the tags."""
    logits = torch.tensor([[[0.5, 0.2, 0.1, 0.2], [0.1, 0.6, 0.1, 0.2], [0.7, 0.1, 0.1, 0.1]]]).log() + 5
    tagged = PartTargets.of_boxes(NONE, torch.zeros(0, 4))
    tagged.tags = torch.tensor([0, 1])
    expected = -(math.log(0.7) + math.log(0.6)) / 2
    assert presence_loss(logits, [tagged]).item() == pytest.approx(expected, rel=1e-5)


def test_losses_are_named_and_weighted():
    found = weighted({"box": torch.tensor(3.0), "class": torch.tensor(5.0)}, {"class": 1.0, "box": 2.0})
    assert {name: loss.item() for name, loss in found.items()} == {"loss_box": 6.0, "loss_class": 5.0}


def test_focal_and_dice_loss_of_masks_by_hand():
    """p = 3/4 and 1/4 of two pixels, of which the first is half covered."""
    logits, covered = torch.tensor([[[math.log(3), -math.log(3)]]]), torch.tensor([[[0.5, 0.0]]])
    first = 0.25 * 0.5 * 0.25**2 * math.log(3 / 4) + 0.75 * 0.5 * 0.75**2 * math.log(1 / 4)
    second = 0.75 * 1 * 0.25**2 * math.log(3 / 4)
    assert focal_loss(logits, covered).tolist() == pytest.approx([-(first + second) / 2], rel=1e-5)
    # The overlap is 3/4 * 1/2, p adds up to 1 and the cover to 1/2.
    assert dice_loss(logits, covered).tolist() == pytest.approx([1 - (2 * 0.375 + 1) / (1 + 0.5 + 1)], rel=1e-5)
    # Each mask has its own.
    several, truth = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0)), torch.eye(4)[:3].expand(5, 3, 4)
    for loss in (focal_loss, dice_loss):
        alone = torch.cat([loss(a[None], t[None]) for a, t in zip(several, truth)])
        torch.testing.assert_close(loss(several, truth), alone)
    other = focal_loss(logits, covered, alpha=0.5, gamma=0.0)
    expected = 0.5 * (0.5 * math.log(3 / 4) + 0.5 * math.log(1 / 4) + math.log(3 / 4)) / 2
    assert other.tolist() == pytest.approx([-expected], rel=1e-5)
