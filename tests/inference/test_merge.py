"""Which proposals become parts, and how masks become one part map."""

from types import SimpleNamespace

from wps_sam.inference.merge import AuthorsMerge, SemanticMerge, WithinObjectMerge, resize_mask, resize_masks
from wps_sam.inference.select import select_for_object, select_parts, threshold_before_naming
from wps_sam.structures import Frame

import pytest
import torch
from segment_anything.modeling import Sam

KEEP_ALL = dict(score_threshold=0.0, nms_threshold=1.0, max_parts=100)


def _logits(*probabilities):
    return torch.tensor(probabilities).log()


def _merged(merge, probabilities, scores, labels, num_classes):
    merged = merge(num_classes, *probabilities.shape[1:])
    for probability, score, label in zip(probabilities, scores, labels):
        merged.add(probability, score, label)
    return merged.part_map()


def test_keeps_queries_whose_likeliest_class_is_a_part_surest_first():
    logits = _logits([0.5, 0.2, 0.3], [0.3, 0.3, 0.4], [0.1, 0.8, 0.1])
    kept, scores, classes = select_parts(logits, **KEEP_ALL)
    assert kept.tolist() == [2, 0] and classes.tolist() == [1, 0]
    assert scores.tolist() == pytest.approx([0.8, 0.5])
    assert select_parts(logits, **{**KEEP_ALL, "score_threshold": 0.6})[0].tolist() == [2]
    assert select_parts(logits, **{**KEEP_ALL, "max_parts": 1})[0].tolist() == [2]


def test_thins_boxes_of_one_class_only():
    logits = _logits([0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.2, 0.7, 0.1])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]])
    kept, _, _ = select_parts(logits, boxes, **{**KEEP_ALL, "nms_threshold": 0.5})
    assert sorted(kept.tolist()) == [0, 2]
    assert len(select_parts(logits, boxes, **KEEP_ALL)[0]) == 3


def test_no_query_left():
    kept, scores, classes = select_parts(_logits([0.1, 0.9], [0.2, 0.8]), torch.zeros(2, 4), **KEEP_ALL)
    assert len(kept) == len(scores) == len(classes) == 0


def test_for_an_object_every_query_speaks_for_each_of_its_parts():
    # Classes 0 and 2 are the object's; what the others and the whole picture's "no part" would say is left out.
    logits = _logits([0.1, 0.7, 0.1, 0.1], [0.6, 0.1, 0.2, 0.1])
    queries, scores, classes = select_for_object(logits, None, [0, 2], nms_threshold=1.0, max_parts=100)
    assert queries.tolist() == [1, 0] and classes.tolist() == [0, 2]
    expected = [[0.6 / 0.9, 0.2 / 0.9], [1 / 3, 1 / 3]]
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_semantic_merge_by_hand():
    # One row of four pixels, two queries. Pixel 0: only query 0 covers. 1: both, 0.9 * 0.6 < 0.6 * 1.0.
    # 2: query 0 has the larger product (0.9 * 0.45) but does not cover the pixel. 3: nobody covers.
    probabilities = torch.tensor([[[0.9, 0.6, 0.45, 0.4]], [[0.1, 1.0, 0.6, 0.4]]])
    part_map = _merged(SemanticMerge, probabilities, [0.9, 0.6], [0, 1], 2)
    assert part_map.shape == (3, 1, 4)
    assert part_map.argmax(0).tolist() == [[0, 1, 1, 2]]
    assert part_map[0, 0].tolist() == pytest.approx([0.81, 0.54, 0, 0])


def test_authors_merge_sums_queries_of_one_class():
    # protocols.md: two queries of one class with 0.3 at a pixel make foreground (0.6 >= 0.5).
    probabilities = torch.tensor([[[0.3, 0.2]], [[0.3, 0.2]]])
    part_map = _merged(AuthorsMerge, probabilities, [1.0, 1.0], [0, 0], 2)
    assert part_map.argmax(0).tolist() == [[0, 2]]
    assert _merged(SemanticMerge, probabilities, [1.0, 1.0], [0, 0], 2).argmax(0).tolist() == [[2, 2]]


