"""COCO's AP from cleaned truth, and the error breakdown, on numbers worked out by hand. Results in percent."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from wps_sam.evaluation import CocoAPEvaluator, ErrorBreakdownEvaluator

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from evaluation_scenes import Scene, annotation, box_mask, run


def block(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    return box_mask(40, 40, x0, y0, x1, y1)


def ap(scene: Scene, outputs: list[Any], **options: Any) -> dict[str, float]:
    return run(CocoAPEvaluator(scene.name, **options), scene.records, outputs)["coco_ap"]


def breakdown(scene: Scene, outputs: list[Any]) -> dict[str, float]:
    return run(ErrorBreakdownEvaluator(scene.name), scene.records, outputs)["error_breakdown"]


# ------------------------------------------------------------------ coco_ap


def test_ap_by_hand(scene: Scene) -> None:
    # Two pieces; one is found with IoU 80/100, the other not at all. Precision is 1 up to recall 0.5, which are 51
    # of the 101 recall points, at the 7 thresholds 0.50 ... 0.80 of 10, and 0 elsewhere.
    record = scene.add([annotation(0, block(0, 0, 10, 10)), annotation(0, block(20, 20, 30, 30))], size=(40, 40))
    scene.register()
    scores = ap(scene, [scene.output(record, [(0, block(0, 0, 10, 8))])])
    assert scores["AP"] == pytest.approx(100 * 0.7 * 51 / 101)
    assert scores["AP50"] == scores["AP75"] == pytest.approx(100 * 51 / 101)
    assert scores["box_AP"] == pytest.approx(100 * 0.7 * 51 / 101)
    assert scores["AP-Animal Head"] == pytest.approx(scores["AP"])
    # Without ground truth there is no AP, and it is no 0 in the mean.
    assert math.isnan(scores["AP-Car Wheel"])


def test_the_surest_detections_count_first(scene: Scene) -> None:
    # The right one behind a wrong one has precision 1/2 at every recall; in front of it, 1.
    right, wrong = block(0, 0, 10, 10), block(20, 20, 30, 30)
    record = scene.add([annotation(0, right)], size=(40, 40))
    scene.register()
    parts = [(0, right), (0, wrong)]
    assert ap(scene, [scene.output(record, parts, scores=[0.9, 0.1])])["AP"] == pytest.approx(100.0)
    assert ap(scene, [scene.output(record, parts, scores=[0.1, 0.9])])["AP"] == pytest.approx(50.0)


def test_mask_ap_is_not_box_ap(scene: Scene) -> None:
    frame_shape = block(0, 0, 20, 20) & ~block(4, 4, 16, 16)
    record = scene.add([annotation(0, frame_shape)], size=(40, 40))
    scene.register()
    # The box filled: IoU of the boxes is 1, of the masks 256 / 400 = 0.64: thresholds 0.50, 0.55, 0.60.
    scores = ap(scene, [scene.output(record, [(0, block(0, 0, 20, 20))])])
    assert scores["box_AP"] == pytest.approx(100.0)
    assert scores["AP"] == pytest.approx(30.0)
    assert scores["AP75"] == 0.0


def test_no_predictions_at_all(scene: Scene) -> None:
    record = scene.add([annotation(0, block(0, 0, 10, 10))], size=(40, 40))
    scene.register()
    scores = ap(scene, [scene.output(record, [])])
    assert scores["AP"] == scores["AP75"] == scores["box_AP50"] == scores["AP-Animal Head"] == 0.0
    assert math.isnan(scores["AP-Animal Body"])


@pytest.mark.parametrize("predicted", [False, True])
def test_no_valid_annotation(scene: Scene, predicted: bool) -> None:
    record = scene.add([], size=(40, 40))
    scene.register()
    output = scene.output(record, [(0, block(0, 0, 10, 10))] if predicted else [])
    assert all(math.isnan(value) for value in ap(scene, [output]).values())


def test_no_pictures_scored(scene: Scene) -> None:
    scene.register()
    assert all(math.isnan(value) for value in ap(scene, []).values())


@pytest.mark.parametrize("ids", [("b", "a", "10"), (0, 7, 3), ("n01_1", 0, 1)])
def test_image_ids_of_any_kind(scene: Scene, ids: tuple[Any, ...]) -> None:
    masks = [block(4 * i, 0, 4 * i + 10, 10) for i in range(3)]
    records = [scene.add([annotation(0, mask)], size=(40, 40), image_id=i) for mask, i in zip(masks, ids)]
    scene.register()
    outputs = [scene.output(r, [(0, mask)]) for r, mask in zip(records, masks)]
    assert ap(scene, outputs)["AP"] == pytest.approx(100.0)
    # Each against the truth of the next picture: IoU 6/14 or 2/18, below all thresholds.
    shifted = [scene.output(r, [(0, mask)]) for r, mask in zip(records, masks[1:] + masks[:1])]
    assert ap(scene, shifted)["AP"] == 0.0


def test_crowds_neither_reward_nor_punish(scene: Scene) -> None:
    single, crowd = block(0, 0, 10, 10), block(20, 0, 40, 40)
    record = scene.add([annotation(0, single), annotation(0, crowd, iscrowd=1)], size=(40, 40))
    scene.register()
    inside = block(22, 5, 30, 15)
    scores = ap(scene, [scene.output(record, [(0, inside), (0, single)], scores=[0.9, 0.8])])
    assert scores["AP"] == pytest.approx(100.0)
    # The same piece in the open is a false positive ahead of the right one.
    outside = block(0, 20, 8, 30)
    scores = ap(scene, [scene.output(record, [(0, outside), (0, single)], scores=[0.9, 0.8])])
    assert scores["AP"] == pytest.approx(50.0)


def test_broken_annotations_are_cleaned(scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mask = block(0, 0, 10, 10)
    square = [0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0]
    record = scene.add(
        [
            # COCO's code would take the first polygon for a box, and raise on the second.
            annotation(0, mask, segmentation=[[0.0, 0.0, 30.0, 30.0], [1.0, 2.0], [], square]),
            # A box without a mask: takes part in box AP alone.
            annotation(1, block(20, 20, 30, 30), segmentation=None),
            annotation(1, block(20, 20, 30, 32), segmentation=[[1.0, 2.0]]),
            # A mask without a box: takes part in mask AP alone.
            annotation(2, block(0, 20, 10, 30), bbox=[0.0, 20.0, 0.0, 10.0]),
        ],
        size=(40, 40),
    )
    scene.register()
    parts = [(0, mask), (1, block(20, 20, 30, 30)), (2, block(0, 20, 10, 30))]
    with caplog.at_level(logging.WARNING, logger="wps_sam.evaluation"):
        scores = ap(scene, [scene.output(record, parts)], output_dir=str(tmp_path / "new"))
    tmp_path = tmp_path / "new"
    assert ": 2 annotations have no usable mask and take no part in mask AP" in caplog.text
    assert ": 1 annotations have no usable box and take no part in box AP" in caplog.text
    assert scores["AP"] == pytest.approx(100.0)  # over classes 0 and 2
    # Class 0: 1. Class 1: one of two boxes found, 51 of 101 recall points.
    assert scores["box_AP"] == pytest.approx(100 * (1 + 51 / 101) / 2)
    by_class = [scores[f"box_AP-{name}"] for name in ("Animal Head", "Animal Body", "Car Wheel")]
    assert by_class == pytest.approx([100, 100 * 51 / 101, math.nan], nan_ok=True)
    written = json.loads((tmp_path / "coco_ap_ground_truth_mask.json").read_text())
    assert [a["category_id"] for a in written["annotations"]] == [0, 2]
    assert [a["id"] for a in written["annotations"]] == [1, 2]
    # Of the masks; in the other file of the boxes where there is no mask.
    assert [a["area"] for a in written["annotations"]] == [100, 100]
    boxes = json.loads((tmp_path / "coco_ap_ground_truth_box.json").read_text())
    assert [(a["id"], a["area"]) for a in boxes["annotations"]] == [(1, 100), (2, 100), (3, 120)]
    # The predicted masks are in the first, where there are two.
    results = [
        json.loads((tmp_path / f"coco_ap_{k}" / "coco_instances_results.json").read_text()) for k in ("mask", "box")
    ]
    assert ["segmentation" in found[0] for found in results] == [True, False]
    assert not [name for name in MetadataCatalog.list() if name.startswith("coco_ap_")]


def test_an_annotation_without_box_takes_part_in_mask_ap_alone(
    scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_box, without, point_only = block(0, 0, 10, 10), block(20, 20, 30, 30), block(0, 30, 5, 35)
    record = scene.add(
        [
            annotation(0, with_box),
            annotation(1, without, bbox=None),
            annotation(2, point_only, bbox=None, segmentation=None),
        ],
        size=(40, 40),
    )
    scene.register()
    with caplog.at_level(logging.WARNING, logger="wps_sam.evaluation"):
        scores = ap(scene, [scene.output(record, [(0, with_box), (1, without)])], output_dir=str(tmp_path))
    assert "1 annotations have no usable mask and take no part in mask AP" in caplog.text
    assert "2 annotations have no usable box and take no part in box AP" in caplog.text
    # Counted as a miss, the last one would make a class with AP 0.
    assert scores["AP"] == scores["AP-Animal Body"] == scores["box_AP"] == pytest.approx(100)
    assert math.isnan(scores["AP-Car Wheel"])
    written = [json.loads((tmp_path / f"coco_ap_ground_truth_{k}.json").read_text()) for k in ("mask", "box")]
    assert [[a["category_id"] for a in truth["annotations"]] for truth in written] == [[0, 1], [0]]
    assert ["bbox" in a for a in written[0]["annotations"]] == [True, False]


def test_the_one_class_of_a_data_set_has_the_ap_of_all(scene: Scene) -> None:
    scene.classes = scene.classes[:1]
    mask = block(0, 0, 10, 10)
    # Without a word on crowds it is none.
    record = scene.add([annotation(0, mask, iscrowd=None)], size=(40, 40))
    scene.register()
    scores = ap(scene, [scene.output(record, [(0, mask)])])
    assert scores["AP"] == scores["AP-Animal Head"] == scores["box_AP-Animal Head"] == pytest.approx(100)


def test_a_second_evaluation_forgets_the_first(scene: Scene) -> None:
    mask = block(0, 0, 10, 10)
    record = scene.add([annotation(0, mask)], size=(40, 40))
    scene.register()
    evaluator = CocoAPEvaluator(scene.name)
    # Ready from the start, too.
    evaluator.process([record], [scene.output(record, [(0, mask)])])
    assert run(evaluator, [record], [scene.output(record, [(0, mask)])])["coco_ap"]["AP"] == pytest.approx(100.0)
    assert run(evaluator, [record], [scene.output(record, [])])["coco_ap"]["AP"] == 0.0


# ------------------------------------------------------------------ error_breakdown


def test_every_piece_has_one_outcome(scene: Scene) -> None:
    found, swallowed = block(0, 0, 10, 10), block(20, 0, 30, 10)
    misnamed, missing = block(0, 20, 10, 30), block(14, 30, 20, 36)
    record = scene.add(
        [annotation(0, found), annotation(1, swallowed), annotation(0, misnamed), annotation(0, missing)],
        size=(40, 40),
    )
    scene.register()
    output = scene.output(
        record,
        [
            (0, block(0, 0, 10, 6)),  # mask IoU 60/100
            (1, block(20, 0, 40, 15)),  # all of it and more, mask IoU 100/300
            (1, misnamed),
            (2, block(14, 30, 16, 36)),  # a third of the missing one, whose other pixels are background
        ],
    )
    scores = breakdown(scene, [output])
    expected = {"found": 25, "wrong_mask": 25, "wrong_name": 25, "not_found": 25}
    # Of 336 true pixels: 60 and 100 right; 100 and 12 under another name; 40 and 24 background. 200 more are too much.
    expected |= {"pixels_right": 160 / 3.36, "pixels_wrong_name": 112 / 3.36, "pixels_not_found": 64 / 3.36}
    expected |= {"foreground_IoU": 100 * 272 / 536, "false_positives_per_image": 3}
    assert scores == pytest.approx(expected)


def test_a_name_elsewhere_in_the_picture_explains_nothing(scene: Scene) -> None:
    left, right = block(0, 0, 10, 10), block(20, 0, 30, 10)
    record = scene.add([annotation(0, left), annotation(0, right)], size=(40, 40))
    scene.register()
    scores = breakdown(scene, [scene.output(record, [(0, block(0, 20, 10, 30)), (0, left)])])
    assert scores["found"] == 50 and scores["not_found"] == 50
    assert scores["false_positives_per_image"] == 1


def test_a_mask_of_exactly_one_half_is_found(scene: Scene) -> None:
    record = scene.add([annotation(0, block(0, 0, 10, 10))], size=(40, 40))
    scene.register()
    assert breakdown(scene, [scene.output(record, [(0, block(0, 0, 10, 5))])])["found"] == 100
    assert breakdown(scene, [scene.output(record, [(0, block(0, 0, 10, 4))])])["found"] == 0
    # Unmatched, it is no false positive if half of it lies in a crowd of its class, and one if less does.
    crowd = scene.records[0]["annotations"]
    crowd.append(annotation(0, block(15, 0, 25, 10), iscrowd=1) | {"id": 2})
    for width, expected in ((20, 0), (21, 1)):
        scores = breakdown(scene, [scene.output(record, [(0, block(15, 0, 15 + width, 10))])])
        assert scores["false_positives_per_image"] == expected


def test_duplicates_are_false_positives_and_the_surest_is_matched_first(scene: Scene) -> None:
    mask, near = block(0, 0, 10, 10), block(0, 0, 10, 7)
    record = scene.add([annotation(0, mask)], size=(40, 40))
    scene.register()
    scores = breakdown(scene, [scene.output(record, [(0, near), (0, mask)], scores=[0.2, 0.9])])
    assert scores["found"] == 100 and scores["false_positives_per_image"] == 1


def test_the_best_unmatched_instance_is_matched(scene: Scene) -> None:
    # The first prediction covers both pieces at 0.5 or more and takes the better one, so both are found.
    small, large = block(0, 0, 10, 10), block(0, 0, 10, 14)
    record = scene.add([annotation(0, small), annotation(0, large)], size=(40, 40))
    scene.register()
    output = scene.output(record, [(0, block(0, 0, 10, 13)), (0, small)], scores=[0.9, 0.8])
    assert breakdown(scene, [output])["found"] == 100


def test_what_has_no_mask_or_an_empty_one_is_no_piece(scene: Scene) -> None:
    mask = block(0, 0, 10, 10)
    sliver = [[0.1, 0.1, 0.3, 0.1, 0.3, 0.3]]
    # Without a word on crowds it is none.
    kept = annotation(0, mask, iscrowd=None)
    record = scene.add(
        [kept, annotation(1, mask, segmentation=None), annotation(1, mask, segmentation=sliver)], size=(40, 40)
    )
    nothing = scene.add([], size=(40, 40))
    scene.register()
    wrong = (1, block(20, 20, 30, 30))
    scores = breakdown(scene, [scene.output(record, [(0, mask), wrong]), scene.output(nothing, [wrong, wrong])])
    assert scores["found"] == 100 and scores["false_positives_per_image"] == 1.5


def test_crowds_are_no_pieces_and_swallow_what_lies_in_them(scene: Scene) -> None:
    crowd = annotation(0, block(0, 0, 40, 20), iscrowd=1)
    record = scene.add([crowd, annotation(1, block(0, 30, 10, 40))], size=(40, 40))
    scene.register()
    output = scene.output(record, [(0, block(4, 4, 10, 10)), (2, block(4, 4, 10, 10))])
    scores = breakdown(scene, [output])
    assert scores["not_found"] == 100 and scores["false_positives_per_image"] == 1


def test_an_annotation_without_box_is_where_its_mask_is(scene: Scene) -> None:
    hollow = block(20, 0, 40, 20)
    record = scene.add([annotation(1, hollow, bbox=None)], size=(40, 40))
    scene.register()
    # Every pixel has its name, in a mask of IoU 400/900.
    scores = breakdown(scene, [scene.output(record, [(1, block(10, 0, 40, 30))])])
    assert scores["wrong_mask"] == 100


def test_without_pieces_there_are_no_shares(scene: Scene) -> None:
    record = scene.add([], size=(40, 40))
    scene.register()
    scores = breakdown(scene, [scene.output(record, [])])
    assert all(math.isnan(scores[outcome]) for outcome in ErrorBreakdownEvaluator.OUTCOMES)
    assert scores["false_positives_per_image"] == 0


def test_mean_aps_of_seen_and_unseen_classes(scene: Scene) -> None:
    """Of two seen ones one is found whole, one not at all; the unseen one by half."""
    masks = [block(0, 0, 10, 10), block(20, 0, 30, 10), block(0, 20, 10, 30)]
    record = scene.add([annotation(c, mask) for c, mask in enumerate(masks)], size=(40, 40))
    scene.register()
    MetadataCatalog.get(scene.name).evaluation_set = {"base": [0, 1]}
    scores = ap(scene, [scene.output(record, [(0, masks[0]), (2, block(0, 20, 10, 28))])])
    assert (scores["AP-base"], scores["AP-unbase"]) == (pytest.approx(50), pytest.approx(70))
