"""Losses of learned words, by hand and by their invariants; each with a wrong variant that fails."""

from __future__ import annotations

import math

from wps_sam.image_level.losses import (
    attract,
    cam_activation,
    contrastive_prompts,
    label_matching,
    multi_label_contrastive,
    refinement,
    repel,
    split_picture,
)

import pytest
import torch
from torch.nn import functional as F


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------ MCL


def test_one_tag_a_row_is_cross_entropy():
    logits, labels = 5 * random(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    tags = F.one_hot(labels, 4).bool()
    assert torch.allclose(multi_label_contrastive(logits, tags), F.cross_entropy(logits, labels))


def test_other_tags_are_not_against_a_tag():
    logits = torch.tensor([[2.0, 3.0, 1.0]], dtype=torch.float64)
    tags = torch.tensor([[True, True, False]])
    expected = (math.log(1 + math.exp(1 - 2)) + math.log(1 + math.exp(1 - 3))) / 2
    assert multi_label_contrastive(logits, tags).item() == pytest.approx(expected)
    with_all = F.cross_entropy(logits.repeat(2, 1), torch.tensor([0, 1])).item()
    assert abs(with_all - expected) > 0.1


def test_rows_may_shift_their_gradient_sums_to_0_and_large_logits_stay_finite():
    logits = random(5, 4).requires_grad_()
    tags = torch.rand(5, 4, generator=torch.Generator().manual_seed(4)) < 0.5
    tags[:, 0], tags[:, 3] = True, False
    loss = multi_label_contrastive(logits, tags)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.sum(1).abs().max() < 1e-12
    assert torch.allclose(multi_label_contrastive(logits + random(5, 1), tags), loss)
    assert multi_label_contrastive(torch.tensor([[1e4, -1e4]]), torch.tensor([[False, True]])).item() == 2e4


def test_rows_that_say_nothing_do_not_count():
    logits = random(3, 2).requires_grad_()
    tags = torch.tensor([[True, False], [True, True], [False, False]])
    assert torch.allclose(multi_label_contrastive(logits, tags), multi_label_contrastive(logits[:1], tags[:1]))
    nothing = multi_label_contrastive(logits, tags[1:2].expand(3, 2))
    assert nothing.item() == 0 and nothing.requires_grad


# ------------------------------------------------------------------ CAL

SEED = torch.tensor([[0, 0, 1], [1, 1, 2]])


def cal(maps, tags=(0,), seed=SEED, ignored=255):
    return cam_activation([maps], [torch.tensor(tags)], [seed], ignored)


def test_slopes_are_minus_one_zero_or_one():
    maps = random(1, 2, 3, seed=3).requires_grad_()
    (gradient,) = torch.autograd.grad(cal(maps), maps)
    slopes = (gradient * 6).round(decimals=9)[0]
    inside = maps.detach()[0][SEED == 0]
    assert slopes[SEED == 0].tolist() == [0.0 if v == inside.max() and v > 0 else -1.0 for v in inside]
    assert torch.equal(slopes[SEED != 0], (maps.detach()[0][SEED != 0] > 0).double())


def test_a_map_that_is_right_costs_nothing_and_scale_is_scale():
    right = torch.where(SEED == 0, 0.7, -1.0)[None].double()
    assert cal(right).item() == 0
    maps = random(1, 2, 3)
    assert torch.allclose(cal(3 * maps), 3 * cal(maps))


def test_by_hand_and_unlabelled_pixels_do_not_count():
    maps = torch.tensor([[[1.0, 3.0, 2.0], [-1.0, 0.5, 9.0]]], dtype=torch.float64)
    assert cal(maps).item() == pytest.approx((2 + 0 + 2 + 0 + 0.5 + 9) / 6)
    seed = SEED.clone()
    seed[1, 2] = 255
    assert cal(maps, seed=seed).item() == pytest.approx((2 + 0 + 2 + 0 + 0.5) / 5)


def test_pairs_weigh_by_their_pixels_and_nothing_is_0():
    maps = random(2, 2, 3)
    both = cal(maps, (0, 1))
    assert torch.allclose(both, (cal(maps[:1], (0,)) + cal(maps[1:], (1,))) / 2)
    empty = cam_activation([random(0, 2, 3).requires_grad_()], [torch.tensor([], dtype=torch.int64)], [SEED], 255)
    assert empty.item() == 0 and empty.requires_grad
    absent = cal(maps[:1], (7,))
    assert torch.allclose(absent, maps[0].clamp(min=0).mean()), "a tag without seed: only background speaks"


# ------------------------------------------------------------------ SemPLeS


def unit(cosine):
    """Two unit vectors of this cosine."""
    a = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    return a, torch.tensor([[cosine, math.sqrt(1 - cosine**2)]], dtype=torch.float64)


def slope(loss, cosine, step=1e-6):
    return ((loss(*unit(cosine + step)) - loss(*unit(cosine - step))) / (2 * step)).item()


def test_slopes_of_attraction_and_repulsion():
    assert slope(attract, 0.25) == pytest.approx(-4, rel=1e-5)
    assert slope(repel, 0.25) == pytest.approx(4 / 3, rel=1e-5)


def test_the_prompts_repulsion_is_plus_log():
    """Of slope lambda / cos, 4 at 0.25; - log(1 - cos), the wrong variant, has 4/3."""
    same = unit(0.5)

    def loss(labels, prompts):
        return contrastive_prompts(same[0], labels, prompts, 1.0) - attract(same[0], prompts)

    assert slope(loss, 0.25) == pytest.approx(4, rel=1e-5)


def test_a_pair_that_is_opposite_gives_no_gradient():
    a, b = (v.requires_grad_() for v in unit(-0.5))
    loss = attract(a, b) + repel(a, b)
    assert loss.item() == pytest.approx(-math.log(1e-4) - math.log(1 - 1e-4))
    assert all(not g.any() for g in torch.autograd.grad(loss, (a, b)))


def test_without_refinement_stage_c_is_stage_a():
    rows = [F.normalize(random(3, 4, seed=s).abs(), dim=1) for s in range(4)]
    assert torch.equal(refinement(*rows, weight=2.4, refine=0.0), label_matching(*rows[:3], weight=2.4))
    more = refinement(*rows, weight=2.4, refine=0.5)
    assert torch.allclose(more, label_matching(*rows[:3], weight=2.4) + 0.5 * repel(rows[0], rows[3]))


def test_under_a_map_and_under_the_rest_is_the_picture():
    maps, images = random(2, 4, 4).abs(), random(2, 3, 8, 8, seed=1)
    inside, outside = split_picture(maps, images, 0.1)
    assert torch.allclose(inside + outside, images)
    other, _ = split_picture(3 * maps + 2, images, 1e-12)
    same, _ = split_picture(maps, images, 1e-12)
    assert torch.allclose(other, same, atol=1e-9)


@pytest.mark.parametrize(("epsilon", "peak"), [(0.1, 0.02 / 0.12), (1e-4, 0.02 / 0.0201)])
def test_weak_maps_stay_weak_where_they_should(epsilon, peak):
    maps = torch.zeros(1, 4, 4, dtype=torch.float64)
    maps[0, 0, 0] = 0.02
    inside, _ = split_picture(maps, torch.ones(1, 3, 8, 8, dtype=torch.float64), epsilon)
    assert inside.max().item() == pytest.approx(peak)


def test_least_and_largest_carry_gradient():
    """Of a map that is uniform but for one cell: the mask there is r / (r + epsilon), whatever is detached."""
    maps = torch.zeros(1, 4, 4, dtype=torch.float64)
    maps[0, 0, 0] = 0.1
    maps.requires_grad_()
    inside, _ = split_picture(maps, torch.ones(1, 1, 8, 8, dtype=torch.float64), 0.1)
    (gradient,) = torch.autograd.grad(inside[0, 0, 0, 0], maps)
    # d/dr of r / (r + 0.1) at 0.1 is 2.5; with the range detached it would be 1 / 0.2 = 5.
    assert gradient[0, 0, 0].item() == pytest.approx(2.5)
