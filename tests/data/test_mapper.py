"""What the model is fed: weak labels that follow the picture exactly, and never a mask."""

from __future__ import annotations

import hashlib
import json

from wps_sam.config import add_wps_sam_config
from wps_sam.data import PartDatasetMapper
from wps_sam.data.mapper import RandomCrop, RandomViews, build_augmentations, is_mirrored, random_view
from wps_sam.data.sources.coco import load_partimagenet, load_vocabulary
from wps_sam.encoders import ResizeLongestSide
from wps_sam.encoders.build_sam import SAM_ARCHS
from wps_sam.masks import mask_to_box, mask_to_rle
from wps_sam.structures import UNKNOWN, LabelKind

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from fvcore.transforms.transform import CropTransform
from part_layouts import DOG, PICTURES
from PIL import Image

SIZE = SAM_ARCHS["vit_tiny"].image_size
VOCABULARY = load_vocabulary("partimagenet")


def our_cfg(*opts):
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    cfg.merge_from_list(["MODEL.SAM.ARCH", "vit_tiny", *opts])
    return cfg


def record_of(tmp_path, masks, image=None):
    """A picture on disk whose parts have these masks, class c = position."""
    height, width = masks[0].shape if image is None else image.shape[:2]
    path = tmp_path / "picture.png"
    Image.fromarray(np.zeros((height, width, 3), np.uint8) if image is None else image).save(path)
    annotations = []
    for i, mask in enumerate(masks):
        x0, y0, x1, y1 = mask_to_box(mask)
        entry = {"id": i, "category_id": i, "bbox": [x0, y0, x1 - x0, y1 - y0], "bbox_mode": BoxMode.XYWH_ABS}
        annotations.append({**entry, "iscrowd": 0, "segmentation": mask_to_rle(mask)})
    size = {"height": height, "width": width}
    return {"file_name": str(path), "image_id": 5, **size, "annotations": annotations}


def random_masks(rng, height, width, count=6):
    masks = []
    for _ in range(count):
        mask = np.zeros((height, width), bool)
        x, y = rng.integers(0, width - 1), rng.integers(0, height - 1)
        mask[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = True
        masks.append(mask)
    return masks


AUGMENTATIONS = {
    "resize": [],
    "flip": [T.RandomFlip(prob=1.0)],
    "crop": [RandomCrop("relative_range", [0.4, 0.4])],
    "all": [RandomCrop("relative_range", [0.4, 0.4]), T.RandomFlip()],
}


def moved_masks(augmentations, masks, seed):
    """The masks moved by the very transforms that the mapper draws after seeding with ``seed``."""
    np.random.seed(seed)
    transforms = T.AugmentationList(augmentations)(T.AugInput(np.zeros((*masks[0].shape, 3), np.uint8)))
    return [transforms.apply_segmentation(mask.astype(np.uint8)).astype(bool) for mask in masks]


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(40, 60), (61, 33)])
def test_boxes_move_as_masks_do(tmp_path, name, shape):
    augmentations = [*AUGMENTATIONS[name], ResizeLongestSide(SIZE)]
    mapper = PartDatasetMapper(is_train=True, augmentations=augmentations, label_type="box")
    rng = np.random.default_rng(0)
    for seed in range(8):
        masks = random_masks(rng, *shape)
        expected = moved_masks(augmentations, masks, seed)
        np.random.seed(seed)
        output = mapper(record_of(tmp_path, masks))
        instances = output["instances"]
        assert instances.image_size == tuple(output["image"].shape[1:]) == expected[0].shape
        visible = [i for i, mask in enumerate(expected) if mask.any()]
        assert instances.gt_classes.tolist() == visible
        boxes = np.array([mask_to_box(expected[i]) for i in visible]).reshape(-1, 4)
        # Nearest-neighbour resizing puts a mask's edge on a whole pixel, the box keeps the fraction.
        assert np.abs(instances.gt_boxes.tensor.numpy() - boxes).max(initial=0) <= 0.5 + 1e-4


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("rule", ["random_pixel", "deepest_pixel", "box_center"])
def test_points_move_as_masks_do(tmp_path, name, rule):
    augmentations = [*AUGMENTATIONS[name], ResizeLongestSide(SIZE)]
    mapper = PartDatasetMapper(is_train=True, augmentations=augmentations, label_type="point", point_rule=rule)
    rng = np.random.default_rng(1)
    for seed in range(8):
        # Parts of one pixel: every rule must pick it, and its moved mask says where it went.
        masks = [np.zeros((40, 60), bool) for _ in range(6)]
        for mask in masks:
            mask[rng.integers(40), rng.integers(60)] = True
        expected = moved_masks(augmentations, masks, seed)
        np.random.seed(seed)
        instances = mapper(record_of(tmp_path, masks))["instances"]
        assert instances.gt_classes.tolist() == [i for i, mask in enumerate(expected) if mask.any()]
        for class_id, (x, y) in zip(instances.gt_classes.tolist(), instances.gt_points.tolist()):
            x0, y0, x1, y1 = mask_to_box(expected[class_id])
            # The centre of the enlarged pixel: in pixel-centre coordinates half a pixel below that of its box.
            assert abs(x - ((x0 + x1) / 2 - 0.5)) <= 0.5 + 1e-4 and abs(y - ((y0 + y1) / 2 - 0.5)) <= 0.5 + 1e-4


