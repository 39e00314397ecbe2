"""Maps against identities that hold for any network, attention against sums by hand, each with a wrong variant."""

from __future__ import annotations

from wps_sam.encoders.clip import random_clip
from wps_sam.encoders.prompt_bank import FixedTexts, PromptBank
from wps_sam.image_level.cams import (
    argmax_labels,
    balanced_affinity,
    boxes_of,
    class_aware_attention,
    enlarge,
    jensen_shannon_affinity,
    masked_probability,
    min_max,
    softmax_gradcam,
)
from wps_sam.image_level.losses import cam_activation

import numpy as np
import pytest
import torch
from scipy import ndimage

NAMES = ["dog", "cat", "car"]
BACKGROUNDS = ["sky", "grass"]


@pytest.fixture(scope="module")
def clip():
    found = random_clip()
    found.double()
    return found


@pytest.fixture(scope="module")
def texts(clip):
    return FixedTexts(clip, NAMES + BACKGROUNDS)


def picture(count=2, height=48, width=64):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


SKY = torch.tensor([3, 4])


def gradcam(view, logits, tags, others=SKY, learn=False):
    given = [torch.tensor(t, dtype=torch.int64) for t in tags]
    return softmax_gradcam(view, logits, given, [others] * len(given), learn)


def maps_of(clip, features, tags, images=None, others=SKY, learn=False):
    view = clip.look(picture(len(tags)) if images is None else images)
    logits = clip.scale * view.features @ features.T
    return view, logits, gradcam(view, logits, tags, others, learn)


def test_the_maps_of_all_that_may_be_there_cancel(clip, texts):
    """Probabilities sum to 1, so their gradients, tags and backgrounds together, sum to 0."""
    view, logits, _ = maps_of(clip, texts(), [[0, 1]])
    (everything,) = gradcam(view, logits, [[0, 1, 3, 4]], torch.arange(0))
    assert everything.abs().max() > 1e-9 and everything.sum(0).abs().max() < 1e-12 * everything.abs().max() + 1e-15


def test_a_single_text_has_no_map(clip, texts):
    _, _, (alone,) = maps_of(clip, texts()[:3], [[1]], others=torch.arange(0))
    assert alone.shape == (1, 3, 4) and alone.abs().max() < 1e-15


def test_absent_classes_and_the_level_of_logits_change_nothing(clip, texts):
    view, logits, (found, _) = maps_of(clip, texts(), [[0, 1], [0]])
    other = texts().clone()
    other[2] = torch.randn(32, dtype=torch.float64)
    _, _, (changed, _) = maps_of(clip, other, [[0, 1], [0]])
    assert torch.allclose(found, changed, atol=1e-15)
    shifted = gradcam(view, logits + 7, [[0, 1], [0]])
    assert torch.allclose(found, shifted[0], rtol=1e-9)
    # A softmax over all classes, the wrong variant, does change.
    everyone = torch.tensor([2, 3, 4])
    wrong = [
        gradcam(v, clip.scale * v.features @ f.T, [[0, 1]] * 2, everyone)[0]
        for v, f in ((view, texts()), (view, other))
    ]
    assert not torch.allclose(wrong[0], wrong[1], atol=found.abs().max().item() * 1e-3)


def test_alone_as_in_a_batch_and_permuted_as_the_tags(clip, texts):
    images = picture(3)
    _, _, together = maps_of(clip, texts(), [[0], [2, 1, 0], []], images)
    _, _, (alone,) = maps_of(clip, texts(), [[0, 1, 2]], images[1:2])
    assert torch.allclose(together[1], alone.flip(0), rtol=1e-9, atol=1e-15)
    # The gradient of all tags at once, the wrong variant, would be one map for each of them.
    assert not torch.allclose(alone[0], alone[1], atol=1e-3 * alone.abs().max().item())
    assert together[0].shape == (1, 3, 4) and together[2].shape == (0, 3, 4)


