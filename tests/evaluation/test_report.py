from __future__ import annotations

import math

from wps_sam.evaluation import format_results_table

RESULTS = {
    "d2_semseg": {"mIoU": 61.234, "mACC": 70.0, "IoU-Animal Head": 50.0, "IoU-Car Wheel": math.nan},
    "wps_authors": {"mIoU": math.nan},
    "coco_ap": {"AP": 12.0, "AP-Animal Head": 12.0, "AP-Car Wheel": math.nan},
    "oracle_box_prompt": {"mIoU": 80.0, "IoU-Animal Head": 81.0, "IoU-Car Wheel": math.nan},
}


def test_every_protocol_and_every_part_has_a_row() -> None:
    lines = format_results_table(RESULTS, ["Animal Head", "Car Wheel"]).splitlines()
    by_name = {line.split("  ")[0].strip(): line.split() for line in lines if line}
    assert by_name["d2_semseg"][1:5] == ["mIoU", "61.23", "mACC", "70.00"]
    # Scores of single parts stay out of the protocol's row.
    assert "50.00" not in by_name["d2_semseg"]
    assert by_name["wps_authors"][1:3] == ["mIoU", "-"]
    assert by_name["Animal Head"] == ["Animal", "Head", "50.00", "12.00", "81.00"]
    assert by_name["Car Wheel"] == ["Car", "Wheel", "-", "-", "-"]
    # Columns line up under their headings.
    header, *rows = lines[lines.index("") + 1 :]
    assert len({len(line) for line in (header, *rows)}) == 1


def test_protocols_without_parts_give_no_part_table() -> None:
    assert "part " not in format_results_table({"wps_authors": {"mIoU": 1.0}}, ["Animal Head"])


def test_means_of_seen_and_unseen_classes_are_shown_and_unseen_classes_marked() -> None:
    scores = {"mIoU": 30.0, "mIoU-base": 40.0, "mIoU_gt-unbase": 20.0, "IoU-dog's ear": 20.0, "IoU-cat's ear": 40.0}
    unseen = {"mIoU-unbase": 20.0, "hIoU": 26.67}
    results = {"ov_oracle": scores | unseen, "pascal_sq": {"mIOU": 1.0, "sqIoU-dog's ear": 2.0}}
    lines = format_results_table(results, ["cat's ear", "dog's ear"], unseen=[1]).splitlines()
    protocol = next(line for line in lines if line.startswith("ov_oracle"))
    for shown in ("mIoU-base 40.00", "mIoU-unbase 20.00", "mIoU_gt-unbase 20.00", "hIoU 26.67"):
        assert shown in protocol
    assert "ear" not in protocol
    *_, header, cat, dog = lines
    assert header.split() == ["part", "IoU,", "oracle", "sq-IoU"]
    assert cat.split() == ["cat's", "ear", "40.00", "-"]
    assert dog.split() == ["dog's", "ear", "(unseen)", "20.00", "2.00"]
    # Where no protocol averages over them, the division says nothing about the model.
    plain = format_results_table({"ov_oracle": scores}, ["cat's ear", "dog's ear"], unseen=[1])
    assert "(unseen)" not in plain


def test_columns_stand_by_kind_and_not_by_protocol() -> None:
    scores = {"IoU-ear": 1.0, "ACC-ear": 2.0, "sqIoU-ear": 3.0, "AP-ear": 4.0, "box_AP-ear": 5.0}
    names = ("coco_ap", "oracle_filled_box", "pascal_sq", "oracle_box_prompt", "pred_all", "d2_semseg")
    header = format_results_table(dict.fromkeys(names, scores), ["ear"]).splitlines()[-2]
    columns = ("IoU", "ACC", "IoU, pred-all", "sq-IoU", "mask AP", "box AP", "IoU, box prompt", "IoU, filled box")
    assert header.split() == " ".join(["part", *columns]).split()


def test_a_row_that_nobody_registered_has_no_note() -> None:
    lines = format_results_table({"mine": {"mIoU": 1.0, "IoU-ear": 2.0}}, ["ear"]).splitlines()
    assert lines[1:] == ["mine  mIoU 1.00"]
