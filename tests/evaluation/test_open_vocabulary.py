"""The protocols of OV-PARTS on pictures of one row, small enough to count pixels by hand. Results are in percent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wps_sam.evaluation import (
    AllPartsEvaluator,
    GroundTruth,
    OracleObjectEvaluator,
    PredictedObjectEvaluator,
    build_evaluators,
    open_vocabulary,
    unseen_classes,
)
from wps_sam.evaluation.open_vocabulary import OpenVocabularyEvaluator
from wps_sam.masks import segmentation_to_mask

import numpy as np
import pytest
import torch
from evaluation_scenes import Scene, annotation, box_mask, run
from open_vocabulary_scenes import BOAT, BUS, CAT, CLASSES, NOTHING, WILDCAT, OVScene, output, own_output
from PIL import Image

# A cat of five pixels, one of them without a part label; a pixel of no object; a bus.
PARTS = [[0, 0, 1, 1, 255, 255, 3, 3]]
OBJECTS = [[0, 0, 0, 0, 0, 255, 2, 2]]
# What is predicted for the cat, and for the bus.
FOR_CAT, FOR_BUS = [[0, 1, 1, 0, 0, 0, 1, 1]], [[4, 4, 4, 4, 4, 4, 3, 4]]


def score(evaluator: OpenVocabularyEvaluator, outputs: list[Any], inputs: list[Any] | None = None) -> Any:
    """The metrics of the evaluator's protocol over all pictures of its data set."""
    return run(evaluator, inputs or list(evaluator.ground_truth.records), outputs)[evaluator.protocol]


# ------------------------------------------------------------------ ov_oracle


@pytest.fixture
def cat_and_bus(ov_scene: OVScene) -> OVScene:
    """The picture above as two object-conditioned records."""
    ov_scene.add(PARTS, OBJECTS, CAT, stem="2008_000001")
    ov_scene.add(PARTS, OBJECTS, BUS, stem="2008_000001")
    ov_scene.register()
    return ov_scene


# The best class of all is another object's everywhere, then background: neither may be allowed.
ALL_CLASSES = [output([[2] * 8], [[NOTHING] * 8], FOR_CAT), output([[0] * 8], [[NOTHING] * 8], FOR_BUS)]
OWN_CLASSES = [own_output({}, [1, 0], FOR_CAT), own_output({}, [3, 4], FOR_BUS)]