def test_hand_worked_coordinates(tmp_path):
    # 40 x 60 to longest side 120: twice as large. The pixel (50, 10) flipped is (9, 10); doubled, it covers the
    # pixels 18, 19 by 20, 21, whose common centre is (18.5, 20.5).
    mask = np.zeros((40, 60), bool)
    mask[10, 50] = True
    augmentations = [T.RandomFlip(prob=1.0), ResizeLongestSide(120)]
    point = PartDatasetMapper(is_train=True, augmentations=augmentations, label_type="point")
    assert point(record_of(tmp_path, [mask]))["instances"].gt_points.tolist() == [[18.5, 20.5]]
    box = PartDatasetMapper(is_train=True, augmentations=augmentations, label_type="box")
    assert box(record_of(tmp_path, [mask]))["instances"].gt_boxes.tensor.tolist() == [[18.0, 20.0, 20.0, 22.0]]


def test_output_of_training_and_test(seg):
    record = load_partimagenet(str(seg.images), str(seg.json_file), VOCABULARY)[0]
    for label_type, field in (("box", "gt_boxes"), ("point", "gt_points")):
        output = PartDatasetMapper(our_cfg("WEAK_LABELS.TYPE", label_type), is_train=True)(record)
        assert set(output) == {"image", "file_name", "image_id", "height", "width", "instances"}
        assert set(output["instances"].get_fields()) == {"gt_classes", "gt_kinds", field}
        assert output["instances"].gt_classes.dtype == torch.int64
        assert output["instances"].get(field).device.type == "cpu"
    output = PartDatasetMapper(our_cfg(), is_train=False)(record)
    assert set(output) == {"image", "file_name", "image_id", "height", "width"}
    assert output["image"].dtype == torch.uint8 and output["image"].shape == (3, 341, 512)
    assert (output["height"], output["width"], output["image_id"]) == (40, 60, 0)


RUBBISH = [
    [[3.0, 3.0, 50.0, 4.0, 9.0, 39.0]],
    [[1.0, 2.0, 3.0, 4.0]],
    [[]],
    None,
    "rubbish",
    {"size": [1, 1], "counts": "x"},
    {"size": [40, 60], "counts": [2400]},
]


