"""Crops around objects: where they lie, what is cut and pasted back, and a run that looks at nothing else."""

from __future__ import annotations

import json

from wps_sam.image_level.cams import enlarge
from wps_sam.image_level.objects import Region, read_objects, whole
from wps_sam.image_level.superpixels import Superpixel

import numpy as np
import pytest
import torch


def coco_file(path, images, annotations):
    """(name, height, width) of images; (image, xywh, segmentation or None) of annotations."""
    listed = [{"id": i, "file_name": n, "height": h, "width": w} for i, (n, h, w) in enumerate(images)]
    labels = [
        {"id": k, "image_id": i, "category_id": 0, "bbox": box, "iscrowd": 0, **({"segmentation": s} if s else {})}
        for k, (i, box, s) in enumerate(annotations)
    ]
    content = {"images": listed, "annotations": labels, "categories": [{"id": 0, "name": "thing"}]}
    path.write_text(json.dumps(content))
    return str(path)


def test_a_crop_is_around_all_objects_with_a_tenth_on_each_side(tmp_path):
    """Boxes (20, 10) to (40, 30) and (30, 20) to (60, 50): together 40 x 40 from (20, 10), 4 more on each side; they
    share 10 x 10 pixels, so they cover 400 + 900 - 100, not the 1300 that they add up to."""
    images = [("a/1.jpg", 60, 80), ("a/2.jpg", 60, 80), ("b/1.jpg", 60, 80), ("3.jpg", 20, 20)]
    boxes = [(0, [20, 10, 20, 20], None), (0, [30, 20, 30, 30], None), (2, [0, 0, 80, 60], None)]
    # Half of this box is in the mask.
    masked = [(3, [2, 2, 10, 10], [[2.0, 2.0, 12.0, 2.0, 12.0, 7.0, 2.0, 7.0]])]
    path = coco_file(tmp_path / "objects.json", images, [*boxes, *masked])
    found = read_objects(path, [f"/data/{name}" for name, *_ in images] + ["/data/elsewhere.jpg"])
    assert found["/data/a/1.jpg"] == Region((16, 6, 64, 54), 1200)
    assert "/data/a/2.jpg" not in found and "/data/elsewhere.jpg" not in found, "looked at whole"
    assert found["/data/b/1.jpg"] == Region((0, 0, 80, 60), 4800), "not of the other 1.jpg, and not beyond the picture"
    assert found["/data/3.jpg"] == Region((1, 1, 13, 13), 50)
    with pytest.raises(ValueError, match=r"objects: .*objects.json: none of the run's pictures is in it, such as x/9"):
        read_objects(path, ["x/9.jpg"])
    outside = coco_file(tmp_path / "outside.json", [("1.jpg", 10, 10)], [(0, [20, 20, 5, 5], None)])
    with pytest.raises(ValueError, match=r"outside.json: images\[0\]: the boxes of its annotations lie outside"):
        read_objects(outside, ["1.jpg"])


def test_what_was_cut_is_pasted_where_it_was():
    region = Region((3, 1, 7, 6), 5)
    picture = np.arange(8 * 9 * 3).reshape(8, 9, 3)
    assert np.array_equal(region.cut(picture), picture[1:6, 3:7])
    mask = np.zeros((5, 4), bool)
    mask[0, 1] = True
    pasted = region.paste(mask, (8, 9))
    assert pasted.sum() == 1 and pasted[1, 4]
    large = region.enlarge(torch.ones(2, 2, 2), (8, 9))
    assert large.shape == (2, 8, 9) and large.sum() == 2 * 20 and large[:, 1:6, 3:7].all()
    assert region.enlarge(torch.zeros(0, 2, 2), (8, 9)).shape == (0, 8, 9)
    maps = torch.rand(1, 3, 4)
    assert torch.equal(whole(6, 8).enlarge(maps, (6, 8)), enlarge(maps, 6, 8))
    one = Superpixel(mask, 1, 0.5, 0.5, (1.0, 0.0), (0, 0, 4, 5)).pasted(region, (8, 9))
    assert one.box == (4, 1, 4, 1) and one.point == (4.0, 1.0) and one.crop == (3, 1, 7, 6)