def test_a_weight_is_the_slope_of_moving_all_patches_alike(clip, texts):
    """(h w) <w_c, v> is how p_c changes when v is added to every patch, not to the class token."""
    image, tags = picture(1), torch.tensor([0, 2])
    view, _, (found,) = maps_of(clip, texts(), [[0, 2]], image)
    # Maps to weights: A w = map, by least squares in a direction that A knows.
    patches = view.activations.detach()[0, 1:]
    direction = patches.mean(0)
    vision, last = clip.model.vision_model, clip.model.vision_model.encoder.layers[-1]

    def probability(step):
        from wps_sam.encoders.clip import attend

        states = {}
        handle = last.layer_norm1.register_forward_hook(lambda m, i, o: states.update(residual=i[0]))
        with torch.no_grad():
            clip.look(image)
        handle.remove()
        moved = view.activations.detach().clone()
        moved[:, 1:] += step * direction
        with torch.no_grad():
            tokens = states["residual"] + attend(last.self_attn, moved)
            tokens = tokens + last.mlp(last.layer_norm2(tokens))
            feature = clip.model.visual_projection(vision.post_layernorm(tokens)[:, 1:].mean(1))
            feature = torch.nn.functional.normalize(feature, dim=-1)
            return masked_probability((clip.scale * feature @ texts().T)[0], tags, SKY)[:2]

    slope = (probability(1e-5) - probability(-1e-5)) / 2e-5
    # <w_c, mean patch> is the mean of the map.
    expected = found.mean((1, 2)) * patches.shape[0]
    assert torch.allclose(slope, expected, rtol=1e-4, atol=1e-12)
    with_class_token = found.mean((1, 2)) * (patches.shape[0] + 1)
    assert not torch.allclose(slope, with_class_token, rtol=1e-3)


def test_gradients_reach_the_learned_words_through_the_weights(clip):
    bank = PromptBank(clip, NAMES + BACKGROUNDS, "[2]{name}.", deviation=0.5)
    images = picture(1)

    def loss(contexts):
        bank.contexts.data = contexts
        _, _, (maps,) = maps_of(clip, bank(), [[0, 1]], images, learn=True)
        return (maps * torch.linspace(0, 1, maps.numel(), dtype=torch.float64).view_as(maps)).sum()

    start = bank.contexts.detach().clone()
    value = loss(start.clone())
    (gradient,) = torch.autograd.grad(value, bank.contexts)
    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = 1e-5
    slope = (loss(start + step * direction) - loss(start - step * direction)) / (2 * step)
    assert slope.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-4)


def test_maps_and_what_cal_teaches_follow_from_a_basis_without_texts(clip):
    """Of the feature's coordinates d alone: G_d = sum over channels of A times the mean gradient of f_d. A logit's map
    is scale sum_d t_k[d] G_d, a probability's p_c sum over k of (delta_ck - p_k) times it; so the texts' gradient needs
    no second derivative (FMA-WSSS's construction, linear in the texts)."""
    view = clip.look(picture(1))
    patches, count = view.activations.detach()[0, 1:], view.features.shape[1]
    rows = [torch.autograd.grad(view.features[0, d], view.activations, retain_graph=True)[0] for d in range(count)]
    basis = torch.stack([patches @ row[0, 1:].mean(0) for row in rows])
    words = torch.randn(5, count, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    seed = torch.randint(0, 3, (6, 8), generator=torch.Generator().manual_seed(4))
    tags, found = torch.tensor([0, 2]), []
    for by_basis in (False, True):
        texts = torch.nn.functional.normalize(words, dim=-1).requires_grad_()
        logits = clip.scale * view.features @ texts.T
        if by_basis:
            allowed = torch.tensor([0, 2, 3, 4])
            p = (clip.scale * view.features.detach() @ texts.T)[0, allowed].softmax(0)
            of_logits = clip.scale * texts[allowed] @ basis
            maps = (p[:, None] * (of_logits - (p[:, None] * of_logits).sum(0)))[:2].unflatten(1, view.grid)
        else:
            (maps,) = gradcam(view, logits, [[0, 2]], learn=True)
        loss = cam_activation([maps], [tags], [seed], 255)
        found.append((maps.detach(), torch.autograd.grad(loss, texts)[0]))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-8, atol=1e-14)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-8, atol=1e-14) and found[0][1][3].abs().sum() > 0


# ------------------------------------------------------------------ affinity