@pytest.mark.parametrize("augment", [(), ("INPUT.CROP.ENABLED", True, "INPUT.RANDOM_FLIP", "horizontal")])
def test_box_training_is_unchanged_when_all_masks_are_rubbish(seg, augment):
    def inputs():
        mapper = PartDatasetMapper(our_cfg(*augment), is_train=True)
        np.random.seed(0)
        return [mapper(r) for r in load_partimagenet(str(seg.images), str(seg.json_file), VOCABULARY)]

    expected = inputs()
    assert sum(len(x["instances"]) for x in expected) >= 5
    for png in seg.json_file.parent.glob("n*.png"):
        png.write_bytes(b"rubbish")
    for shift in range(len(RUBBISH)):

        def spoil(coco, shift=shift):
            for i, annotation in enumerate(coco["annotations"]):
                annotation.update(segmentation=RUBBISH[(i + shift) % len(RUBBISH)], area=-1)

        seg.rewrite(spoil)
        for clean, spoiled in zip(expected, inputs(), strict=True):
            assert clean["image"].numpy().tobytes() == spoiled["image"].numpy().tobytes()
            a, b = clean["instances"], spoiled["instances"]
            assert a.gt_classes.tolist() == b.gt_classes.tolist()
            assert a.gt_boxes.tensor.numpy().tobytes() == b.gt_boxes.tensor.numpy().tobytes()
            assert {k: clean[k] for k in clean if k not in ("image", "instances")} == {
                k: spoiled[k] for k in spoiled if k not in ("image", "instances")
            }


def test_unusable_and_crowd_annotations_are_left_out(seg):
    seg.change_annotation(0, iscrowd=1)
    seg.change_annotation(1, bbox=[40, 5, 0, 12])
    seg.change_annotation(2, bbox=[500, 5, 5, 5])
    record = load_partimagenet(str(seg.images), str(seg.json_file), VOCABULARY)[0]
    assert PartDatasetMapper(our_cfg(), is_train=True)(record)["instances"].gt_classes.tolist() == [2]
    # Masks can still give points where the box is unusable.
    cfg = our_cfg("WEAK_LABELS.TYPE", "point", "WEAK_LABELS.POINT", "deepest_pixel")
    assert PartDatasetMapper(cfg, is_train=True)(record)["instances"].gt_classes.tolist() == [0, 2, 2]


@pytest.mark.parametrize("label_type", ["box", "point"])
def test_image_without_annotations_gives_no_labels(tmp_path, label_type):
    record = {**record_of(tmp_path, [np.ones((4, 4), bool)]), "annotations": []}
    instances = PartDatasetMapper(our_cfg("WEAK_LABELS.TYPE", label_type), is_train=True)(record)["instances"]
    assert len(instances) == 0 and instances.gt_classes.dtype == torch.int64
    geometry = instances.gt_boxes.tensor if label_type == "box" else instances.gt_points
    assert geometry.shape == (0, 4 if label_type == "box" else 2) and geometry.dtype == torch.float32


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(1, 1, (512, 512)), (20, 8000, (1, 512)), (8000, 20, (512, 1)), (1, 8000, (1, 512)), (511, 512, (511, 512))],
)
def test_extreme_pictures_keep_a_pixel(tmp_path, height, width, size):
    record = record_of(tmp_path, [np.ones((height, width), bool)])
    for cfg in (our_cfg(), our_cfg("INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [0.3, 0.3])):
        output = PartDatasetMapper(cfg, is_train=True)(record)
        assert len(output["instances"]) == 1 and output["image"].min() == 0
        if not cfg.INPUT.CROP.ENABLED:
            assert output["image"].shape == (3, *size)
            assert output["instances"].gt_boxes.tensor.tolist() == [[0, 0, size[1], size[0]]]


def test_missing_truncated_and_mis_sized_pictures_name_the_file(seg):
    records = load_partimagenet(str(seg.images), str(seg.json_file), VOCABULARY)
    mapper = PartDatasetMapper(our_cfg(), is_train=True)
    path = seg.images / f"{DOG}.JPEG"
    with pytest.raises(ValueError, match=rf"{DOG}\.JPEG: height and width are \(40, 60\).*says \(41, 60\)"):
        mapper({**records[0], "height": 41})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"image .*{DOG}\.JPEG: cannot be decoded: .*truncated"):
        mapper(records[0])
    path.unlink()
    with pytest.raises(ValueError, match=rf"image .*{DOG}\.JPEG: the file does not exist"):
        mapper(records[0])


def test_augmentations_follow_the_configuration():
    def names(cfg, is_train):
        return [type(augmentation).__name__ for augmentation in build_augmentations(cfg, is_train)]

    everything = our_cfg("INPUT.CROP.ENABLED", True, "INPUT.RANDOM_FLIP", "horizontal")
    assert names(our_cfg(), True) == ["ResizeLongestSide"]
    assert names(everything, True) == ["RandomCrop", "RandomFlip", "ResizeLongestSide"]
    assert names(everything, False) == ["ResizeLongestSide"]


@pytest.mark.parametrize("arch", SAM_ARCHS)
def test_the_picture_is_resized_to_what_the_encoder_takes(arch):
    (resize,) = build_augmentations(our_cfg("MODEL.SAM.ARCH", arch), is_train=False)
    assert resize.size == SAM_ARCHS[arch].image_size


def test_records_survive_unchanged(seg):
    records = load_partimagenet(str(seg.images), str(seg.json_file), VOCABULARY)
    before = json.dumps(records)
    mapper = PartDatasetMapper(our_cfg("WEAK_LABELS.TYPE", "point", "WEAK_LABELS.POINT", "random_pixel"), is_train=True)
    first = [mapper(record)["instances"].gt_points for record in records]
    again = [mapper(record)["instances"].gt_points for record in reversed(records)]
    assert json.dumps(records) == before and len(records) == len(PICTURES)
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again)))