@pytest.mark.parametrize("merge", [SemanticMerge, AuthorsMerge])
def test_no_masks_is_background(merge):
    part_map = _merged(merge, torch.zeros(0, 2, 3), [], [], 4)
    assert part_map.shape == (5, 2, 3) and (part_map.argmax(0) == 4).all()


def test_masks_return_to_the_image_without_the_padding():
    # 16-cell square of 64 pixels, the image fills the left half; a mask there fills the whole image.
    mask = torch.full((1, 16, 16), -5.0)
    mask[:, :, :8] = 5.0
    image = resize_masks(mask, Frame(64, 64, 32), 128, 64)
    assert image.shape == (1, 128, 64) and (image[..., :-4] > 0).all()
    right = resize_masks(mask, Frame(64, 64, 32, left=32), 128, 64)
    assert (right[..., 4:] < 0).all()
    assert resize_masks(mask[:0], Frame(64, 64, 32), 5, 7).shape == (0, 5, 7)


def test_masks_are_resized_in_segment_anythings_order():
    # segment_anything.modeling.Sam.postprocess_masks needs no weights, only the side of the square.
    masks = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = SimpleNamespace(image_encoder=SimpleNamespace(img_size=64))
    theirs = Sam.postprocess_masks(model, masks[:, None], (64, 40), (90, 56))[:, 0]
    torch.testing.assert_close(resize_masks(masks, Frame(64, 64, 40), 90, 56), theirs)


@pytest.mark.parametrize("merge", [SemanticMerge, AuthorsMerge])
def test_merging_one_by_one_equals_merging_a_stack(merge):
    g = torch.Generator().manual_seed(0)
    masks, scores, labels = (torch.rand(7, 5, 6, generator=g), torch.rand(7, generator=g), [0, 2, 2, 1, 0, 2, 4])
    stack = torch.zeros(6, 5, 6)
    for label in range(5):
        of_class = torch.tensor(labels) == label
        if merge is AuthorsMerge:
            stack[label] = masks[of_class].sum(0)
        elif of_class.any():
            covering = torch.where(masks >= 0.5, masks * scores[:, None, None], 0)
            stack[label] = covering[of_class].amax(0)
    threshold = 0.5 if merge is AuthorsMerge else 1e-9
    stack[-1] = (stack[:-1] < threshold).all(0)
    torch.testing.assert_close(_merged(merge, masks, scores.tolist(), labels, 5), stack)


def test_frame_refuses_another_square():
    with pytest.raises(ValueError, match="64, 64"):
        Frame(64, 64, 32).crop(torch.zeros(1, 32, 32))


def test_where_no_part_does_not_compete_the_threshold_alone_decides():
    # Both queries are most likely no part at all; each is its best part.
    logits = _logits([0.3, 0.3, 0.4], [0.2, 0.1, 0.7])
    kept, scores, classes = select_parts(logits, **KEEP_ALL, no_part_competes=False)
    assert kept.tolist() == [0, 1] and classes.tolist() == [0, 0]
    assert scores.tolist() == pytest.approx([0.3, 0.2])
    kept, _, _ = select_parts(logits, **{**KEEP_ALL, "score_threshold": 0.25}, no_part_competes=False)
    assert kept.tolist() == [0]
    assert len(select_parts(logits, **KEEP_ALL)[0]) == 0


