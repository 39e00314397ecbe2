"""Losses by hand."""

import math

from wps_sam.prompters.losses import SetCriterion, cross_entropy, focal_loss, geometry_loss, token_loss
from wps_sam.structures import PartTargets, PromptPrediction

import pytest
import torch


def test_focal_loss_by_hand():
    # Two queries, one part (class 0 of 1) and one "no part"; logits give p = 3/4 for the truth of both.
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])
    expected = 2 * (1 - 0.75) ** 2 * -math.log(0.75) / 1
    assert focal_loss(logits, torch.tensor([0, 1])).item() == pytest.approx(expected, rel=1e-6)
    # With gamma 0 it is the summed cross-entropy, which a focal weight must lower.
    assert focal_loss(logits, torch.tensor([0, 1]), gamma=0.0).item() == pytest.approx(-2 * math.log(0.75))


def test_focal_loss_without_parts_divides_by_one():
    logits = torch.zeros(2, 2)
    assert focal_loss(logits, torch.tensor([1, 1])).item() == pytest.approx(2 * 0.25 * math.log(2))


def test_token_loss_is_smooth_l1_with_beta_one():
    student, teacher = torch.tensor([[[0.5, 3.0]]]), torch.zeros(1, 1, 2)
    # 0.5 * 0.5^2 = 0.125 inside, 3 - 0.5 = 2.5 outside: mean 1.3125. Plain L1 would be 1.75.
    assert token_loss(student, student, teacher, teacher).item() == pytest.approx(1.3125)


def test_geometry_loss_of_boxes_is_one_minus_giou():
    # Two unit squares with a gap of one: IoU 0, hull 3, GIoU = 0 - (3 - 2) / 3 = -1/3.
    a, b = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
    assert geometry_loss(a, a, b, b, stride=8).item() == pytest.approx(4 / 3, rel=1e-5)
    assert geometry_loss(a, a, a, a, stride=8).item() == pytest.approx(0, abs=1e-5)


def test_geometry_loss_of_points_counts_cells():
    a, b = torch.tensor([[8.0, 4.0]]), torch.tensor([[0.0, 0.0]])
    assert geometry_loss(a, a, b, b, stride=8).item() == pytest.approx(1.5)
    assert geometry_loss(a, a, b, b, stride=16).item() == pytest.approx(0.75)


def test_unmatched_queries_are_no_part_and_images_weigh_the_same():
    def matcher(prediction, targets):
        none = torch.zeros(0, dtype=torch.int64)
        return [(torch.tensor([1]), torch.tensor([0])), (none, none)]

    logits = torch.randn(2, 3, 3, requires_grad=True)
    tokens = torch.randn(2, 3, 2, 4, requires_grad=True)
    target = PartTargets(torch.tensor([0]), torch.randn(1, 2, 4), torch.zeros(1, 4))
    empty = PartTargets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, 4), torch.zeros(0, 4))
    criterion = SetCriterion(
        matcher=matcher, class_loss=cross_entropy, prompt_loss=token_loss, class_weight=5.0, prompt_weight=20.0
    )
    losses = criterion(PromptPrediction(logits, tokens), [target, empty])
    log_p = logits.log_softmax(-1)
    first = -(log_p[0, 0, 2] + log_p[0, 1, 0] + log_p[0, 2, 2]) / 3
    second = -log_p[1, :, 2].mean()
    d = (tokens[0, 1] - target.tokens[0]).abs()
    smooth = torch.where(d < 1, d**2 / 2, d - 0.5).mean()
    assert losses["loss_class"].item() == pytest.approx((5 * (first + second) / 2).item(), rel=1e-5)
    assert losses["loss_prompt"].item() == pytest.approx((20 * (smooth + 0) / 2).item(), rel=1e-5)
    sum(losses.values()).backward()
    assert not tokens.grad[1].any() and not tokens.grad[0, 0].any() and tokens.grad[0, 1].any()