def test_malformed_mask_names_picture_and_annotation_where_a_point_needs_it(seg):
    record = load_partimagenet(str(seg.images), str(seg.json_file), VOCABULARY)[0]
    # The loader leaves it out; a record may come from elsewhere.
    record["annotations"][0]["segmentation"] = {"size": [40, 60], "counts": [7]}
    cfg = our_cfg("WEAK_LABELS.TYPE", "point", "WEAK_LABELS.POINT", "random_pixel")
    with pytest.raises(ValueError, match=rf"{DOG}\.JPEG: annotation 0: segmentation\.counts: .* got 7"):
        PartDatasetMapper(cfg, is_train=True)(record)
    # Boxes, and the point that the authors use, do without it.
    for opts in ((), ("WEAK_LABELS.TYPE", "point")):
        assert len(PartDatasetMapper(our_cfg(*opts), is_train=True)(record)["instances"]) == 4


def test_sides_change_places_in_a_mirrored_picture(tmp_path):
    """The left ear of a mirrored dog is its right one; classes without a side stay."""
    masks = [np.zeros((20, 30), bool) for _ in range(3)]
    masks[0][2:6, 2:6] = masks[1][2:6, 20:26] = masks[2][10:18, 5:25] = True
    record = record_of(tmp_path, masks)
    options = {"is_train": True, "flip_map": [1, 0, 2]}
    mirrored = PartDatasetMapper(augmentations=[T.RandomFlip(prob=1.0)], **options)(record)["instances"]
    assert mirrored.gt_classes.tolist() == [1, 0, 2]
    # The ear at the left edge, class 0, is now class 1 at the right edge.
    assert mirrored.gt_boxes.tensor[0].tolist() == [24, 2, 28, 6]
    twice = PartDatasetMapper(augmentations=[T.RandomFlip(prob=1.0)] * 2, **options)(record)["instances"]
    assert twice.gt_classes.tolist() == [0, 1, 2]
    thrice = PartDatasetMapper(augmentations=[T.RandomFlip(prob=1.0)] * 3, **options)(record)["instances"]
    assert thrice.gt_classes.tolist() == [1, 0, 2]
    upside_down = [T.RandomFlip(prob=1.0, horizontal=False, vertical=True)]
    turned = PartDatasetMapper(augmentations=upside_down, **options)(record)["instances"]
    assert turned.gt_classes.tolist() == [0, 1, 2]
    without = PartDatasetMapper(is_train=True, augmentations=[T.RandomFlip(prob=1.0)])(record)["instances"]
    assert without.gt_classes.tolist() == [0, 1, 2]
    tagged = PartDatasetMapper(augmentations=[T.RandomFlip(prob=1.0)], **options, label_type="as_annotated")(
        {**record, "tags": [0, 2]}
    )
    assert tagged["tags"].tolist() == [1, 2]


