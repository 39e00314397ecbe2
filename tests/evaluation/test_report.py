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