def test_merge_within_an_object_by_hand():
    # Two pixels, two queries, two classes. Pixel 0: class 0 from query 0, 0.6 * 0.4 = 0.24, or query 1,
    # 0.1 * 0.2 = 0.02; class 1: 0.3 * 0.4 = 0.12 or 0.8 * 0.2 = 0.16. Pixel 1: 0.06, 0.09; 0.03, 0.72.
    masks = torch.tensor([[[0.4, 0.1]], [[0.2, 0.9]]])
    merge = WithinObjectMerge(2, 1, 2)
    for mask, of_class in zip(masks, torch.tensor([[0.6, 0.3], [0.1, 0.8]])):
        merge.add(mask, of_class)
    scores = merge.part_map()
    assert torch.allclose(scores[:, 0], torch.tensor([[0.24, 0.09], [0.16, 0.72]]))
    # With a mask threshold of one half pixel 0 would have had no part.
    assert scores.argmax(0).tolist() == [[0, 1]]


@pytest.mark.parametrize("merge", [SemanticMerge, AuthorsMerge])
def test_a_mask_of_exactly_one_half_covers(merge):
    below = 0.49999997  # The next smaller number.
    part_map = _merged(merge, torch.tensor([[[0.5, below]]]), [1.0], [0], 1)
    assert part_map.argmax(0).tolist() == [[0, 1]]
    assert part_map[1].tolist() == [[0, 1]]


def test_thresholds_of_scores_take_what_reaches_them():
    # 4/8 and 1/8 are exact: the first has just the score asked for.
    logits = _logits([0.5, 0.25, 0.25], [0.75, 0.125, 0.125])
    score = float(logits[:1].softmax(-1).max())
    assert select_parts(logits, **{**KEEP_ALL, "score_threshold": score}).queries.tolist() == [1, 0]
    assert select_parts(logits, **{**KEEP_ALL, "score_threshold": score + 1e-6}).queries.tolist() == [1]


def test_where_no_part_does_not_compete_the_last_class_may_win():
    found = select_parts(_logits([0.1, 0.2, 0.3, 0.4]), **KEEP_ALL, no_part_competes=False)
    assert found.queries.tolist() == [0] and found.classes.tolist() == [2]
    assert found.scores.tolist() == pytest.approx([0.3])


def test_for_an_object_no_query_is_too_unlikely():
    # Most likely no part, and still the best there is.
    queries, scores, _ = select_for_object(_logits([0.1, 0.1, 0.8]), None, [0, 1], nms_threshold=1.0, max_parts=100)
    assert queries.tolist() == [0] and scores.tolist() == [pytest.approx([0.1, 0.1])]
    # Boxes are thinned and counted here, too.
    boxes, two = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]]), _logits([0.6, 0.2, 0.2], [0.7, 0.2, 0.1])
    assert select_for_object(two, boxes, [0, 1], nms_threshold=0.5, max_parts=100).queries.tolist() == [1]
    assert select_for_object(two, None, [0, 1], nms_threshold=0.5, max_parts=1).queries.tolist() == [1]


def test_a_proposal_that_naming_may_still_lift_passes():
    # A mean of p^(1/2) * 1^(1/2) reaches 0.5 from p = 0.25 on, and one of p^(1/4) from 1/16.
    assert threshold_before_naming(0.5, 0.5) == pytest.approx(0.25)
    assert threshold_before_naming(0.5, 0.75) == pytest.approx(1 / 16)
    assert threshold_before_naming(0.5, 0.0) == 0.5
    # Where the insides alone decide, any may.
    assert threshold_before_naming(0.0, 1.0) == 0
    assert threshold_before_naming(0.5, 1.0) == 0 and threshold_before_naming(torch.ones(2), 1.0).tolist() == [0, 0]


def test_a_stretched_square_goes_back_in_one_step():
    # 1-D: cells 0 and 4 to four pixels are 0, 1, 3, 4; by way of a square of 3, whose pixels are 0, 2, 4, they are not.
    mask = torch.tensor([[0.0, 4.0], [0.0, 4.0]])
    image = resize_mask(mask, Frame(3, 3, 3, stretched=True), 5, 4)
    assert image.shape == (5, 4) and image[1].tolist() == pytest.approx([0, 1, 3, 4])
    assert resize_mask(mask, Frame(3, 3, 3), 5, 4)[1].tolist() == pytest.approx([0, 1.25, 2.75, 4])