def mixed_record(tmp_path):
    """A mask, a box, a point, and what has nothing but a class; class c = position."""
    masks = [np.zeros((20, 30), bool) for _ in range(4)]
    masks[0][2:6, 2:8] = masks[1][2:6, 20:26] = masks[2][10:18, 5:25] = masks[3][0, 0] = True
    record = record_of(tmp_path, masks)
    _, box, point, tag = record["annotations"]
    del box["segmentation"]
    for entry in (point, tag):
        del entry["segmentation"], entry["bbox"], entry["bbox_mode"]
    point["point"] = [12.0, 14.0]
    return {**record, "tags": [0, 3]}


def test_as_annotated_takes_of_each_annotation_the_most_it_has(tmp_path):
    mapper = PartDatasetMapper(is_train=True, augmentations=[T.RandomFlip(prob=1.0)], label_type="as_annotated")
    output = mapper(mixed_record(tmp_path))
    instances = output["instances"]
    assert instances.gt_classes.tolist() == [0, 1, 2]
    assert instances.gt_kinds.tolist() == [LabelKind.MASK, LabelKind.BOX, LabelKind.POINT]
    # Mirrored in 30 pixels: columns 2..8 become 22..28, and pixel 12 becomes 17.
    assert instances.gt_boxes.tensor.tolist() == [[22, 2, 28, 6], [4, 2, 10, 6], [0, 0, 0, 0]]
    assert instances.gt_points.tolist() == [[0, 0], [0, 0], [17, 14]]
    masks = instances.gt_masks.tensor
    assert masks[0].nonzero().min(0).values.tolist() == [2, 22] and masks[0].sum() == 24 and not masks[1:].any()
    assert output["tags"].tolist() == [0, 3] and not output["cropped"]
    crop = PartDatasetMapper(
        is_train=True, augmentations=[RandomCrop("relative", (0.5, 0.5))], label_type="as_annotated"
    )
    assert crop(mixed_record(tmp_path))["cropped"]


@pytest.mark.parametrize(
    ("label_type", "kinds", "fields"),
    [
        ("box", [LabelKind.BOX, LabelKind.BOX], {"gt_boxes"}),
        ("point", [LabelKind.POINT] * 3, {"gt_points"}),
        ("mask", [LabelKind.MASK, LabelKind.BOX], {"gt_boxes", "gt_masks"}),
    ],
)
def test_a_run_sees_no_more_than_its_kind_of_label(tmp_path, label_type, kinds, fields):
    output = PartDatasetMapper(is_train=True, augmentations=[], label_type=label_type)(mixed_record(tmp_path))
    instances = output["instances"]
    assert instances.gt_kinds.tolist() == kinds and "tags" not in output
    assert set(instances.get_fields()) == {"gt_classes", "gt_kinds"} | fields
    if label_type == "point":
        # The centres of the boxes, and the point that somebody has set.
        assert instances.gt_points.tolist() == [[4.5, 3.5], [22.5, 3.5], [12, 14]]


def test_a_mask_without_a_usable_box_brings_its_own(tmp_path):
    mask = np.zeros((20, 30), bool)
    mask[2:6, 2:8] = True
    record = record_of(tmp_path, [mask])
    record["annotations"][0]["bbox"] = [40.0, 40.0, 0.0, 0.0]
    instances = PartDatasetMapper(is_train=True, augmentations=[], label_type="mask")(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[2, 2, 8, 6]]