ASYMMETRIC = torch.tensor([[1.0, 2.0, 1.0], [3.0, 1.0, 0.0], [0.0, 1.0, 4.0]], dtype=torch.float64)


def test_balanced_affinity_by_hand():
    """Columns of sums 4, 4, 5; then rows; then the mean with the transpose; then the square."""
    columns = ASYMMETRIC / torch.tensor([4.0, 4.0, 5.0], dtype=torch.float64)
    rows = columns / torch.tensor([[0.95], [1.0], [1.05]], dtype=torch.float64)
    half = (rows + rows.T) / 2
    assert torch.allclose(balanced_affinity(ASYMMETRIC, 1, 2), half @ half, atol=1e-12)
    assert torch.allclose(balanced_affinity(7 * ASYMMETRIC, 1, 2), half @ half, atol=1e-12)
    other_way = ASYMMETRIC / ASYMMETRIC.sum(1, keepdim=True)
    other_way = other_way / other_way.sum(0, keepdim=True)
    wrong = (other_way + other_way.T) / 2
    assert not torch.allclose(wrong @ wrong, half @ half, atol=1e-3)
    many = balanced_affinity(ASYMMETRIC, 2000, 1)
    assert torch.allclose(many.sum(0), torch.ones(3, dtype=torch.float64), atol=1e-3)


def test_identity_and_full_boxes_return_the_map():
    maps = torch.rand(2, 3, 3, dtype=torch.float64)
    maps[:, 1, 1] = 2
    full = class_aware_attention(maps, torch.eye(9, dtype=torch.float64), -1.0, scores=False, exclusive_edges=False)
    assert torch.allclose(full, maps)
    scored = class_aware_attention(maps, torch.eye(9, dtype=torch.float64), -1.0, exclusive_edges=False)
    assert torch.allclose(scored, min_max(maps))


def test_boxes_choose_who_gives_not_who_gets():
    maps = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]])
    uniform = torch.full((9, 9), 1 / 9)
    assert torch.allclose(class_aware_attention(maps, uniform, 0.4), torch.full((1, 3, 3), 1 / 9), atol=1e-6)


def test_boxes_by_hand():
    score = torch.zeros(5, 7)
    score[0, 1] = score[1, 2] = 1.0  # Touch at a corner: one region of two cells, a box of four.
    score[2:5, 6] = 0.9  # In the last column, down to the last row.
    score[4, 0] = 0.39  # 99 of 255: not above 102.
    expected = torch.zeros(5, 7, dtype=torch.bool)
    expected[0:2, 1:3] = True
    assert torch.equal(boxes_of(score, 0.4), expected), "as published, the last row and column are never inside"
    expected[2:5, 6] = True
    assert torch.equal(boxes_of(score, 0.4, exclusive_edges=False), expected)
    four, _ = ndimage.label(score.numpy() > 0.4)
    assert four.max() == 3, "4-connected regions would be three"
    assert not boxes_of(torch.zeros(4, 4), 0.4).any()


def test_the_threshold_is_strict_and_cut_to_a_whole_byte():
    score = torch.tensor([[1.0, 0.0, 103 / 255, 0.0], [0.0] * 4])
    assert boxes_of(score, 0.4)[0].tolist() == [True, False, True, False]
    assert not boxes_of(torch.tensor([[1.0, 102 / 255, 0.0], [0.0] * 3]), 0.4)[0, 1]


def test_jensen_shannon_affinity_by_hand():
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
    found = jensen_shannon_affinity(p)
    from scipy.spatial.distance import jensenshannon

    expected = [[1 - jensenshannon(a, b, base=2) for b in p.numpy()] for a in p.numpy()]
    assert np.allclose(found.numpy(), expected, atol=1e-5)


def test_labels_of_maps_alone():
    maps = torch.tensor([[[1.0, 0.45], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]])
    assert argmax_labels(maps, 1.0).tolist() == [[0, 2], [2, 1]]
    assert argmax_labels(maps, 3.0).tolist() == [[0, 0], [2, 1]], "a larger power, more foreground"
    assert argmax_labels(maps[:0], 1.0).tolist() == [[0, 0], [0, 0]]
    assert enlarge(maps, 4, 6).shape == (2, 4, 6)