@pytest.mark.parametrize("outputs", [ALL_CLASSES, OWN_CLASSES], ids=["all classes", "own classes"])
def test_oracle_by_hand(cat_and_bus: OVScene, outputs: list[Any]) -> None:
    scores = score(OracleObjectEvaluator(cat_and_bus.name), outputs)
    # Cat, four labelled pixels: 0 0 1 1 predicted as 0 1 1 0. Each class: TP 1, gt 2, predicted 2, IoU 1/(2+2-1).
    # Bus, two: 3 3 predicted as 3 4. Class 3: TP 1, gt 2, predicted 1, IoU 1/2. Class 4 is predicted and absent.
    assert scores["IoU-cat's head"] == scores["IoU-cat's leg"] == pytest.approx(100 / 3)
    assert scores["IoU-bus's wheel"] == pytest.approx(50)
    assert math.isnan(scores["IoU-bus's door"]) and math.isnan(scores["IoU-wildcat's tail"])
    total = 1 / 3 + 1 / 3 + 1 / 2
    # The reference: four classes with ground truth or prediction. Seen: 0 and 1. Unseen: 3, and 4 counts too.
    assert scores["mIoU"] == pytest.approx(100 * total / 4)
    assert scores["mIoU-base"] == pytest.approx(100 / 3)
    assert scores["mIoU-unbase"] == pytest.approx(100 * (1 / 2) / 2)
    assert scores["hIoU"] == pytest.approx(100 * 2 * (1 / 3) * (1 / 4) / (1 / 3 + 1 / 4))
    # With ground truth only, three classes and one unseen.
    assert scores["mIoU_gt"] == pytest.approx(100 * total / 3)
    assert scores["mIoU_gt-base"] == pytest.approx(100 / 3)
    assert scores["mIoU_gt-unbase"] == pytest.approx(50)
    assert scores["hIoU_gt"] == pytest.approx(100 * 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert scores["fwIoU"] == pytest.approx(100 * total * 2 / 6)
    # Recall: half of each class is found. In a picture of one row every pixel is near an outline.
    assert scores["mRecall"] == scores["mRecall-base"] == scores["mRecall-unbase"] == scores["hRecall"] == 50
    assert scores["Recall-bus's wheel"] == 50 and math.isnan(scores["Recall-bus's door"])
    for name in ("-base", "-unbase"):
        assert scores[f"mBoundaryIoU{name}"] == pytest.approx(scores[f"mIoU_gt{name}"])
    assert scores["hBoundaryIoU"] == pytest.approx(scores["hIoU_gt"])
    assert set(scores) == {
        *(f"{mean}{group}" for mean in ("mIoU", "mIoU_gt", *MORE_MEANS) for group in ("", "-base", "-unbase")),
        *("hIoU", "hIoU_gt", "hRecall", "hBoundaryIoU", "fwIoU"),
        *(f"{score}-{name}" for score in ("IoU", "Recall", "BoundaryIoU") for name in CLASSES),
    }


MORE_MEANS = ("mRecall", "mBoundaryIoU")


def test_boundaries_of_an_object_are_those_of_its_labelled_pixels(ov_scene: OVScene) -> None:
    # A cat of 12 x 6 pixels, upper half head, lower half leg; the model puts the border between them a row too low.
    parts = np.full((14, 8), 255)
    parts[1:7, 1:7], parts[7:13, 1:7] = 0, 1
    ov_scene.add(parts, np.where(parts == 255, 255, CAT), CAT)
    ov_scene.register()
    halves = np.repeat([[0]] * 8 + [[1]] * 6, 8, axis=1)
    scores = score(OracleObjectEvaluator(ov_scene.name), [own_output({}, [0, 1], halves)])
    # Heads of 7 x 6 and 6 x 6, rings of 22 and 20 pixels, which share three sides, 6 + 5 + 5. Legs of 5 x 6 and 6 x 6,
    # rings of 18 and 20: 6 + 4 + 4. What is predicted outside of the cat, where nobody knows the truth, is no outline.
    head, leg = 16 / (22 + 20 - 16), 14 / (18 + 20 - 14)
    assert scores["BoundaryIoU-cat's head"] == pytest.approx(100 * head)
    assert scores["BoundaryIoU-cat's leg"] == pytest.approx(100 * leg)
    assert scores["mBoundaryIoU"] == scores["mBoundaryIoU-base"] == pytest.approx(50 * (head + leg))
    assert (scores["Recall-cat's head"], scores["Recall-cat's leg"]) == pytest.approx((100, 100 * 5 / 6))
    # Over whole masks.
    assert scores["mIoU"] == pytest.approx(50 * (36 / 42 + 30 / 36))


def not_of_the_object(part_map: np.ndarray, *_: Any) -> np.ndarray:
    return part_map


def test_oracle_outside_the_object_nothing_counts(cat_and_bus: OVScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_vocabulary, "restrict_to_object", not_of_the_object)
    scores = score(OracleObjectEvaluator(cat_and_bus.name), OWN_CLASSES)
    # Without the restriction the bus is scored against the cat's prediction too and the cat against the bus's:
    # class 3 has TP 1, gt 4, predicted 1.
    assert scores["IoU-bus's wheel"] == pytest.approx(25)


def test_oracle_unlabelled_pixels_of_the_object_do_not_count(cat_and_bus: OVScene) -> None:
    labelled = score(OracleObjectEvaluator(cat_and_bus.name), OWN_CLASSES)
    # Whatever is predicted at the cat's fifth pixel: counted as a false positive, class 0 would have 1/4.
    other = own_output({}, [0, 1], [[0, 1, 1, 0, 1, 1, 0, 0]])
    assert score(OracleObjectEvaluator(cat_and_bus.name), [other, OWN_CLASSES[1]]) == pytest.approx(
        labelled, nan_ok=True
    )


def test_oracle_substring_names_are_another_number(cat_and_bus: OVScene) -> None:
    assert score(OracleObjectEvaluator(cat_and_bus.name), ALL_CLASSES)["IoU-cat's head"] > 0
    compat = OracleObjectEvaluator(cat_and_bus.name, compat=["substring_names"])
    # "wildcat's tail" holds "cat" and wins everywhere; a bus's classes are the same by both rules.
    scores = score(compat, ALL_CLASSES)
    assert scores["IoU-cat's head"] == scores["IoU-cat's leg"] == 0.0
    assert scores["IoU-bus's wheel"] == pytest.approx(50)
    with pytest.raises(ValueError, match=r"2008_000001.jpg: expected part_classes \[0, 1, 2\] .* all classes"):
        score(compat, OWN_CLASSES)


def test_oracle_resized_labels(ov_scene: OVScene) -> None:
    ov_scene.add([[0, 1, 0, 1]], [[0, 0, 0, 0]], CAT)
    record = ov_scene.records[0]
    ov_scene.register()
    outputs = [output([[0, 1, 0, 1]])]
    assert score(OracleObjectEvaluator(ov_scene.name), outputs)["mIoU"] == pytest.approx(100)
    # At half the width the first and third pixel are left: 0 0, and back 0 0 0 0. Class 1 is now absent.
    compat = OracleObjectEvaluator(ov_scene.name, compat=["resized_labels"])
    scores = score(compat, outputs, [record | {"image": torch.zeros(3, 1, 2)}])
    assert scores["IoU-cat's head"] == pytest.approx(50)
    assert scores["mIoU"] == pytest.approx(25) and scores["mIoU_gt"] == pytest.approx(50)


def test_oracle_of_instances(ov_scene: OVScene) -> None:
    # Two cats overlap in the third pixel; each is a record of its own, so that pixel is scored twice.
    ov_scene.ignore_label = 65535
    parts, first, second = [[0, 0, 1, 1]], [[1, 1, 1, 0]], [[0, 0, 1, 1]]
    for number, mask in enumerate((first, second)):
        ov_scene.add_instances(parts, [(CAT, mask)], CAT)["image_id"] = f"cat_{number}"
    ov_scene.register()
    scores = score(OracleObjectEvaluator(ov_scene.name), [output([[0, 0, 0, 0]]), output([[1, 1, 1, 1]])])
    # First: 0 0 1 predicted as 0 0 0. Second: 1 1 right. Class 0: 2 of 2+3-2; class 1: 2 of 3+2-2.
    assert scores["IoU-cat's head"] == pytest.approx(100 * 2 / 3)
    assert scores["IoU-cat's leg"] == pytest.approx(100 * 2 / 3)


def test_an_object_without_any_labelled_pixel_contributes_nothing(ov_scene: OVScene) -> None:
    ov_scene.add(PARTS, OBJECTS, CAT)
    ov_scene.add([[255] * 8], [[0] * 8], CAT, stem="unlabelled")
    ov_scene.register()
    alone = score(OracleObjectEvaluator(ov_scene.name), [OWN_CLASSES[0], own_output({}, [0, 1], [[0] * 8])])
    assert alone["IoU-cat's head"] == pytest.approx(100 / 3) and alone["mIoU"] == pytest.approx(100 / 3)


def test_the_challenge_file_holds_the_objects_and_nothing_else(cat_and_bus: OVScene, tmp_path: Path) -> None:
    score(OracleObjectEvaluator(cat_and_bus.name, output_dir=str(tmp_path / "out")), ALL_CLASSES)
    entries = json.loads((tmp_path / "out" / "sem_seg_predictions.json").read_text())
    found = {
        (e["file_name"], e["category_id"]): segmentation_to_mask(e["segmentation"], 1, 8)[0].astype(int).tolist()
        for e in entries
    }
    # Inside the masks, unlabelled pixels too: the challenge knows no labels.
    assert found == {
        ("images/2008_000001.jpg", 0): [1, 0, 0, 1, 1, 0, 0, 0],
        ("images/2008_000001.jpg", 1): [0, 1, 1, 0, 0, 0, 0, 0],
        ("images/2008_000001.jpg", 3): [0, 0, 0, 0, 0, 0, 1, 0],
        ("images/2008_000001.jpg", 4): [0, 0, 0, 0, 0, 0, 0, 1],
    }
    assert len(found) == len(entries)


# ------------------------------------------------------------------ pred_obj

# The picture above: head found, head missed, a wheel seen in a leg, leg found; 0 0 where nothing is labelled;
# wheel found, wheel missed.
PREDICTED = [[0, NOTHING, 3, 1, 0, 0, 3, NOTHING]]


def test_predicted_objects_by_hand(ov_scene: OVScene, monkeypatch: pytest.MonkeyPatch) -> None:
    ov_scene.add(PARTS, OBJECTS)
    ov_scene.register()
    scores = score(PredictedObjectEvaluator(ov_scene.name), [output(PREDICTED)])
    # Class 0: TP 1, gt 2, predicted 1: 1/2. Class 1: the same. Class 3: TP 1, gt 2, predicted 2: 1/(2+2-1).
    ious = {"cat's head": 1 / 2, "cat's leg": 1 / 2, "bus's wheel": 1 / 3}
    for name, iou in ious.items():
        assert scores[f"IoU-{name}"] == pytest.approx(100 * iou)
    assert scores["mIoU"] == scores["mIoU_gt"] == pytest.approx(100 * 4 / 9)
    assert scores["mIoU-base"] == pytest.approx(50) and scores["mIoU-unbase"] == pytest.approx(100 / 3)
    assert scores["hIoU"] == pytest.approx(100 * 2 * (1 / 2) * (1 / 3) / (5 / 6))

    # The oracle's formula, without row N, makes both misses free: heads 1/1, legs 1/2, wheels 1/(1+2-1).
    counted = PredictedObjectEvaluator(ov_scene.name)
    counted.process(ov_scene.records, [output(PREDICTED)])
    counted._matrix[NOTHING] = 0
    assert counted.evaluate()["pred_obj"]["mIoU"] == pytest.approx(100 * (1 + 1 / 2 + 1 / 2) / 3)

    # Without the restriction to the tested object every labelled pixel would count for the cat and for the bus.
    monkeypatch.setattr(open_vocabulary, "restrict_to_object", not_of_the_object)
    counted.reset()
    counted.process(ov_scene.records, [output(PREDICTED)])
    assert counted._matrix.sum() == 12


def test_objects_that_another_model_predicts_decide_which_classes_compete(ov_scene: OVScene, tmp_path: Path) -> None:
    ov_scene.add(PARTS, OBJECTS, stem="2008_000001")
    ov_scene.register()
    folder = tmp_path / "objects"
    folder.mkdir()
    # 4 is the first number of no object.
    predicted = [[CAT, BUS, CAT, BOAT, CAT, CAT, BUS, 4]]
    Image.fromarray(np.array(predicted, np.uint8)).save(folder / "2008_000001.png")
    evaluator = PredictedObjectEvaluator(ov_scene.name, object_predictions=str(folder))
    # Background and another object's class are the best everywhere: they don't compete. Then the cat's classes
    # 0 0 0 1 .., then the bus's 3 3 3 3 ..
    found = output([[NOTHING] * 8], [[2] * 8], [[0, 0, 0, 1, 0, 0, 0, 0]], [[3] * 8])
    scores = score(evaluator, [found])
    # Cat, 0 0 1 1: found 0; bus, so 3; 0; a boat has no parts, so nothing. Bus, 3 3: found 3; no object, so nothing.
    # Class 0: TP 1, gt 2, predicted 2: 1/3. Class 1: 0 of 2. Class 3: TP 1, gt 2, predicted 2: 1/3.
    assert scores["IoU-cat's head"] == pytest.approx(100 / 3)
    assert scores["IoU-cat's leg"] == 0.0
    assert scores["IoU-bus's wheel"] == pytest.approx(100 / 3)
    assert scores["mIoU"] == pytest.approx(100 * 2 / 9)
    # Without the folder the model's own background is everywhere: all misses.
    assert score(PredictedObjectEvaluator(ov_scene.name), [found])["mIoU"] == 0.0


def test_a_missing_or_foreign_object_prediction_is_refused(ov_scene: OVScene, tmp_path: Path) -> None:
    ov_scene.add(PARTS, OBJECTS, stem="2008_000001")
    ov_scene.register()
    with pytest.raises(ValueError, match=r"TEST.OBJECT_PREDICTIONS: .*nowhere is no folder"):
        build_evaluators(["pred_obj"], ov_scene.name, object_predictions=str(tmp_path / "nowhere"))
    evaluator = PredictedObjectEvaluator(ov_scene.name, object_predictions=str(tmp_path))
    with pytest.raises(ValueError, match=r"2008_000001.png: the file does not exist"):
        score(evaluator, [output(PREDICTED)])
    Image.fromarray(np.zeros((2, 8), np.uint8)).save(tmp_path / "2008_000001.png")
    with pytest.raises(ValueError, match=r"2008_000001.png: height and width are \(2, 8\), .* \(1, 8\)"):
        score(evaluator, [output(PREDICTED)])


def test_overlapping_instances_are_each_tested_whole(ov_scene: OVScene) -> None:
    ov_scene.ignore_label = 65535
    instances = [(CAT, [[1, 1, 1, 0]]), (CAT, [[0, 0, 1, 1]])]
    ov_scene.add_instances([[0, 0, 1, 65535]], instances)
    ov_scene.register()
    scores = score(PredictedObjectEvaluator(ov_scene.name), [output([[0, 1, 1, 1]])])
    # First: 0 0 1 as 0 1 1; second: 1 as 1, the unlabelled pixel does not count. Class 1: TP 2, gt 2, predicted 3.
    assert scores["IoU-cat's head"] == pytest.approx(50)
    assert scores["IoU-cat's leg"] == pytest.approx(100 * 2 / 3)


# ------------------------------------------------------------------ pred_all


def test_all_parts_by_hand(ov_scene: OVScene) -> None:
    # Two labelled pixels lie in no object: whole pictures are scored, not objects.
    ov_scene.add([[0, 0, 1, 1, 255, 3, 3, 3]], [[0, 0, 0, 0, 0, 255, 255, 2]])
    ov_scene.register()
    scores = score(AllPartsEvaluator(ov_scene.name), [output([[0, NOTHING, 2, 1, 0, 3, 0, NOTHING]])])
    # 0: TP 1, gt 2, predicted 2: 1/3. 1: TP 1, gt 2, predicted 1: 1/2. 3: TP 1, gt 3, predicted 1: 1/3.
    # 2 is predicted and absent: it leaves the mean as it is. The unlabelled pixel's 0 is no false positive.
    assert scores["IoU-cat's head"] == scores["IoU-bus's wheel"] == pytest.approx(100 / 3)
    assert scores["IoU-cat's leg"] == pytest.approx(50)
    assert scores["mIoU"] == pytest.approx(100 * (1 / 3 + 1 / 2 + 1 / 3) / 3)
    assert scores["mIoU-base"] == pytest.approx(100 * (1 / 3 + 1 / 2) / 2)
    assert scores["mIoU-unbase"] == pytest.approx(100 / 3)
    # The reference's denominator would be 4, PartCLIPSeg's overall mean with background 5.
    assert scores["mIoU"] != pytest.approx(100 * (1 / 3 + 1 / 2 + 1 / 3) / 4)
    assert "mIoU_gt" not in scores


def test_all_parts_of_a_data_set_that_knows_background(scene: Scene) -> None:
    head, body = box_mask(16, 16, 0, 0, 8, 8), box_mask(16, 16, 8, 8, 16, 16)
    record = scene.add([annotation(0, head), annotation(1, body)])
    scene.register()
    GroundTruth(scene.name).metadata.set(evaluation_set={"base": [0, 2]})
    everywhere = scene.output(record, [(0, np.ones((16, 16), bool)), (1, body)])
    # Class 0 on all of background costs nothing: only pixels with a part are scored.
    scores = run(build_evaluators(["pred_all"], scene.name), [record], [everywhere])["pred_all"]
    assert scores["mIoU"] == scores["mIoU-base"] == scores["mIoU-unbase"] == scores["hIoU"] == pytest.approx(100)
    assert math.isnan(scores["IoU-Car Wheel"])
    half = scene.output(record, [(0, head)])
    scores = run(build_evaluators(["pred_all"], scene.name), [record], [half])["pred_all"]
    assert (scores["mIoU-base"], scores["mIoU-unbase"], scores["hIoU"]) == pytest.approx((100, 0, 0))


def test_seen_and_unseen_parts_of_a_data_set_that_knows_background(scene: Scene) -> None:
    """d2_semseg and coco_ap by group: here a part painted over background is a false positive."""
    head, body = box_mask(16, 16, 0, 0, 8, 8), box_mask(16, 16, 8, 8, 16, 16)
    record = scene.add([annotation(0, head), annotation(1, body)])
    scene.register()
    GroundTruth(scene.name).metadata.set(evaluation_set={"base": [0, 2]}, family="scene")
    twice = box_mask(16, 16, 0, 0, 16, 8)
    outputs = [scene.output(record, [(0, twice), (1, body)])]
    scores = run(build_evaluators(["d2_semseg", "coco_ap"], scene.name), [record], outputs)
    # Class 0: TP 64, predicted 128: 1/2. Class 1: 1. Class 2 is seen, but does not occur: it is in no mean.
    pooled = scores["d2_semseg"]
    assert (pooled["mIoU-base"], pooled["mIoU-unbase"]) == pytest.approx((50, 100))
    assert pooled["hIoU"] == pytest.approx(100 * 2 * 0.5 / 1.5)
    # An IoU of 0.5 passes the first of COCO's ten thresholds.
    assert (scores["coco_ap"]["AP-base"], scores["coco_ap"]["AP-unbase"]) == pytest.approx((10, 100))
    elsewhere = build_evaluators(["d2_semseg", "coco_ap"], scene.name, training_family="another")
    for of_protocol in run(elsewhere, [record], outputs).values():
        assert not [key for key in of_protocol if key.endswith("base") or key == "hIoU"]


# ------------------------------------------------------------------ all of them


def test_a_perfect_prediction_is_100_and_an_empty_one_0(ov_scene: OVScene) -> None:
    record = ov_scene.add(PARTS, OBJECTS)
    ov_scene.register()
    perfect = np.where(np.array(PARTS) == 255, NOTHING, PARTS)
    for labels, expected in ((perfect, 100), (np.full((1, 8), NOTHING), 0)):
        results = run(build_evaluators(["auto"], register_protocols(ov_scene)), [record], [output(labels)])
        assert tuple(results) == ("pred_obj", "pred_all")
        for scores in results.values():
            assert scores["mIoU"] == scores["hIoU"] == scores["fwIoU"] == pytest.approx(expected)


def register_protocols(scene: OVScene, *protocols: str) -> str:
    """Gives the data set's metadata the protocols of whole pictures, or those named."""
    GroundTruth(scene.name).metadata.set(protocols=protocols or ("pred_obj", "pred_all"))
    return scene.name


@pytest.mark.parametrize("kind", ["png", "instances"])
@pytest.mark.parametrize("protocol", ["ov_oracle", "pred_obj", "pred_obj with objects", "pred_all"])
def test_against_a_count_pixel_by_pixel(ov_scene: OVScene, tmp_path: Path, protocol: str, kind: str) -> None:
    """Random maps, counted again in plain loops that share nothing with the evaluators."""
    rng = np.random.default_rng(11)
    ignore = ov_scene.ignore_label = 255 if kind == "png" else 65535
    conditioned = protocol == "ov_oracle"
    own_of = {CAT: [0, 1], WILDCAT: [2], BUS: [3, 4], BOAT: []}
    pairs = []  # (predicted, true) of every pixel that counts, None for nothing
    outputs = []
    for number in range(9):
        size = (int(rng.integers(5, 10)), int(rng.integers(5, 10)))
        parts = rng.choice([0, 1, 2, 3, ignore], size)  # the bus's door never occurs
        objects = rng.choice([CAT, WILDCAT, BUS, ignore], size)
        object_id = int(rng.choice([CAT, WILDCAT, BUS])) if conditioned else None
        if kind == "png":
            ov_scene.add(parts, objects, object_id)
            present = [object_id] if conditioned else [CAT, WILDCAT, BUS]
            tested = [(o, objects == o) for o in present]
        else:
            present = [object_id] if conditioned else rng.choice([CAT, WILDCAT, BUS], 3).tolist()
            tested = [(o, rng.random(size) < 0.6) for o in present]
            ov_scene.add_instances(parts, tested, object_id)
        scores = torch.from_numpy(rng.random((NOTHING + 1, *size)))
        outputs.append({"sem_seg": scores})
        predicted_objects = rng.choice([CAT, WILDCAT, BUS, BOAT, 99], size)
        Image.fromarray(predicted_objects.astype(np.uint8)).save(tmp_path / f"picture_{number}.png")
        if protocol == "pred_all":
            # Once, and of pictures that are there for some of their objects only, no more than these.
            whole = np.ones(size, bool) if kind == "png" else np.any([mask for _, mask in tested], axis=0)
            tested = [(None, whole)]
        for tested_object, mask in tested:
            for y, x in zip(*np.nonzero(mask)):
                if parts[y, x] == ignore:
                    continue
                pixel = scores[:, y, x].tolist()
                candidates = list(range(NOTHING + 1))
                if protocol == "ov_oracle":
                    candidates = own_of[tested_object]
                elif protocol == "pred_obj with objects":
                    candidates = own_of.get(int(predicted_objects[y, x]), [])
                best = max(candidates, key=pixel.__getitem__, default=NOTHING)
                pairs.append((best, int(parts[y, x])))
    ov_scene.register()
    evaluator: Callable[..., Any] = {"ov_oracle": OracleObjectEvaluator, "pred_all": AllPartsEvaluator}.get(
        protocol, PredictedObjectEvaluator
    )
    options = {"object_predictions": str(tmp_path)} if protocol == "pred_obj with objects" else {}
    scores = score(evaluator(ov_scene.name, **options), outputs)
    ious, either = {}, set()
    for c in range(len(CLASSES)):
        both = sum(pair == (c, c) for pair in pairs)
        union = sum(c in pair for pair in pairs)
        if any(true == c for _, true in pairs):
            ious[c] = both / union
        if union:
            either.add(c)
    assert len(ious) == 4 and len(pairs) > 40
    for c, name in enumerate(CLASSES):
        assert scores[f"IoU-{name}"] == pytest.approx(100 * ious.get(c, math.nan), nan_ok=True)
    by_truth = protocol == "pred_all"
    for key, group in (("mIoU", range(5)), ("mIoU-base", (0, 1, 2)), ("mIoU-unbase", (3, 4))):
        total = sum(ious.get(c, 0.0) for c in group)
        count = sum(c in (ious if by_truth else either) for c in group)
        assert scores[key] == pytest.approx(100 * total / count)
        if not by_truth:
            count = sum(c in ious for c in group)
            assert scores[key.replace("mIoU", "mIoU_gt")] == pytest.approx(100 * total / count)


def test_class_255_of_256_and_the_ignore_label_65535(ov_scene: OVScene) -> None:
    ov_scene.classes = [f"{ov_scene.objects[c // 64]}'s part {c}" for c in range(256)]
    ov_scene.unseen, ov_scene.ignore_label = [255], 65535
    parts = [[255, 255, 65535, 254, 0]]
    ov_scene.add(parts, [[3, 3, 3, 3, 0]])
    ov_scene.register()
    predicted = output([[255, 254, 255, 254, 0]], num_channels=257)
    for evaluator in (PredictedObjectEvaluator, AllPartsEvaluator):
        scores = score(evaluator(ov_scene.name), [predicted])
        # 255: TP 1, gt 2, predicted 1 (the ignored pixel does not count); 254: TP 1, gt 1, predicted 2.
        assert scores["IoU-boat's part 255"] == scores["mIoU-unbase"] == pytest.approx(50)
        assert scores["IoU-boat's part 254"] == pytest.approx(50)
        assert scores["mIoU-base"] == pytest.approx(75)


@pytest.mark.parametrize("unseen, training_family", [([], None), ([3, 4], "another_data_set")])
def test_without_unseen_classes_or_across_data_sets_there_is_one_mean(
    ov_scene: OVScene, unseen: list[int], training_family: str | None
) -> None:
    ov_scene.unseen = unseen
    record = ov_scene.add(PARTS, OBJECTS)
    ov_scene.register()
    evaluators = build_evaluators(["pred_obj", "pred_all"], ov_scene.name, training_family=training_family)
    results = run(evaluators, [record], [output(PREDICTED)])
    classes = {f"{score}-{name}" for score in ("IoU", "Recall", "BoundaryIoU") for name in CLASSES}
    assert set(results["pred_obj"]) == {"mIoU", "mIoU_gt", "fwIoU", *MORE_MEANS} | classes
    assert set(results["pred_all"]) == {"mIoU", "fwIoU", *MORE_MEANS} | classes
    assert results["pred_obj"]["mIoU"] == pytest.approx(100 * 4 / 9)
    assert unseen_classes(GroundTruth(ov_scene.name).metadata) == unseen
    # Trained on the same data set, it is divided again.
    same = run(build_evaluators(["pred_obj"], ov_scene.name, training_family="tiny_ov"), [record], [output(PREDICTED)])
    assert ("hIoU" in same["pred_obj"]) == bool(unseen)


# ------------------------------------------------------------------ bad input


def test_outputs_that_do_not_answer_the_question_are_refused(cat_and_bus: OVScene) -> None:
    evaluator = OracleObjectEvaluator(cat_and_bus.name)
    record = cat_and_bus.records[0]
    good = OWN_CLASSES[0]
    for wrong, message in [
        (good | {"part_classes": torch.tensor([3, 4])}, r"expected part_classes \[0, 1\] of object 0, got \[3, 4\]"),
        (good | {"sem_seg": good["sem_seg"][:1]}, r"expected sem_seg \[2, 1, 8\], got \[1, 1, 8\]"),
        ({"sem_seg": good["sem_seg"]}, r"expected sem_seg \[5, 1, 8\] or \[6, 1, 8\], got \[2, 1, 8\]"),
        ({"instances": None}, r"expected sem_seg .* got only \['instances'\]"),
    ]:
        evaluator.reset()
        with pytest.raises(ValueError, match=rf"2008_000001.jpg: {message}"):
            evaluator.process([record], [wrong])
    with pytest.raises(ValueError, match=r"compat: expected some of .*, got \['flip'\]"):
        OracleObjectEvaluator(cat_and_bus.name, compat=["flip"])


def test_an_object_without_parts_is_named(ov_scene: OVScene) -> None:
    record = ov_scene.add([[255] * 8], [[BOAT] * 8], BOAT)
    ov_scene.register()
    with pytest.raises(ValueError, match="picture_0.jpg: object 'boat' has no part classes"):
        OracleObjectEvaluator(ov_scene.name).process([record], [output([[0] * 8])])