def test_a_mask_that_a_crop_leaves_nothing_of_is_its_box_or_nothing(tmp_path):
    """A ring cropped to its empty middle keeps its box; a part outside the crop is gone."""
    ring, outside = np.ones((20, 30), bool), np.zeros((20, 30), bool)
    ring[5:15, 5:25] = False
    outside[0, 0] = True
    crop = CropTransform(10, 8, 6, 4)
    record = record_of(tmp_path, [ring, outside])
    instances = PartDatasetMapper(is_train=True, augmentations=[crop], label_type="mask")(record)["instances"]
    assert instances.gt_classes.tolist() == [0] and instances.gt_kinds.tolist() == [LabelKind.BOX]
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 6, 4]]


def test_an_object_conditioned_record_says_so_to_the_model(tmp_path):
    record = {**record_of(tmp_path, [np.ones((20, 30), bool)]), "category_id": 3}
    assert PartDatasetMapper(is_train=False, augmentations=[])(record)["category_id"] == 3


def test_a_point_on_the_border_of_a_crop_stays_and_one_beyond_is_gone(tmp_path):
    """A crop of 6 x 4 pixels from (10, 8): in coordinates of pixel centres it spans 9.5 to 15.5 and 7.5 to 11.5."""
    record = record_of(tmp_path, [np.ones((20, 30), bool)] * 8)
    inside = [[9.5, 7.5], [15.5, 11.5], [12.0, 10.0]]
    outside = [[9.4, 10.0], [15.6, 10.0], [12.0, 7.4], [12.0, 11.6], [0.0, 0.0]]
    for entry, point in zip(record["annotations"], inside + outside):
        entry["point"] = point
    crop = CropTransform(10, 8, 6, 4)
    instances = PartDatasetMapper(is_train=True, augmentations=[crop], label_type="point")(record)["instances"]
    assert instances.gt_classes.tolist() == [0, 1, 2]
    assert instances.gt_points.tolist() == [[-0.5, -0.5], [5.5, 3.5], [2, 2]]


def test_a_box_that_only_touches_a_crop_is_gone(tmp_path):
    masks = [np.zeros((20, 30), bool) for _ in range(5)]
    # Left, above, right of and below the crop of 6 x 4 from (10, 8), up to its sides; and its last pixel.
    masks[0][8:12, 5:10] = masks[1][4:8, 10:16] = masks[2][8:12, 16:20] = masks[3][12:15, 10:16] = True
    masks[4][11, 15] = True
    crop = CropTransform(10, 8, 6, 4)
    instances = PartDatasetMapper(is_train=True, augmentations=[crop])(record_of(tmp_path, masks))["instances"]
    assert instances.gt_classes.tolist() == [4]
    assert instances.gt_boxes.tensor.tolist() == [[5, 3, 6, 4]]


def test_a_crop_of_a_thin_picture_keeps_a_pixel():
    crop = RandomCrop("relative", (0.3, 0.3))
    # 0.3 and 0.6 pixels; Detectron2 rounds the first to none.
    assert crop.get_crop_size((1, 2)) == (1, 1) and crop.get_crop_size((2, 1)) == (1, 1)
    assert crop.get_crop_size((40, 60)) == (12, 18)


def test_sides_are_rounded_to_the_nearest_pixel():
    def size(height, width, longest):
        resized = ResizeLongestSide(longest).get_transform(np.zeros((height, width, 3), np.uint8))
        return resized.new_h, resized.new_w

    # 4 of 6 pixels become 6.67 of 10; 3 of 8 become 4.5 of 12; 5 of 12 become 3.33 of 8.
    assert size(4, 6, 10) == (7, 10) and size(8, 3, 12) == (12, 5) and size(5, 12, 8) == (3, 8)


def views(count, only=None):
    return RandomViews([RandomCrop("relative", (0.5, 0.5)), ResizeLongestSide(16)], count, only)


