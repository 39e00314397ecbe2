"""The segmentation protocols on pictures small enough to count pixels by hand. Results are in percent."""

from __future__ import annotations

import json
import logging
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from wps_sam.evaluation import (
    AuthorsEvaluator,
    CocoAPEvaluator,
    ImagePartEvaluator,
    OracleObjectEvaluator,
    PooledPartEvaluator,
    PredictedObjectEvaluator,
    build_evaluators,
)
from wps_sam.evaluation.ground_truth import GroundTruth, annotation_box, boxes_without_masks
from wps_sam.structures import Frame

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from detectron2.evaluation import SemSegEvaluator
from evaluation_scenes import PART_PROTOCOLS, Scene, annotation, box_mask, run

NOTHING: list[Any] = []
EMPTY = np.zeros((16, 16), dtype=bool)


def block(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    return box_mask(16, 16, x0, y0, x1, y1)


def constant(*probabilities: float) -> torch.Tensor:
    """Logits [K, 4, 4] of masks that have the same probability everywhere, also after upsampling."""
    return torch.tensor(probabilities).logit()[:, None, None].expand(-1, 4, 4).clone()


# ------------------------------------------------------------------ all protocols together


def test_a_perfect_prediction_is_100_everywhere(scene: Scene) -> None:
    mask = block(4, 4, 12, 12)
    record = scene.add([annotation(0, mask)])
    scene.register()
    results = run(build_evaluators(PART_PROTOCOLS, scene.name), [record], [scene.output(record, [(0, mask)])])
    assert tuple(results) == PART_PROTOCOLS
    for protocol, metric in [
        ("d2_semseg", "mIoU"),
        ("d2_semseg", "mACC"),
        ("d2_semseg", "fwIoU"),
        ("d2_semseg", "pACC"),
        ("d2_semseg", "IoU-Animal Head"),
        ("d2_semseg", "mIoU-Animal"),
        ("pin41", "mIoU"),
        ("wps_image_part", "mIoU"),
        ("wps_image_part", "mACC"),
        ("wps_image_part", "mF1"),
        ("wps_authors", "mIoU"),
        ("wps_authors", "mACC"),
        ("wps_authors", "mF1"),
        ("pascal_sq", "mIOU"),
        ("pascal_sq", "sqAvg"),
        ("coco_ap", "AP"),
        ("coco_ap", "box_AP"),
        ("error_breakdown", "found"),
    ]:
        assert results[protocol][metric] == pytest.approx(100.0), (protocol, metric)
    assert math.isnan(results["d2_semseg"]["IoU-Car Wheel"])
    assert math.isnan(results["d2_semseg"]["mIoU-Car"])


def test_an_empty_prediction_everywhere(scene: Scene) -> None:
    records = [scene.add([annotation(0, block(4, 4, 12, 12))]), scene.add([annotation(1, block(0, 0, 4, 4))])]
    scene.register()
    outputs = [scene.output(record, []) for record in records]
    results = run(build_evaluators(PART_PROTOCOLS, scene.name), records, outputs)
    assert results["d2_semseg"]["mIoU"] == 0.0
    # Background: 512 - 64 - 16 of 512 pixels are right, so its IoU is 432 / 512; two parts with 0.
    assert results["pin41"]["mIoU"] == pytest.approx(100 * (432 / 512) / 3)
    assert results["pin41"]["mIoU_parts"] == 0.0
    assert results["pin41"]["IoU-background"] == pytest.approx(100 * 432 / 512)
    assert results["wps_image_part"] == {"mIoU": 0.0, "mACC": 0.0, "mF1": 0.0}
    # Both images are null and dropped: no pairs, no number.
    assert all(math.isnan(value) for value in results["wps_authors"].values())
    assert results["coco_ap"]["AP"] == 0.0 and results["coco_ap"]["box_AP"] == 0.0
    assert results["error_breakdown"]["not_found"] == 100.0
    zero = run(AuthorsEvaluator(scene.name, null="zero"), records, outputs)
    assert zero["wps_authors"] == {"mIoU": 0.0, "mACC": 0.0, "mF1": 0.0}


def test_the_right_class_with_an_empty_mask(scene: Scene) -> None:
    record = scene.add([annotation(0, block(4, 4, 12, 10))])
    scene.register()
    output = scene.output(record, [(0, EMPTY)])
    assert run(ImagePartEvaluator(scene.name), [record], [output])["wps_image_part"]["mIoU"] == 0.0
    authors = run(AuthorsEvaluator(scene.name), [record], [output])["wps_authors"]
    # 6 of 16 rows hold the part and score 0, the rest are empty in both and score 1.
    assert authors["mIoU"] == pytest.approx(100 * 10 / 16)
    assert authors["mF1"] == pytest.approx(100 * 10 / 16)
    # 8 * 6 wrong pixels of 256.
    assert authors["mACC"] == pytest.approx(100 * (256 - 48) / 256)


def test_results_do_not_depend_on_the_batch_size(scene: Scene) -> None:
    # The first image of the first batch has no prediction: the authors' code would pair the second image's
    # prediction with the first one's labels.
    masks = [block(0, 0, 8, 8), block(8, 8, 16, 16), block(4, 0, 12, 4)]
    records = [scene.add([annotation(c, mask)]) for c, mask in enumerate(masks)]
    scene.register()
    outputs = [scene.output(r, [] if c == 0 else [(c, masks[c])]) for c, r in enumerate(records)]
    singly, paired, at_once = (
        run(build_evaluators(PART_PROTOCOLS, scene.name), records, outputs, batch_size) for batch_size in (1, 2, 3)
    )
    # As text: what is unknown, such as the OSI of a class that is never predicted, equals itself.
    assert str(singly) == str(paired) == str(at_once)
    assert singly["wps_authors"]["mIoU"] == pytest.approx(100.0)
    # Averaged over the shifted pairs it would be 0: no class meets its own.
    assert singly["wps_image_part"]["mIoU"] == pytest.approx(100 * 2 / 3)


def test_images_without_annotation_are_scored(scene: Scene) -> None:
    mask = block(0, 0, 8, 8)
    records = [scene.add([annotation(0, mask)]), scene.add(NOTHING)]
    scene.register()
    outputs = [scene.output(r, [(0, mask)]) for r in records]
    results = run(build_evaluators(PART_PROTOCOLS, scene.name), records, outputs)
    # 64 true pixels, 128 predicted: the false part on the empty image costs half.
    assert results["d2_semseg"]["mIoU"] == pytest.approx(50.0)
    # False parts are free in the pair protocols.
    assert results["wps_image_part"]["mIoU"] == pytest.approx(100.0)
    # Per image 1 and 0.
    assert results["error_breakdown"]["false_positives_per_image"] == pytest.approx(0.5)


# ------------------------------------------------------------------ d2_semseg, pin41


def two_random_maps(scene: Scene, ignore_label: int = 255) -> tuple[list[Any], list[Any]]:
    rng = np.random.default_rng(0)
    records, outputs = [], []
    for size in [(16, 24), (20, 12)]:
        # Class 2 never is the truth, but is predicted.
        kind = np.uint8 if ignore_label == 255 else np.uint16
        target = rng.choice([0, 1, 3, ignore_label], size).astype(kind)
        records.append(scene.add(NOTHING, size, part_map=target))
        outputs.append({"sem_seg": torch.from_numpy(rng.random((4, *size)))})
    scene.ignore_label = ignore_label
    scene.register()
    return records, outputs


@pytest.mark.parametrize("ignore_label", [255, 65535])
def test_agrees_with_detectron2_on_random_maps(scene: Scene, tmp_path: Path, ignore_label: int) -> None:
    records, outputs = two_random_maps(scene, ignore_label)
    reference = SemSegEvaluator(scene.name, distributed=False, output_dir=str(tmp_path / "reference"))
    expected = run(reference, records, outputs)["sem_seg"]
    ours = run(PooledPartEvaluator(scene.name, output_dir=str(tmp_path / "ours")), records, outputs)
    for name in scene.classes:
        for metric in (f"IoU-{name}", f"ACC-{name}"):
            assert ours["d2_semseg"][metric] == pytest.approx(expected[metric], nan_ok=True)
    assert ours["pin41"]["IoU-background"] == pytest.approx(expected["IoU-background"])
    assert ours["pin41"]["mACC"] == pytest.approx(expected["mACC"])
    assert ours["pin41"]["pACC"] == pytest.approx(expected["pACC"])
    assert ours["pin41"]["fwIoU"] == pytest.approx(expected["fwIoU"])
    # Detectron2's mean is over the three labels that occur; pin41 counts class 2, predicted but absent, as 0;
    # d2_semseg here leaves background out.
    assert ours["pin41"]["mIoU"] == pytest.approx(expected["mIoU"] * 3 / 4)
    of_parts = [expected["IoU-Animal Head"], expected["IoU-Animal Body"]]
    assert ours["d2_semseg"]["mIoU"] == pytest.approx(np.mean(of_parts))
    assert ours["d2_semseg"]["mIoU-Animal"] == pytest.approx(np.mean(of_parts))
    dumps = [json.loads((tmp_path / d / "sem_seg_predictions.json").read_text()) for d in ("reference", "ours")]
    assert dumps[0] == dumps[1]
    assert set(dumps[1][0]) == {"file_name", "category_id", "segmentation"}


def test_only_the_protocols_asked_for_are_reported(scene: Scene) -> None:
    records, outputs = two_random_maps(scene)
    both = run(build_evaluators(["d2_semseg", "pin41"], scene.name), records, outputs)
    for protocol in ("d2_semseg", "pin41"):
        alone = run(build_evaluators([protocol], scene.name), records, outputs)
        assert list(alone) == [protocol]
        assert alone[protocol] == pytest.approx(both[protocol], nan_ok=True)
    with pytest.raises(ValueError, match=r"protocols: expected some of .*, got \['coco_ap'\]"):
        PooledPartEvaluator(scene.name, protocols=["coco_ap"])


# ------------------------------------------------------------------ wps_image_part


def test_pairs_are_averaged_plainly(scene: Scene) -> None:
    # Image 0: class 0 half covered, IoU 32/64; class 1 not predicted, 0. Image 1: class 1 with as many wrong
    # pixels as right ones, IoU 64/128. Mean over the three pairs: (0.5 + 0 + 0.5) / 3.
    # Per class first it would be (0.5 + 0.25) / 2, per image (0.25 + 0.5) / 2.
    records = [
        scene.add([annotation(0, block(0, 0, 8, 8)), annotation(1, block(8, 8, 16, 16))]),
        scene.add([annotation(1, block(0, 0, 8, 8))]),
    ]
    scene.register()
    outputs = [
        scene.output(records[0], [(0, block(0, 0, 8, 4)), (2, block(8, 8, 16, 16))]),
        scene.output(records[1], [(1, block(0, 0, 16, 8))]),
    ]
    scores = run(ImagePartEvaluator(scene.name), records, outputs)["wps_image_part"]
    assert scores["mIoU"] == pytest.approx(100 * (0.5 + 0 + 0.5) / 3)
    assert scores["mACC"] == pytest.approx(100 * (0.5 + 0 + 1.0) / 3)
    # F1: 2 * 32 / (64 + 32), 0, 2 * 64 / (128 + 64): 2/3, 0, 2/3.
    assert scores["mF1"] == pytest.approx(100 * (2 / 3 + 0 + 2 / 3) / 3)


def test_pieces_of_a_class_are_one_pair(scene: Scene) -> None:
    left, right = block(0, 0, 4, 16), block(12, 0, 16, 16)
    record = scene.add([annotation(0, left), annotation(0, right)])
    scene.register()
    one_piece_each = scene.output(record, [(0, left), (0, right)])
    in_one = scene.output(record, [(0, left | right)])
    for output in (one_piece_each, in_one):
        scores = run(ImagePartEvaluator(scene.name), [record], [output])["wps_image_part"]
        assert scores["mIoU"] == pytest.approx(100.0)


def test_a_label_map_is_the_truth_where_nothing_is_annotated(scene: Scene) -> None:
    part_map = np.full((16, 16), 3, dtype=np.uint8)
    part_map[:8, :8] = 1
    record = scene.add(NOTHING, part_map=part_map)
    scene.register()
    scores = run(ImagePartEvaluator(scene.name), [record], [scene.output(record, [(1, block(0, 0, 8, 4))])])
    assert scores["wps_image_part"]["mIoU"] == pytest.approx(50.0)


def test_counts_are_logged(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    mask = block(0, 0, 8, 8)
    records = [scene.add([annotation(0, mask), annotation(1, mask)]), scene.add([annotation(1, mask)])]
    scene.register()
    outputs = [scene.output(records[0], [(0, mask), (2, mask)]), scene.output(records[1], [])]
    with caplog.at_level(logging.INFO, logger="wps_sam.evaluation"):
        run(ImagePartEvaluator(scene.name), records, outputs)
    assert (
        "1 pairs of an image and a part class matched, 2 missed; 1 of 2 images without any prediction; "
        "0.50 classes per image predicted but not there"
    ) in caplog.text


# ------------------------------------------------------------------ wps_authors


@pytest.mark.parametrize(("probabilities", "row_iou"), [((0.3, 0.3), 1.0), ((0.3,), 0.0), ((0.2, 0.2), 0.0)])
def test_probabilities_of_a_class_are_summed(scene: Scene, probabilities: tuple[float, ...], row_iou: float) -> None:
    # 0.3 + 0.3 = 0.6 is foreground everywhere, as is the truth; the largest alone, 0.3, would not be.
    record = scene.add([annotation(0, block(0, 0, 16, 16))])
    scene.register()
    output = scene.output(record, [(0, EMPTY) for _ in probabilities], logits=constant(*probabilities))
    scores = run(AuthorsEvaluator(scene.name), [record], [output])["wps_authors"]
    assert scores["mIoU"] == pytest.approx(100 * row_iou)


def test_null_images_are_dropped_or_cost_0_a_part(scene: Scene) -> None:
    mask = block(0, 0, 16, 16)
    records = [scene.add([annotation(0, mask)]), scene.add([annotation(0, mask), annotation(1, mask)])]
    scene.register()
    outputs = [scene.output(records[0], [(0, mask)]), scene.output(records[1], [])]
    drop = run(AuthorsEvaluator(scene.name, null="drop"), records, outputs)["wps_authors"]
    zero = run(AuthorsEvaluator(scene.name, null="zero"), records, outputs)["wps_authors"]
    assert drop["mIoU"] == pytest.approx(100.0)
    # One 0 for each of the two parts, not one for the image.
    assert zero["mIoU"] == pytest.approx(100 / 3)
    with pytest.raises(ValueError, match="null: expected 'drop' or 'zero', got 'skip'"):
        AuthorsEvaluator(scene.name, null="skip")  # type: ignore[arg-type]


def test_a_class_that_is_not_predicted_scores_0_beside_others(scene: Scene) -> None:
    record = scene.add([annotation(0, block(0, 0, 16, 16)), annotation(1, block(0, 0, 4, 4))])
    scene.register()
    output = scene.output(record, [(0, block(0, 0, 16, 16)), (2, block(8, 8, 16, 16))])
    scores = run(AuthorsEvaluator(scene.name), [record], [output])["wps_authors"]
    # Class 1 has no query: 0, although an empty mask would have scored 12/16. Class 2 costs nothing.
    assert scores["mIoU"] == pytest.approx(50.0)


def test_the_authors_look_at_the_first_polygon_only(scene: Scene) -> None:
    square = [0.0, 0.0, 16.0, 0.0, 16.0, 16.0, 0.0, 16.0]
    kept = annotation(0, block(0, 0, 16, 16), segmentation=[square])
    # The first polygon has 4 numbers: dropped by the authors, kept for its second polygon by everybody else.
    dropped = annotation(1, block(0, 0, 16, 16), segmentation=[[0.0, 0.0, 4.0, 4.0], square])
    # As a loader hands it on that has already left out the first polygon.
    cleaned = annotation(2, block(0, 0, 16, 16), segmentation=[square], dropped_by_wps_sam=True)
    record = scene.add([kept, dropped, cleaned])
    scene.register()
    output = scene.output(record, [(0, block(0, 0, 16, 16))])
    assert run(AuthorsEvaluator(scene.name), [record], [output])["wps_authors"]["mIoU"] == pytest.approx(100.0)
    by_parts = run(ImagePartEvaluator(scene.name), [record], [output])["wps_image_part"]
    assert by_parts["mIoU"] == pytest.approx(100 / 3)


@pytest.mark.parametrize("top", [0, 4])
def test_padding_rows_count_wherever_the_padding_lies(scene: Scene, top: int) -> None:
    # A picture of 8 x 16 in a square of 16: 8 rows of padding, at the bottom or on both sides.
    record = scene.add([annotation(0, box_mask(8, 16, 0, 0, 16, 4))], size=(8, 16))
    scene.register()
    frame = Frame(16, 8, 16, top=top)
    # One row of logits is 4 rows of the square; negative enough that neighbours of a kept row stay out where the
    # upsampling mixes them: 0.625 and 0.875 of a kept row remain positive, 0.375 and 0.125 do not.
    logits = torch.full((1, 4, 4), -20.0)
    logits[0, top // 4] = 20.0
    output = scene.output(record, [(0, box_mask(8, 16, 0, 0, 16, 4))], logits=logits, frame=frame)
    assert run(AuthorsEvaluator(scene.name), [record], [output])["wps_authors"]["mIoU"] == pytest.approx(100.0)
    # The truth placed at the other end misses all 4 rows of both: 8 of 16 rows are wrong.
    elsewhere = output | {"frame": Frame(16, 8, 16, top=8)}
    wrong = run(AuthorsEvaluator(scene.name), [record], [elsewhere])["wps_authors"]["mIoU"]
    assert wrong == pytest.approx(50.0)


def test_agrees_with_the_authors_way_written_out(scene: Scene) -> None:
    """Stacks, sums and the library's calls, as their code does it for a batch of one."""
    generator = torch.Generator().manual_seed(0)
    size, frame = (30, 40), Frame(32, 24, 32, top=4)
    rng = np.random.default_rng(0)
    pieces = []
    for category in (0, 0, 1, 2):
        x0, y0 = rng.integers(0, 20, 2)
        pieces.append((category, box_mask(*size, x0, y0, x0 + 15, y0 + 9)))
    record = scene.add([annotation(c, m) for c, m in pieces], size=size)
    scene.register()
    logits = 4 * torch.randn(5, 8, 8, generator=generator)
    classes = [0, 1, 0, 1, 1]
    empty = np.zeros(size, dtype=bool)
    output = scene.output(record, [(c, empty) for c in classes], logits=logits, frame=frame)
    scores = run(AuthorsEvaluator(scene.name), [record], [output])["wps_authors"]

    upsample = torch.nn.functional.interpolate
    probabilities = upsample(logits[None], (32, 32), mode="bilinear", align_corners=False)[0].sigmoid()
    iou, accuracy = [], []
    for category in (0, 1, 2):
        truth = np.any([m for c, m in pieces if c == category], axis=0)
        small = upsample(torch.from_numpy(truth)[None, None].float(), (24, 32), mode="bilinear", align_corners=False)
        target = torch.nn.functional.pad(small[0, 0] >= 0.5, (0, 0, 4, 4)).long()
        if category not in classes:
            iou.append(0.0)
            accuracy.append(0.0)
            continue
        summed = probabilities[[c == category for c in classes]].sum(0)
        stats = smp.metrics.get_stats((summed >= 0.5).long(), target, mode="binary")
        iou.append(float(smp.metrics.iou_score(*stats, reduction="micro-imagewise")))
        accuracy.append(float(smp.metrics.accuracy(*stats, reduction="micro-imagewise")))
    # 1e-6 of the score is 1e-4 in percent.
    assert scores["mIoU"] == pytest.approx(100 * np.mean(iou), abs=1e-4)
    assert scores["mACC"] == pytest.approx(100 * np.mean(accuracy), abs=1e-4)
    # The largest instead of the sum gives another number, so the agreement can fail.
    largest = probabilities[[c == 1 for c in classes]].amax(0) >= 0.5
    assert not torch.equal(largest, probabilities[[c == 1 for c in classes]].sum(0) >= 0.5)


def test_a_probability_and_a_share_of_exactly_one_half_are_foreground(scene: Scene) -> None:
    # A logit of 0 is one half. Two of four rows, resized to one row of the square's two, cover half of it.
    record = scene.add([annotation(0, box_mask(4, 4, 0, 1, 4, 3))], size=(4, 4))
    scene.register()
    output = scene.output(record, [(0, box_mask(4, 4, 0, 0, 4, 4))], logits=torch.zeros(1, 1, 1), frame=Frame(2, 2, 2))
    assert run(AuthorsEvaluator(scene.name), [record], [output])["wps_authors"]["mIoU"] == pytest.approx(100.0)
    # A little less is background: both rows are missed.
    output = output | scene.output(
        record, [(0, EMPTY[:4, :4])], logits=torch.full((1, 1, 1), -1e-6), frame=Frame(2, 2, 2)
    )
    assert run(AuthorsEvaluator(scene.name), [record], [output])["wps_authors"]["mIoU"] == 0.0


# ------------------------------------------------------------------ bad input


def test_results_of_another_image_are_refused(scene: Scene) -> None:
    mask = block(0, 0, 8, 8)
    record = scene.add([annotation(0, mask)])
    other = scene.add([annotation(0, box_mask(16, 32, 0, 0, 8, 8))], size=(16, 32))
    scene.register()
    output = scene.output(other, [(0, box_mask(16, 32, 0, 0, 8, 8))])
    for protocol in PART_PROTOCOLS:
        with pytest.raises(ValueError, match="picture_0.JPEG: .*16.*32"):
            build_evaluators([protocol], scene.name).process([record], [output])
    # Masks of the right size alone don't do.
    renamed = scene.output(record, [(0, mask)])
    renamed["instances"]._image_size = (16, 32)
    with pytest.raises(ValueError, match=r"is \(16, 16\) pixels .* its instances are of a picture of \(16, 32\)"):
        ImagePartEvaluator(scene.name).process([record], [renamed])
    squeezed = scene.output(record, [(0, mask)], frame=Frame(16, 8, 16))
    with pytest.raises(ValueError, match=r"picture_0.JPEG: .* does not fit its frame of \(8, 16\)"):
        AuthorsEvaluator(scene.name).process([record], [squeezed])
    # A pixel of rounding is none of another picture, to either side and in either direction; two are.
    for size, fits in {(15, 16): True, (16, 15): True, (14, 16): False, (16, 14): False}.items():
        rounded = scene.output(record, [(0, mask)], frame=Frame(16, *size))
        with nullcontext() if fits else pytest.raises(ValueError, match="does not fit its frame"):
            AuthorsEvaluator(scene.name).process([record], [rounded])


@pytest.mark.parametrize("protocol", PART_PROTOCOLS)
def test_unknown_and_repeated_images_are_refused(scene: Scene, protocol: str) -> None:
    mask = block(0, 0, 8, 8)
    record = scene.add([annotation(0, mask)])
    scene.add([annotation(0, mask)])
    scene.register()
    output = scene.output(record, [(0, mask)])
    evaluator = build_evaluators([protocol], scene.name)
    with pytest.raises(ValueError, match=r"strange.JPEG: image_id 77 is not in the data set"):
        evaluator.process([{"file_name": "strange.JPEG", "image_id": 77}], [output])
    with pytest.raises(ValueError, match=r"picture_0.JPEG: image_id 1 belongs to picture_1.JPEG"):
        evaluator.process([record | {"image_id": 1}], [output])
    with pytest.raises(ValueError, match="expected one output for each of 2 inputs, got 1"):
        evaluator.process([record, record], [output])
    evaluator.process([record], [output])
    with pytest.raises(ValueError, match=r"picture_0.JPEG: scored twice"):
        evaluator.process([record], [output])


def test_damaged_outputs_are_refused(scene: Scene) -> None:
    mask = block(0, 0, 8, 8)
    record = scene.add([annotation(0, mask)])
    scene.register()
    good = scene.output(record, [(0, mask)])
    with pytest.raises(ValueError, match=r"picture_0.JPEG: expected sem_seg \[4, 16, 16\], got \[3, 16, 16\]"):
        PooledPartEvaluator(scene.name).process([record], [good | {"sem_seg": good["sem_seg"][1:]}])
    with pytest.raises(ValueError, match=r"picture_0.JPEG: expected instances in the model's output"):
        ImagePartEvaluator(scene.name).process([record], [{"sem_seg": good["sem_seg"]}])
    with pytest.raises(ValueError, match=r"picture_0.JPEG: wps_authors needs the model's output 'frame'"):
        AuthorsEvaluator(scene.name).process([record], [{"instances": good["instances"]}])
    with pytest.raises(ValueError, match=r"picture_0.JPEG: expected mask_logits \[1, S/4, S/4\], got \[1, 4, 5\]"):
        bad = scene.output(record, [(0, mask)], logits=torch.zeros(1, 4, 5))
        AuthorsEvaluator(scene.name).process([record], [bad])
    with pytest.raises(ValueError, match=r"picture_0.JPEG: expected pred_classes in 0..2, got 3..3"):
        ImagePartEvaluator(scene.name).process([record], [scene.output(record, [(3, mask)])])


def test_masks_of_another_kind_and_classes_beyond_the_last_are_refused(scene: Scene) -> None:
    mask = block(0, 0, 8, 8)
    record = scene.add([annotation(0, mask)])
    scene.register()
    output = scene.output(record, [(0, mask), (3, mask)])
    with pytest.raises(ValueError, match=r"picture_0.JPEG: expected pred_classes in 0..2, got 0..3"):
        ImagePartEvaluator(scene.name).process([record], [output])
    output["instances"].pred_classes = torch.tensor([0, -1])
    with pytest.raises(ValueError, match=r"picture_0.JPEG: expected pred_classes in 0..2, got -1..0"):
        ImagePartEvaluator(scene.name).process([record], [output])
    output["instances"].pred_masks = output["instances"].pred_masks.float()
    with pytest.raises(ValueError, match=r"expected pred_masks bool \[K, 16, 16\], got torch.float32 \[2, 16, 16\]"):
        ImagePartEvaluator(scene.name).process([record], [output])


def test_evaluators_gather_from_all_processes_unless_told_otherwise(scene: Scene, monkeypatch) -> None:
    mask = block(0, 0, 8, 8)
    record = scene.add([annotation(0, mask)])
    scene.register()
    output = scene.output(record, [(0, mask)])
    evaluators = [ImagePartEvaluator, PooledPartEvaluator, AuthorsEvaluator, CocoAPEvaluator, OracleObjectEvaluator]
    assert all(evaluator(scene.name)._distributed for evaluator in evaluators)
    assert PredictedObjectEvaluator(scene.name)._distributed
    sent = []
    monkeypatch.setattr("detectron2.utils.comm.gather", lambda state, dst: sent.append(dst) or [state])
    assert run(ImagePartEvaluator(scene.name), [record], [output])["wps_image_part"]["mIoU"] == pytest.approx(100)
    assert set(sent) == {0}
    alone = ImagePartEvaluator(scene.name, distributed=False)
    monkeypatch.setattr("detectron2.utils.comm.gather", None)
    assert run(alone, [record], [output])["wps_image_part"]["mIoU"] == pytest.approx(100)


@pytest.mark.parametrize("protocol", [name for name in PART_PROTOCOLS if name != "coco_ap"])
def test_other_processes_than_the_main_one_have_no_results(scene: Scene, protocol: str, monkeypatch) -> None:
    scene.register()
    monkeypatch.setattr("detectron2.utils.comm.gather", lambda state, dst: [])
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    (evaluator,) = build_evaluators([protocol], scene.name)._evaluators
    assert evaluator.evaluate() == {}


def test_nothing_is_said_where_every_picture_is_scored(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    record = scene.add([annotation(0, block(0, 0, 8, 8))])
    scene.register()
    run(ImagePartEvaluator(scene.name), [record], [scene.output(record, [])])
    assert "scored" not in caplog.text


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [((3, 4, 5, 6), (3, 4, 8, 10)), ((3, 4, 0.5, 0.5), (3, 4, 3.5, 4.5)), ((3, 4, 0, 6), None), ((3, 4, 5, 0), None)],
)
def test_boxes_of_annotations_have_an_area(bbox: tuple[float, ...], expected: tuple[float, ...] | None) -> None:
    assert annotation_box({"bbox": bbox}) == expected
    assert annotation_box({}) is None


def test_an_unscored_picture_is_reported(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    mask = block(0, 0, 8, 8)
    record = scene.add([annotation(0, mask)])
    scene.add([annotation(0, mask)])
    scene.register()
    with caplog.at_level(logging.WARNING, logger="wps_sam.evaluation"):
        run(ImagePartEvaluator(scene.name), [record], [scene.output(record, [(0, mask)])])
    assert "ImagePartEvaluator scored 1 of 2 pictures" in caplog.text


def test_too_much_and_too_little_are_told_apart(scene: Scene) -> None:
    record = scene.add([annotation(0, block(0, 0, 8, 8))])
    scene.register()
    scores = run(PooledPartEvaluator(scene.name), [record], [scene.output(record, [(0, block(4, 0, 16, 8))])])
    # 4 of 8 columns found, 12 called so.
    assert scores["d2_semseg"]["USI"] == scores["d2_semseg"]["USI-Animal Head"] == pytest.approx(100 * 4 / 8)
    assert scores["d2_semseg"]["OSI"] == scores["d2_semseg"]["OSI-Animal Head"] == pytest.approx(100 * 8 / 12)
    found = run(PooledPartEvaluator(scene.name), [record], [scene.output(record, [(0, block(0, 0, 6, 8))])])
    assert found["d2_semseg"]["USI"] == pytest.approx(25) and found["d2_semseg"]["OSI"] == 0


def test_too_much_and_too_little_are_means_over_parts(scene: Scene) -> None:
    record = scene.add([annotation(0, block(0, 0, 8, 8)), annotation(1, block(8, 8, 16, 16))])
    scene.register()
    # All of the first part and nothing beside it; a quarter of the second, and as much beside it.
    output = scene.output(record, [(0, block(0, 0, 8, 8)), (1, block(8, 6, 16, 10))])
    scores = run(PooledPartEvaluator(scene.name), [record], [output])["d2_semseg"]
    assert scores["USI"] == pytest.approx((0 + 75) / 2) and scores["OSI"] == pytest.approx((0 + 50) / 2)


def test_a_picture_scored_by_two_processes_is_named(scene: Scene, monkeypatch) -> None:
    for _ in range(3):
        scene.add(NOTHING)
    scene.register()
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda seen: [{0, 1, 2}, {2, 1}])
    with pytest.raises(ValueError, match=r"picture_1.JPEG: scored by two processes; 2 pictures were"):
        ImagePartEvaluator(scene.name).evaluate()


def test_parts_of_which_a_box_is_known_and_no_mask(scene: Scene) -> None:
    boxed = annotation(1, block(2, 3, 8, 8), segmentation=None)
    annotations = [annotation(0, block(0, 0, 8, 8)), boxed, annotation(2, EMPTY, segmentation=None), boxed]
    record = scene.add(annotations)
    classes, boxes = boxes_without_masks(record)
    assert classes == [1, 1] and boxes.tolist() == [[2, 3, 8, 8]] * 2 and boxes.dtype == np.float64
    # A label map knows the pixels.
    with_map = scene.add(annotations, part_map=np.full((16, 16), 1, np.uint8))
    classes, boxes = boxes_without_masks(with_map)
    assert classes == [] and boxes.shape == (0, 4)
    scene.register()
    # Masks of annotations go before the map, where there are any.
    truth = GroundTruth(scene.name)
    assert [(c, int(mask.sum())) for c, mask in truth.class_masks(with_map)] == [(0, 64)]
    boxes_alone = {**with_map, "annotations": [boxed]}
    assert [(c, int(mask.sum())) for c, mask in truth.class_masks(boxes_alone)] == [(1, 256)]
    # Of a sliver that covers no pixel centre the authors' rule knows the class, and the strict one nothing.
    sliver = {**boxed, "segmentation": [[0.1, 0.1, 0.3, 0.1, 0.3, 0.3]]}
    with_sliver = {**record, "annotations": [sliver]}
    assert list(truth.class_masks(with_sliver)) == []
    assert [(c, mask.any()) for c, mask in truth.class_masks(with_sliver, "wps_sam")] == [(1, False)]


def test_what_a_data_set_has_is_read_off_its_records(scene: Scene) -> None:
    scene.add([annotation(0, block(0, 0, 8, 8), segmentation=None)])
    scene.register()
    truth = GroundTruth(scene.name)
    assert (truth.has_masks, truth.is_object_conditioned) == (False, False)
    # One label map among others without is enough.
    scene.add(NOTHING, part_map=np.zeros((16, 16), np.uint8))
    assert GroundTruth(scene.name).has_masks
    scene.records[0]["category_id"] = 0
    assert GroundTruth(scene.name).is_object_conditioned is True


def test_two_records_with_one_id_are_refused(scene: Scene) -> None:
    scene.add(NOTHING, image_id="a")
    scene.add(NOTHING, image_id="a")
    scene.register()
    with pytest.raises(ValueError, match=r"image_id 'a' belongs to both picture_0.JPEG and picture_1.JPEG"):
        build_evaluators(["d2_semseg"], scene.name)


def test_the_truth_of_another_data_set_is_refused(scene: Scene) -> None:
    scene.register()
    with pytest.raises(ValueError, match=rf"ground_truth: expected other, got {scene.name}"):
        ImagePartEvaluator("other", ground_truth=GroundTruth(scene.name))
