"""The two oracles give the model's outputs, so the ordinary evaluators score them."""

from __future__ import annotations

from typing import Any

from wps_sam.evaluation import (
    BoxPromptOracle,
    FilledBoxOracle,
    GroundTruth,
    PointPromptOracle,
    TrueBoxesOracle,
    TrueNamesOracle,
    build_evaluators,
    oracle_scores,
)

import numpy as np
import pytest
import torch
from detectron2.evaluation import inference_on_dataset
from evaluation_scenes import Scene, annotation, box_mask


def block(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    return box_mask(16, 16, x0, y0, x1, y1)


def part_map(output: dict[str, Any]) -> np.ndarray:
    return output["sem_seg"].argmax(0).numpy()


def test_filled_boxes_by_hand(scene: Scene) -> None:
    # An L of 48 pixels in a box of 8 x 8: filled, IoU 48/64. Without background in between, accuracy is 1.
    shape = block(0, 0, 8, 8) & ~block(4, 0, 8, 4)
    record = scene.add([annotation(0, shape)])
    empty = scene.add([])
    scene.register()
    oracle = FilledBoxOracle(GroundTruth(scene.name))
    results = inference_on_dataset(
        oracle, [[record, empty]], build_evaluators(["d2_semseg", "wps_image_part"], scene.name)
    )
    row = oracle_scores(results)
    assert row["mIoU"] == row["image_part_mIoU"] == pytest.approx(75.0)
    assert row["mACC"] == row["image_part_mACC"] == row["IoU-Animal Head"] + 25 == pytest.approx(100.0)


def test_the_smaller_box_lies_on_top_and_masks_overlap(scene: Scene) -> None:
    small, large = block(4, 4, 8, 8), block(0, 0, 12, 12)
    record = scene.add([annotation(1, small), annotation(0, large)])
    scene.register()
    (output,) = FilledBoxOracle(GroundTruth(scene.name))([record])
    expected = np.full((16, 16), 3)
    expected[large] = 0
    expected[small] = 1
    assert (part_map(output) == expected).all()
    assert output["instances"].pred_masks.sum(dim=(1, 2)).tolist() == [16, 144]
    assert output["instances"].pred_boxes.tensor.tolist() == [[4, 4, 8, 8], [0, 0, 12, 12]]


@pytest.mark.parametrize(
    ("bbox", "pixels"),
    [
        # A pixel belongs to the box when its centre does: columns 2 and 3 of [1.6, 4.4), rows 0 to 2 of [0, 3).
        ([1.6, 0.0, 2.8, 3.0], block(2, 0, 4, 3)),
        # Thinner than a pixel, between two centres: the pixel that holds its middle.
        ([2.6, 5.0, 0.2, 1.0], block(2, 5, 3, 6)),
        # Beyond the border: cut off.
        ([-4.0, 10.0, 6.0, 20.0], block(0, 10, 2, 16)),
        # No area, or no overlap with the picture: no part.
        ([3.0, 3.0, 0.0, 4.0], None),
        ([20.0, 3.0, 4.0, 4.0], None),
    ],
)
def test_boxes_become_pixels(scene: Scene, bbox: list[float], pixels: np.ndarray | None) -> None:
    record = scene.add([annotation(0, block(0, 0, 4, 4), bbox=bbox)])
    scene.register()
    masks = FilledBoxOracle(GroundTruth(scene.name))([record])[0]["instances"].pred_masks.numpy()
    assert len(masks) == (pixels is not None)
    if pixels is not None:
        assert (masks[0] == pixels).all()


def test_crowds_are_no_parts(scene: Scene) -> None:
    record = scene.add([annotation(0, block(0, 0, 4, 4), iscrowd=1)])
    scene.register()
    assert len(FilledBoxOracle(GroundTruth(scene.name))([record])[0]["instances"]) == 0


def test_annotations_without_box_are_left_out(scene: Scene) -> None:
    record = scene.add([annotation(0, block(0, 0, 4, 4), bbox=None), annotation(1, block(8, 8, 12, 12))])
    scene.register()
    (output,) = FilledBoxOracle(GroundTruth(scene.name))([record])
    assert output["instances"].pred_classes.tolist() == [1]
    assert (part_map(output)[:8] == 3).all()


def test_box_prompts_are_asked_once_and_the_surest_mask_wins(scene: Scene) -> None:
    first = scene.add([annotation(0, block(0, 0, 8, 8)), annotation(2, block(4, 4, 12, 12))])
    empty = scene.add([])
    scene.register()
    asked: list[Any] = []

    def prompt_masks(inputs: Any, boxes: list[torch.Tensor]) -> list[torch.Tensor]:
        asked.append(([i["file_name"] for i in inputs], [b.tolist() for b in boxes]))
        logits = torch.full((2, 16, 16), -3.0)
        logits[0, :8, :8] = 1.0
        logits[1, 4:12, 4:12] = 2.0
        logits[1, 15, 15] = 0.0  # probability 0.5 is a part
        return [logits]

    outputs = BoxPromptOracle(GroundTruth(scene.name), prompt_masks)([empty, first])
    # The picture without parts is not asked about.
    assert asked == [(["picture_0.JPEG"], [[[0, 0, 8, 8], [4, 4, 12, 12]]])]
    assert (part_map(outputs[0]) == 3).all() and len(outputs[0]["instances"]) == 0
    expected = np.full((16, 16), 3)
    expected[:8, :8] = 0
    expected[4:12, 4:12] = 2
    expected[15, 15] = 2
    assert (part_map(outputs[1]) == expected).all()
    assert outputs[1]["instances"].pred_masks.sum(dim=(1, 2)).tolist() == [64, 65]
    assert outputs[1]["instances"].pred_classes.tolist() == [0, 2]


def test_masks_of_another_size_are_refused(scene: Scene) -> None:
    record = scene.add([annotation(0, block(0, 0, 8, 8))])
    scene.register()
    oracle = BoxPromptOracle(GroundTruth(scene.name), lambda inputs, boxes: [torch.zeros(1, 8, 16)])
    with pytest.raises(ValueError, match=r"picture_0.JPEG: expected mask logits \[1, 16, 16\], got \[1, 8, 16\]"):
        oracle([record])


def test_pictures_of_another_data_set_are_refused(scene: Scene) -> None:
    scene.register()
    with pytest.raises(ValueError, match=r"strange.JPEG: image_id 5 is not in the data set"):
        FilledBoxOracle(GroundTruth(scene.name))([{"file_name": "strange.JPEG", "image_id": 5}])


def test_points_are_asked_for_where_there_are_some(scene: Scene) -> None:
    first = scene.add(
        [annotation(0, block(0, 0, 8, 8)), annotation(2, block(4, 4, 12, 12)), annotation(1, block(0, 12, 4, 16))]
    )
    scene.register()
    asked: list[Any] = []

    def prompt_masks(inputs: Any, points: list[torch.Tensor]) -> list[torch.Tensor]:
        asked.extend(points[0].tolist())
        return [torch.full((2, 16, 16), 1.0)]

    def point(part: Any, height: int, width: int) -> tuple[float, float] | None:
        assert (height, width) == (16, 16)
        return None if part["category_id"] == 2 else (part["bbox"][0] + 1.0, part["bbox"][1] + 2.0)

    (output,) = PointPromptOracle(GroundTruth(scene.name), prompt_masks, point)([first])
    assert asked == [[1, 2], [1, 14]] and output["instances"].pred_classes.tolist() == [0, 1]


def test_masks_get_the_name_of_what_they_cover(scene: Scene) -> None:
    """The left mask is called 1 and lies on 0; the right one covers more background than part, and is none."""
    record = scene.add([annotation(0, block(0, 0, 8, 8)), annotation(2, block(10, 0, 12, 4))])
    scene.register()
    own = scene.output(
        record, [(1, block(1, 0, 8, 9)), (2, block(10, 0, 16, 4)), (0, block(0, 0, 2, 2))], scores=[0.5, 0.9, 0.4]
    )
    (output,) = TrueNamesOracle(GroundTruth(scene.name), lambda inputs: [own])([record])
    assert output["instances"].pred_classes.tolist() == [0, 0]
    expected = np.full((16, 16), 3)
    expected[block(1, 0, 8, 9)] = expected[block(0, 0, 2, 2)] = 0
    assert (part_map(output) == expected).all()
    # The model's own output stays as it was.
    assert own["instances"].pred_classes.tolist() == [1, 2, 0]


def test_true_boxes_get_the_models_names(scene: Scene) -> None:
    left, right, far = block(0, 0, 8, 8), block(10, 0, 14, 4), block(0, 12, 4, 16)
    record = scene.add([annotation(0, left), annotation(2, right), annotation(1, far)])
    scene.register()
    own = scene.output(record, [(1, block(0, 0, 4, 3)), (0, block(7, 0, 16, 2))], scores=[0.5, 0.9])
    masks = torch.stack([torch.from_numpy(m) for m in (left, right, far)]).float() * 2 - 1
    oracle = TrueBoxesOracle(GroundTruth(scene.name), lambda inputs, boxes: [masks], lambda inputs: [own])
    (output,) = oracle([record])
    # 12 pixels of class 1 and 2 of class 0 in the left one; the far one has no part of the model's in it.
    assert output["instances"].pred_classes.tolist() == [1, 0]
    expected = np.full((16, 16), 3)
    expected[left], expected[right] = 1, 0
    assert (part_map(output) == expected).all()
