"""The registry: which protocols there are, which fit a data set, and one that is registered from outside."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from wps_sam.evaluation import (
    DEFAULT_PROTOCOLS,
    PROTOCOLS,
    FilledBoxOracle,
    GroundTruth,
    ImagePartEvaluator,
    PartColumn,
    PartEvaluator,
    PooledPartEvaluator,
    Protocol,
    build_evaluators,
    check_protocols,
    format_results_table,
    register_protocols,
)
from wps_sam.evaluation.evaluator import Results, checked_sem_seg
from wps_sam.evaluation.ground_truth import Record
from wps_sam.evaluation.protocols import REPORT_ROWS, whole_pictures, with_background

import numpy as np
import pytest
from evaluation_scenes import PART_PROTOCOLS, Scene, annotation, box_mask, run
from open_vocabulary_scenes import CAT, OVScene

ORACLES = (
    *("oracle_filled_box", "oracle_box_prompt", "oracle_point_prompt"),
    *("oracle_true_names", "oracle_true_boxes"),
)


def test_every_protocol_is_there_in_the_order_of_the_results() -> None:
    assert tuple(PROTOCOLS) == (*PART_PROTOCOLS, "ov_oracle", "pred_obj", "pred_all")
    assert tuple(REPORT_ROWS) == (*PROTOCOLS, *ORACLES)
    for name, protocol in PROTOCOLS.items():
        assert name == protocol.name and name in protocol.evaluator.PROTOCOLS  # type: ignore[attr-defined]


def test_unknown_and_repeated_names_are_refused(scene: Scene) -> None:
    check_protocols(["auto", "error_breakdown"])
    scene.register()
    for refuse in (check_protocols, lambda names: build_evaluators(names, scene.name)):
        with pytest.raises(
            ValueError, match=r"^TEST.PROTOCOLS is 'miou'; allowed: 'auto', 'd2_semseg', 'pin41', .*'pred_all'$"
        ):
            refuse(["d2_semseg", "miou"])
        # A row of the report is no protocol: nobody can ask for an oracle by name.
        with pytest.raises(ValueError, match=r"TEST.PROTOCOLS is 'oracle_box_prompt'; allowed"):
            refuse(["oracle_box_prompt"])
        with pytest.raises(ValueError, match=r"each at most once, got \['pin41', 'pin41'\]"):
            refuse(["pin41", "pin41"])


def test_protocols_that_do_not_fit_are_refused_with_those_that_do(ov_scene: OVScene, scene: Scene) -> None:
    ov_scene.add([[0, 255]], [[CAT, CAT]], CAT)
    scene.add([])
    ov_scene.register()
    scene.register()
    with pytest.raises(ValueError, match=r"protocols \['d2_semseg'\] do not fit .*; \['ov_oracle'\] do"):
        build_evaluators(["d2_semseg"], ov_scene.name)
    ov_scene.records[:] = [{k: v for k, v in ov_scene.records[0].items() if k != "category_id"}]
    with pytest.raises(ValueError, match=r"\['ov_oracle'\] do not fit .*; \['pred_obj', 'pred_all'\] do"):
        build_evaluators(["ov_oracle", "pred_all"], ov_scene.name)
    with pytest.raises(ValueError, match=r"protocols \['pred_obj'\] do not fit .*'pascal_sq', 'pred_all'\] do"):
        build_evaluators(["pred_obj"], scene.name)
    with pytest.raises(ValueError, match="TEST.ORACLES needs a data set with boxes of its parts"):
        FilledBoxOracle(GroundTruth(ov_scene.name))


@pytest.mark.parametrize(
    ("of_metadata", "asked", "reported"),
    [
        (None, ("auto",), DEFAULT_PROTOCOLS),
        (None, ("auto", "error_breakdown", "pin41"), (*DEFAULT_PROTOCOLS, "error_breakdown")),
        (("auto", "pred_all"), ("auto",), (*DEFAULT_PROTOCOLS, "pred_all")),
        (("pascal_sq", "d2_semseg"), ("auto",), ("d2_semseg", "pascal_sq")),
        (("pascal_sq", "d2_semseg"), ("pin41", "auto"), ("d2_semseg", "pin41", "pascal_sq")),
        (("pascal_sq", "d2_semseg"), ("pin41",), ("pin41",)),
    ],
)
def test_auto_stands_for_the_protocols_of_the_data_set(
    scene: Scene, of_metadata: tuple[str, ...] | None, asked: tuple[str, ...], reported: tuple[str, ...]
) -> None:
    mask = box_mask(16, 16, 0, 0, 8, 8)
    record = scene.add([annotation(0, mask)])
    scene.register()
    if of_metadata:
        GroundTruth(scene.name).metadata.set(protocols=of_metadata)
    results = run(build_evaluators(asked, scene.name), [record], [scene.output(record, [(0, mask)])])
    assert tuple(results) == reported


def test_the_default_protocols() -> None:
    assert DEFAULT_PROTOCOLS == ("d2_semseg", "pin41", "wps_image_part", "wps_authors", "coco_ap")


def test_two_protocols_of_one_evaluator_share_it(scene: Scene) -> None:
    scene.register()
    (evaluator,) = build_evaluators(["pin41", "d2_semseg"], scene.name)._evaluators
    assert isinstance(evaluator, PooledPartEvaluator)


# ------------------------------------------------------------------ a protocol from outside


class CorrectPixels(PartEvaluator):
    """The share of each class's pixels that are right, nothing ignored."""

    def reset(self) -> None:
        super().reset()
        self._correct, self._all = np.zeros(3), np.zeros(3)

    def process_image(
        self, position: int, record: Record, model_input: Mapping[str, Any], output: Mapping[str, Any]
    ) -> None:
        target = self.ground_truth.part_map(record)
        pred = checked_sem_seg(record, output, target.shape, 4).argmax(dim=0).numpy()
        for c in range(3):
            self._correct[c] += ((pred == c) & (target == c)).sum()
            self._all[c] += (target == c).sum()

    def compute(self) -> Results:
        gathered = self.gather((self._correct, self._all))
        if gathered is None:
            return OrderedDict()
        correct, total = (sum(state[i] for state in gathered) for i in (0, 1))
        shares = 100 * correct / np.maximum(total, 1)
        by_name = zip(self.ground_truth.class_names, shares.tolist())
        mean = float(shares.mean())
        scores = {"mean": mean, "mean-base": mean, **{f"share-{name}": share for name, share in by_name}}
        return OrderedDict({self.protocol: scores})