def test_every_crop_of_a_picture_is_drawn_and_so_is_the_whole():
    np.random.seed(0)
    drawn = [views(2).draw() for _ in range(3000)]
    # Each as often as none: 1000 times, give or take six deviations.
    assert [drawn.count(number) for number in (0, 1, None)] == pytest.approx([1000] * 3, abs=160)
    assert views(2, only=1).draw() == 1 and views(2, only=0).draw() == 0 and views(2, only=2).draw() is None


def test_crops_are_fixed_by_picture_and_number_and_leave_other_draws_alone():
    def crop(number, image_id):
        shown = T.AugInput(np.arange(40 * 60 * 3).reshape(40, 60, 3).astype(np.uint8))
        transforms = views(9).apply(number, {"image_id": image_id}, shown).transforms
        return transforms[0].x0, transforms[0].y0

    np.random.seed(1)
    first = [crop(number, image_id) for number in range(5) for image_id in ("a", "b")]
    after = np.random.rand()
    np.random.seed(1)
    assert np.random.rand() == after
    assert first == [crop(number, image_id) for number in range(5) for image_id in ("a", "b")]
    assert len(set(first)) > 5
    # The number that seeds is part of what stored features are known by.
    np.random.seed(int.from_bytes(hashlib.sha256(b"a/3").digest()[:4], "little"))
    expected = RandomCrop("relative", (0.5, 0.5)).get_transform(np.zeros((40, 60, 3), np.uint8))
    assert crop(3, "a") == (expected.x0, expected.y0)


class StoredFeatures:
    """Says which view it was asked for."""

    def read(self, record, view):
        return {"image_embedding": torch.ones(1), "view": view}


@pytest.mark.parametrize("count", [0, 3])
def test_labels_are_the_same_whether_pictures_are_read_or_not(tmp_path, count):
    """Stored features stand in the picture's place: the same draws, and of the picture its size alone."""
    mask = np.zeros((40, 60), bool)
    mask[4:38, 4:56] = True
    record = record_of(tmp_path, [mask])
    seen = set()
    for seed in range(20):
        outputs = []
        for pixels in (True, False):
            mapper = PartDatasetMapper(
                is_train=True,
                augmentations=[T.RandomFlip(), ResizeLongestSide(16)],
                random_views=views(count) if count else None,
                features=StoredFeatures(),
                pixels=pixels,
            )
            np.random.seed(seed)
            outputs.append(mapper(record))
        whole, unread = outputs
        assert "image" not in unread and "image_size" not in whole and whole["view"] == unread["view"]
        assert unread["image_size"] == tuple(whole["image"].shape[1:]) == whole["instances"].image_size
        assert torch.equal(whole["instances"].gt_boxes.tensor, unread["instances"].gt_boxes.tensor)
        seen.add(whole["view"])
    crops = {f"random_{number}" for number in range(count)}
    assert crops == {random_view(number) for number in range(count)}
    assert {"original", "flipped"} <= seen <= {"original", "flipped", *crops} and bool(seen & crops) == bool(count)


def test_without_stored_features_pictures_are_read():
    assert PartDatasetMapper(is_train=True, augmentations=[], pixels=False).pixels
    assert PartDatasetMapper(is_train=True, augmentations=[], features=StoredFeatures()).pixels
    assert not PartDatasetMapper(is_train=True, augmentations=[], features=StoredFeatures(), pixels=False).pixels


