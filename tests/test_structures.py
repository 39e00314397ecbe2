"""Values that stages hand to each other."""

import dataclasses

from wps_sam.structures import PADDING, UNKNOWN, Frame, LabelKind, PartTargets, Proposals, input_size

import pytest
import torch


def test_numbers_that_are_written_into_files():
    """In caches of features and label maps: others would be read as something else."""
    assert (UNKNOWN, PADDING) == (2**16 - 1, 2**16 - 2)
    assert [(kind.name, int(kind)) for kind in LabelKind] == [("TAG", 0), ("POINT", 1), ("BOX", 2), ("MASK", 3)]


def test_a_frame_cannot_be_moved():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Frame(8, 4, 6).top = 1


def test_the_size_of_an_input_is_its_pictures_or_said():
    assert input_size({"image": torch.zeros(3, 4, 5), "image_size": (6, 7)}) == (4, 5)
    assert input_size({"image_size": (6, 7)}) == (6, 7)


def test_targets_of_one_kind_have_zeros_for_the_other():
    labels, boxes, points = torch.tensor([3, 1]), torch.rand(2, 4), torch.rand(2, 2)
    of_boxes, of_points = PartTargets.of_boxes(labels, boxes), PartTargets.of_points(labels, points)
    assert of_boxes.kinds.tolist() == [2, 2] and of_points.kinds.tolist() == [1, 1]
    assert of_boxes.boxes is boxes and of_points.points is points
    assert torch.equal(of_boxes.points, torch.zeros(2, 2)) and torch.equal(of_points.boxes, torch.zeros(2, 4))
    for targets in (of_boxes, of_points):
        assert targets.labels is labels and len(targets) == 2
        assert (targets.masks, targets.tags, targets.cropped, targets.part_map) == (None, None, False, None)
    assert of_boxes.of_kind(LabelKind.POINT, LabelKind.BOX).tolist() == [True, True]
    assert of_boxes.of_kind(LabelKind.POINT).tolist() == of_boxes.of_kind().tolist() == [False, False]


def test_tokens_are_those_of_all_queries_of_each_image():
    def encode(image, queries):
        assert queries.dtype == torch.int64
        return (100 * image + queries)[:, None, None].expand(-1, 2, 5)

    tokens = Proposals(torch.zeros(3, 4, 7), encode).tokens
    assert tokens.shape == (3, 4, 2, 5)
    assert tokens[:, :, 1, 4].tolist() == [[0, 1, 2, 3], [100, 101, 102, 103], [200, 201, 202, 203]]