@pytest.fixture
def correct_pixels() -> Iterator[str]:
    """The name of a protocol that is registered for one test."""
    name = "correct_pixels"
    protocol = Protocol(
        name=name,
        note="for this test",
        fits=with_background,
        columns=(PartColumn("share", "share"),),
        group_means=("mean",),
    )
    register_protocols(protocol)(CorrectPixels)
    yield name
    forget(name)


def forget(name: str) -> None:
    del PROTOCOLS[name], REPORT_ROWS[name]


def test_a_protocol_from_outside_is_one_like_the_others(correct_pixels: str, scene: Scene, ov_scene: OVScene) -> None:
    check_protocols(["auto", correct_pixels])
    head, body = box_mask(16, 16, 0, 0, 8, 8), box_mask(16, 16, 8, 8, 16, 16)
    record = scene.add([annotation(0, head), annotation(1, body)])
    scene.register()
    evaluators = build_evaluators([correct_pixels, "d2_semseg"], scene.name)
    results = run(evaluators, [record], [scene.output(record, [(0, box_mask(16, 16, 0, 0, 8, 4))])])
    # Half of the head's pixels, none of the body's; the wheel has none.
    shares = {"share-Animal Head": 50.0, "share-Animal Body": 0.0, "share-Car Wheel": 0.0}
    mean = pytest.approx(50 / 3)
    assert results[correct_pixels] == {"mean": mean, "mean-base": mean, **shares}
    assert list(results) == ["d2_semseg", correct_pixels]
    lines = format_results_table(results, scene.classes).splitlines()
    (row,) = (line for line in lines if line.startswith(correct_pixels))
    assert row.split("  ", 1)[1].strip() == "mean 16.67  mean-base 16.67   (for this test)"
    header, first, *_ = lines[lines.index("") + 1 :]
    assert header.split() == ["part", "IoU", "ACC", "OSI", "USI", "share"] and first.split()[-1] == "50.00"

    ov_scene.add([[0, 255]], [[CAT, CAT]])
    ov_scene.register()
    with pytest.raises(ValueError, match=r"\['correct_pixels'\] do not fit .*; \['pred_obj', 'pred_all'\] do"):
        build_evaluators([correct_pixels], ov_scene.name)


def test_a_child_of_an_evaluator_reports_under_its_own_name(scene: Scene) -> None:
    @register_protocols(Protocol(name="of_a_child", note="", fits=whole_pictures))
    class Child(ImagePartEvaluator):
        pass

    mask = box_mask(16, 16, 0, 0, 8, 8)
    record = scene.add([annotation(0, mask)])
    scene.register()
    try:
        evaluators = build_evaluators(["of_a_child", "wps_image_part"], scene.name)
        results = run(evaluators, [record], [scene.output(record, [(0, mask)])])
    finally:
        forget("of_a_child")
    assert list(results) == ["wps_image_part", "of_a_child"]
    assert results["of_a_child"] == results["wps_image_part"]


@pytest.mark.parametrize("name", ["d2_semseg", "oracle_filled_box", "auto"])
def test_a_name_is_taken_once(name: str) -> None:
    with pytest.raises(ValueError, match=rf"protocol '{name}': the name is taken"):
        register_protocols(Protocol(name=name, note="", fits=whole_pictures))(CorrectPixels)
    assert CorrectPixels.PROTOCOLS == () or name not in CorrectPixels.PROTOCOLS