def test_part_maps_of_teachers_move_with_the_picture(tmp_path):
    """Numbers of 16 bits: 300 and UNKNOWN at the left, classes 0 and 1 at the right, which change sides."""
    part_map = np.array([[300, UNKNOWN, 0, 1]], np.uint16).repeat(2, 0)
    record = record_of(tmp_path, [np.ones((2, 4), bool)])
    record["teacher_map"] = cv2.imencode(".png", part_map)[1]

    def moved(augmentations, flip_map=None):
        return PartDatasetMapper(is_train=True, augmentations=augmentations, flip_map=flip_map)(record)["part_map"]

    assert moved([]).dtype == torch.int64 and moved([]).tolist() == part_map.tolist()
    flip = [T.RandomFlip(prob=1.0)]
    assert moved(flip)[0].tolist() == [1, 0, UNKNOWN, 300]
    assert moved(flip, [1, 0, 2])[0].tolist() == [0, 1, UNKNOWN, 300]
    assert moved([], [1, 0, 2])[0].tolist() == [300, UNKNOWN, 0, 1]
    # Enlarged by the nearest pixel.
    assert moved([ResizeLongestSide(8)])[3].tolist() == [300, 300, UNKNOWN, UNKNOWN, 0, 0, 1, 1]


def test_a_record_without_some_fields_is_passed_on_without_them(tmp_path):
    record = record_of(tmp_path, [np.ones((20, 30), bool)])
    del record["image_id"]
    output = PartDatasetMapper(is_train=False, augmentations=[])(record)
    assert set(output) == {"image", "file_name", "height", "width"} and output["image"].shape == (3, 20, 30)


def test_without_any_label_masks_are_none_of_the_pictures_size(tmp_path):
    record = {**record_of(tmp_path, [np.ones((20, 30), bool)]), "annotations": []}
    instances = PartDatasetMapper(is_train=True, augmentations=[], label_type="mask")(record)["instances"]
    assert instances.gt_masks.tensor.shape == (0, 20, 30)


def test_a_picture_that_is_mirrored_twice_is_not():
    flip = T.HFlipTransform(8)
    for times in range(4):
        assert is_mirrored(T.TransformList([flip] * times)) == (times % 2 == 1)


def test_what_a_configuration_asks_of_the_mapper():
    plain = our_cfg("INPUT.CROP.ENABLED", True, "INPUT.RANDOM_FLIP", "horizontal")
    crops = our_cfg("INPUT.CROP.ENABLED", True, "INPUT.RANDOM_FLIP", "horizontal", "INPUT.RANDOM_VIEWS", 3)
    asked = PartDatasetMapper.from_config(plain)
    assert asked["is_train"] is True and asked["random_views"] is None and asked["flip_map"] is None
    assert [type(a).__name__ for a in asked["augmentations"]] == ["RandomCrop", "RandomFlip", "ResizeLongestSide"]
    # Crops that can be stored take the place of free ones, and are never mirrored besides.
    asked = PartDatasetMapper.from_config(crops)
    assert [type(a).__name__ for a in asked["augmentations"]] == ["RandomFlip", "ResizeLongestSide"]
    assert asked["random_views"].count == 3 and asked["random_views"].only is None
    assert type(asked["random_views"].augmentations[0]) is RandomCrop
    asked = PartDatasetMapper.from_config(crops, is_train=False)
    assert asked["random_views"] is None and len(asked["augmentations"]) == 1


def test_sides_that_change_places_are_the_data_sets():
    DatasetCatalog.register("mapper_sides", list)
    MetadataCatalog.get("mapper_sides").flip_map = [1, 0]
    try:
        assert PartDatasetMapper.from_config(our_cfg(), dataset_name="mapper_sides")["flip_map"] == [1, 0]
    finally:
        DatasetCatalog.remove("mapper_sides")
        MetadataCatalog.remove("mapper_sides")


def test_annotations_that_do_not_speak_of_crowds_are_parts_and_cropped_pictures_say_so(tmp_path):
    record = record_of(tmp_path, [np.ones((20, 30), bool)] * 2)
    del record["annotations"][1]["iscrowd"]
    for augmentations, cropped in (([], False), ([CropTransform(10, 8, 6, 4), ResizeLongestSide(16)], True)):
        mapper = PartDatasetMapper(is_train=True, augmentations=augmentations, label_type="as_annotated")
        output = mapper(record)
        assert len(output["instances"]) == 2 and output["cropped"] is cropped
    assert mapper.seed == 0
