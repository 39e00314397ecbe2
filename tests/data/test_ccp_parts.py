"""The real photos of CCP parts, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

from wps_sam.data import PartDatasetMapper, check_part_map_ids, load_partimagenet
from wps_sam.data.sources.coco import load_coco_vocabulary
from wps_sam.data.sources.descriptions import read_description, register_descriptions
from wps_sam.data.weak_labels import usable_box
from wps_sam.masks import mask_to_box, read_object_map, read_part_map, segmentation_to_mask

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = Path(os.environ.get("WPS_SAM_CCP_PARTS") or ROOT.parent / "shared" / "data" / "ccp_parts")

pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason="CCP parts not found; set WPS_SAM_CCP_PARTS")


@pytest.fixture(scope="module")
def val():
    """(records, metadata) of the validation split, read through the shipped description."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WPS_SAM_CCP_PARTS", str(PHOTOS))
        description = read_description(str(ROOT / "datasets" / "ccp_parts.yaml"))
    train, val = description.splits
    vocabulary = load_coco_vocabulary(train.json_file)
    metadata = MetadataCatalog.get("ccp_parts_val_of_the_data_tests").set(**vocabulary.metadata())
    return load_partimagenet(val.images, val.json_file, vocabulary), metadata


def test_split_is_complete(val):
    records, metadata = val
    assert len(records) == 120 and len(metadata.thing_classes) == 16
    assert all(os.path.isfile(r["sem_seg_file_name"]) for r in records)
    check_part_map_ids(records, metadata, max_images=20)


def test_painted_part_maps_agree_with_the_stored_ones(val):
    records, metadata = val
    for record in records[:5]:
        stored = read_part_map(record, metadata)
        painted = read_part_map({k: v for k, v in record.items() if k != "sem_seg_file_name"}, metadata)
        # Pieces below 40 pixels have no annotation, and polygons cut corners.
        assert (stored == painted).mean() > 0.97


def test_boxes_fit_their_masks(val):
    records, _ = val
    for record in records[:10]:
        size = record["height"], record["width"]
        for annotation in record["annotations"]:
            box = usable_box(annotation, *size)
            mask = segmentation_to_mask(annotation["segmentation"], *size)
            # Polygons follow pixel centres, so a mask may end a pixel or two before its box.
            assert np.abs(np.subtract(box, mask_to_box(mask))).max() <= 3


def test_photos_become_inputs(val, tiny_cfg):
    records, _ = val
    mapper = PartDatasetMapper(tiny_cfg("WEAK_LABELS.TYPE", "point"), is_train=True)
    for record in records[:5]:
        output = mapper(record)
        assert max(output["image"].shape) == 512 and output["image"].float().std() > 10
        assert len(output["instances"]) == len(record["annotations"])


def test_zero_shot_split_asks_for_each_person(monkeypatch):
    monkeypatch.setenv("WPS_SAM_CCP_PARTS", str(PHOTOS))
    names = register_descriptions([str(ROOT / "datasets" / "ccp_parts_zero_shot.yaml")])
    assert set(names) >= {"ccp_parts_zs_train_seen", "ccp_parts_zs_val", "ccp_parts_zs_val_obj_condition"}
    assert len(MetadataCatalog.get("ccp_parts_zs_train_seen").thing_classes) == 12
    records = DatasetCatalog.get("ccp_parts_zs_val_obj_condition")
    metadata = MetadataCatalog.get("ccp_parts_zs_val_obj_condition")
    assert len(records) == 120 and {r["category_id"] for r in records} == {0}
    unseen = set(range(16)) - set(metadata.evaluation_set["base"])
    assert {metadata.thing_classes[c] for c in unseen} == {"skirt", "headwear", "bag", "legwear"}
    for record in records[:3]:
        part_map, object_map = read_part_map(record, metadata), read_object_map(record, metadata)
        # 16, the background of the part maps, and 1, of the object maps, both read as ignore.
        assert set(np.unique(part_map)) <= {*range(16), 255} and set(np.unique(object_map)) <= {0, 255}
        assert (object_map[part_map < 16] == 0).mean() > 0.95
