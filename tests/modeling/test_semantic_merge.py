"""Which queries become parts, and how masks become one part map."""

from wps_sam.modeling.semantic_merge import (
    keep_queries,
    merge_authors,
    merge_semantic,
    merge_within_object,
    resize_masks,
)
from wps_sam.structures import Frame

import pytest
import torch

KEEP_ALL = dict(score_threshold=0.0, nms_threshold=1.0, max_parts=100)


def _logits(*probabilities):
    return torch.tensor(probabilities).log()


def test_keeps_queries_whose_likeliest_class_is_a_part_surest_first():
    logits = _logits([0.5, 0.2, 0.3], [0.3, 0.3, 0.4], [0.1, 0.8, 0.1])
    kept, scores, classes = keep_queries(logits, **KEEP_ALL)
    assert kept.tolist() == [2, 0] and classes.tolist() == [1, 0]
    assert scores.tolist() == pytest.approx([0.8, 0.5])
    assert keep_queries(logits, **{**KEEP_ALL, "score_threshold": 0.6})[0].tolist() == [2]
    assert keep_queries(logits, **{**KEEP_ALL, "max_parts": 1})[0].tolist() == [2]


def test_thins_boxes_of_one_class_only():
    logits = _logits([0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.2, 0.7, 0.1])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]])
    kept, _, _ = keep_queries(logits, boxes, **{**KEEP_ALL, "nms_threshold": 0.5})
    assert sorted(kept.tolist()) == [0, 2]
    assert len(keep_queries(logits, boxes, **KEEP_ALL)[0]) == 3


def test_no_query_left():
    kept, scores, classes = keep_queries(_logits([0.1, 0.9], [0.2, 0.8]), torch.zeros(2, 4), **KEEP_ALL)
    assert len(kept) == len(scores) == len(classes) == 0


def test_semantic_merge_by_hand():
    # One row of four pixels, two queries. Pixel 0: only query 0 covers. 1: both, 0.9 * 0.6 < 0.6 * 1.0.
    # 2: query 0 has the larger product (0.9 * 0.45) but does not cover the pixel. 3: nobody covers.
    probabilities = torch.tensor([[[0.9, 0.6, 0.45, 0.4]], [[0.1, 1.0, 0.6, 0.4]]])
    part_map = merge_semantic(probabilities, torch.tensor([0.9, 0.6]), torch.tensor([0, 1]), 2)
    assert part_map.shape == (3, 1, 4)
    assert part_map.argmax(0).tolist() == [[0, 1, 1, 2]]
    assert part_map[0, 0].tolist() == pytest.approx([0.81, 0.54, 0, 0])


def test_authors_merge_sums_queries_of_one_class():
    # protocols.md: two queries of one class with 0.3 at a pixel make foreground (0.6 >= 0.5).
    probabilities = torch.tensor([[[0.3, 0.2]], [[0.3, 0.2]]])
    classes = torch.tensor([0, 0])
    part_map = merge_authors(probabilities, torch.ones(2), classes, 2)
    assert part_map.argmax(0).tolist() == [[0, 2]]
    assert merge_semantic(probabilities, torch.ones(2), classes, 2).argmax(0).tolist() == [[2, 2]]


@pytest.mark.parametrize("merge", [merge_semantic, merge_authors])
def test_no_masks_is_background(merge):
    part_map = merge(torch.zeros(0, 2, 3), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 4)
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


def test_frame_refuses_another_square():
    with pytest.raises(ValueError, match="64, 64"):
        Frame(64, 64, 32).crop(torch.zeros(1, 32, 32))


def test_within_an_object_every_query_has_its_likeliest_part():
    # Query 1 is most likely no part at all, query 0 below the threshold: both stay, by their best part.
    logits = _logits([0.3, 0.3, 0.4], [0.2, 0.1, 0.7])
    kept, scores, classes = keep_queries(logits, **{**KEEP_ALL, "score_threshold": 0.9}, only_parts=False)
    assert kept.tolist() == [0, 1] and classes.tolist() == [0, 0]
    assert scores.tolist() == pytest.approx([0.3, 0.2])


def test_merge_within_an_object_by_hand():
    # Two pixels, two queries, two classes. Pixel 0: class 0 from query 0, 0.6 * 0.4 = 0.24, or query 1,
    # 0.1 * 0.2 = 0.02; class 1: 0.3 * 0.4 = 0.12 or 0.8 * 0.2 = 0.16. Pixel 1: 0.06, 0.09; 0.03, 0.72.
    masks = torch.tensor([[[0.4, 0.1]], [[0.2, 0.9]]])
    scores = merge_within_object(masks, torch.tensor([[0.6, 0.3], [0.1, 0.8]]))
    assert torch.allclose(scores[:, 0], torch.tensor([[0.24, 0.09], [0.16, 0.72]]))
    # With a mask threshold of one half pixel 0 would have had no part.
    assert scores.argmax(0).tolist() == [[0, 1]]
