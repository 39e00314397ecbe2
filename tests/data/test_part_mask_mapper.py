"""Models that are trained on masks: part and object maps move with the picture, and no id is lost on the way."""

from __future__ import annotations

from types import SimpleNamespace

from wps_sam.config import add_wps_sam_config
from wps_sam.data.mapper import RandomCrop
from wps_sam.data.part_mask_mapper import PartMaskMapper, build_augmentations, move_labels
from wps_sam.data.photometric import PhotometricDistortion
from wps_sam.data.sources.ov_parts import (
    OVSet,
    load_ade20k_part_234,
    load_ov_vocabulary,
    load_partimagenet_147,
    load_pascal_part_116,
    ov_metadata,
)
from wps_sam.masks import mask_to_rle
from wps_sam.vocabulary import object_of_part

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from ov_layouts import class_colour, write_ade20k_part_234, write_partimagenet, write_pascal_part_116
from PIL import Image

# As ADE20K-Part-234 has it: 16 bits, and the ids 254 and 255 are as ordinary as any.
IGNORE = 65535
METADATA = SimpleNamespace(
    thing_classes=[f"object's part {i}" for i in range(300)],
    label_map={i: i for i in range(300)},
    ignore_label=IGNORE,
    obj_classes=["boat", "bus", "cat", "dog"],
)
IDS = (0, 1, 233, 254, 255, 256, 299, IGNORE)

FLIP = T.RandomFlip(prob=1.0)


def colours_of(part_map):
    """uint8 RGB: the two bytes of every label, so that a picture tells which label each pixel should have."""
    return np.stack([part_map & 255, part_map >> 8, np.full_like(part_map, 9)], axis=-1).astype(np.uint8)


def ids_in(image):
    """int64 [h, w] labels of a picture by :func:`colours_of`, given as a tensor [3, h, w]."""
    return image[0].long() + 256 * image[1].long()


def write_record(folder, part_map, object_map=None, objects=(), dtype=np.uint16, **fields):
    """A record of OV-PARTS' form, whose picture is painted with the labels of its part map."""
    paths = {kind: str(folder / f"{kind}.png") for kind in ("picture", "parts", "objects")}
    Image.fromarray(colours_of(part_map)).save(paths["picture"])
    Image.fromarray(part_map.astype(dtype)).save(paths["parts"])
    record = {"file_name": paths["picture"], "image_id": "a_7", "sem_seg_file_name": paths["parts"]}
    if object_map is not None:
        Image.fromarray(object_map.astype(dtype)).save(paths["objects"])
        return {**record, "obj_sem_seg_file_name": paths["objects"], **fields}
    return {**record, "obj_sem_seg_file_name": "NA", "obj_annotations": list(objects), **fields}


def blocks(rng, height, width, ids=IDS):
    """A label map of random blocks of 1 to 5 pixels a side."""
    coarse = rng.choice(ids, (height, width))
    side = int(rng.integers(1, 6))
    return np.repeat(np.repeat(coarse, side, 0), side, 1)[:height, :width].astype(np.int64)


def map_records(record, augmentations=(), metadata=METADATA, seed=0, is_train=True, pad_to=0):
    np.random.seed(seed)
    mapper = PartMaskMapper(is_train=is_train, augmentations=list(augmentations), metadata=metadata, pad_to=pad_to)
    return mapper(record)


# Nearest, so that the picture's colours are labels after the resize, too.
LARGER = T.ResizeShortestEdge([50, 61], 90, "choice", interp=Image.Resampling.NEAREST)
SMALLER = T.ResizeShortestEdge([11, 23], 40, "choice", interp=Image.Resampling.NEAREST)
CROP = RandomCrop("relative_range", [0.4, 0.4])
AUGMENTATIONS = {
    "none": [],
    "larger": [LARGER],
    "smaller": [SMALLER],
    "flip": [FLIP],
    "crop": [CROP],
    "all": [LARGER, CROP, T.RandomFlip()],
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(32, 47), (40, 29)])
def test_maps_move_as_the_picture_does(tmp_path, name, shape):
    rng = np.random.default_rng(0)
    for seed in range(6):
        part_map = blocks(rng, *shape)
        object_map = blocks(rng, *shape, ids=(0, 1, 3, IGNORE))
        record = write_record(tmp_path, part_map, object_map)
        output = map_records(record, AUGMENTATIONS[name], seed=seed)
        assert output["sem_seg"].dtype == output["obj_sem_seg"].dtype == torch.int64
        assert torch.equal(output["sem_seg"], ids_in(output["image"]))
        # The object map once more, as the picture.
        Image.fromarray(colours_of(object_map)).save(record["file_name"])
        assert torch.equal(output["obj_sem_seg"], ids_in(map_records(record, AUGMENTATIONS[name], seed=seed)["image"]))


def test_labels_keep_their_ids_and_lie_on_pillows_grid():
    labels = np.array([0, 254, 255, 256, 65535, 65536, 2**24 + 1]).repeat(3)[None].repeat(3, axis=0)
    # From 3 pixels to 1, the middle one is the nearest.
    labels[:, ::3] = 7
    labels[0], labels[2] = 8, 9
    moved = move_labels(labels, T.ResizeTransform(3, 21, 1, 7))
    assert moved.tolist() == [[0, 254, 255, 256, 65535, 65536, 2**24 + 1]] and moved.dtype == np.int64
    assert move_labels(labels, T.HFlipTransform(21)).tolist() == labels[:, ::-1].tolist()
    # What Detectron2 makes of numbers that are no bytes: another pixel of the three, the first.
    wrong = T.ResizeTransform(3, 21, 1, 7).apply_segmentation(labels.astype(np.float64))
    assert wrong.tolist() == [[8] * 7]


@pytest.mark.parametrize("size", [20, 30, 47, 80, 150])
def test_labels_change_where_the_blended_picture_does(tmp_path, size):
    part_map = np.zeros((60, 60), np.int64)
    for start in (7, 23, 41):
        part_map[:, start : start + 9] = 255
    output = map_records(write_record(tmp_path, part_map), [T.ResizeShortestEdge(size)])
    red = output["image"][0].int()
    # A column in the very middle of a blend belongs to neither side.
    clear = (red - 128).abs() > 8
    assert torch.equal((red > 128)[clear], (output["sem_seg"] == 255)[clear])
    assert clear.float().mean() > 0.85


def test_a_flip_exchanges_left_and_right(tmp_path):
    part_map = np.array([[0, 1, 2, 3, 255]])
    metadata = SimpleNamespace(
        thing_classes=["torso", "left ear", "right ear"],
        label_map={0: 0, 1: 1, 2: 2, 3: 3},
        background_label=3,
        ignore_label=255,
        flip_map=[0, 2, 1],
    )
    record = write_record(tmp_path, part_map, dtype=np.uint8)
    del record["obj_sem_seg_file_name"]
    assert map_records(record, [], metadata)["sem_seg"].tolist() == [[0, 1, 2, 255, 255]]
    flipped = map_records(record, [FLIP], metadata)
    # Mirrored, the left ear (1) would be the fourth; now it is an ear on the right.
    assert flipped["sem_seg"].tolist() == [[255, 255, 1, 2, 0]]
    assert flipped["instances"].gt_classes.tolist() == [0, 1, 2]
    twice = map_records(record, [FLIP, FLIP], metadata)
    assert twice["sem_seg"].tolist() == [[0, 1, 2, 255, 255]]
    del metadata.flip_map
    assert map_records(record, [FLIP], metadata)["sem_seg"].tolist() == [[255, 255, 2, 1, 0]]


def test_training_on_seen_classes_hides_the_others(tmp_path):
    # Of five parts, 1 and 4 are seen; of four objects, bus (1) and dog (3).
    metadata = SimpleNamespace(
        thing_classes=["bus's door", "dog's ear"],
        label_map={0: 255, 1: 0, 2: 255, 3: 255, 4: 1},
        ignore_label=255,
        obj_classes=METADATA.obj_classes,
        obj_map={1: 0, 3: 1},
    )
    part_map, object_map = np.array([[0, 1, 2, 4, 255]]), np.array([[0, 1, 2, 3, 3]])
    output = map_records(write_record(tmp_path, part_map, object_map, dtype=np.uint8), [], metadata)
    assert output["sem_seg"].tolist() == [[255, 0, 255, 1, 255]]
    assert output["obj_sem_seg"].tolist() == [[255, 0, 255, 1, 1]]
    assert output["instances"].gt_classes.tolist() == output["obj_instances"].gt_classes.tolist() == [0, 1]
    assert output["obj_instances"].gt_masks.tensor.tolist() == [[[0, 1, 0, 0, 0]], [[0, 0, 0, 1, 1]]]


def test_a_record_of_one_object_shows_nothing_of_others(tmp_path):
    part_map = np.array([[0, 1, 233, 254, IGNORE, 255]])
    object_map = np.array([[1, 3, 3, 1, 3, IGNORE]])
    output = map_records(write_record(tmp_path, part_map, object_map, category_id=3), [FLIP])
    assert output["category_id"] == 3
    assert output["sem_seg"].tolist() == [[IGNORE, IGNORE, IGNORE, 233, 1, IGNORE]]
    assert output["obj_sem_seg"].tolist() == [[IGNORE, 3, IGNORE, 3, 3, IGNORE]]
    assert output["obj_instances"].gt_classes.tolist() == [3]


def test_the_object_is_the_recorded_id_also_where_objects_are_renumbered(tmp_path):
    metadata = SimpleNamespace(**{**vars(METADATA), "obj_map": {0: 0, 2: 1, 3: 2}})
    part_map, object_map = np.array([[5, 6, 7]]), np.array([[1, 2, 3]])
    output = map_records(write_record(tmp_path, part_map, object_map, category_id=2), [], metadata)
    # Restricted after the renumbering, this would be the dog (3).
    assert output["sem_seg"].tolist() == [[IGNORE, 6, IGNORE]]
    assert output["obj_sem_seg"].tolist() == [[IGNORE, 1, IGNORE]] and output["category_id"] == 2


def test_objects_painted_from_annotations(tmp_path):
    part_map = np.full((4, 6), 233)
    covered = np.zeros((4, 6), bool)
    covered[:, 2:4] = True
    objects = [
        {"id": 1, "category_id": 1, "segmentation": [[0.0, 0.0, 3.0, 0.0, 3.0, 4.0, 0.0, 4.0]]},
        {"id": 2, "category_id": 3, "segmentation": mask_to_rle(covered)},
    ]
    record = write_record(tmp_path, part_map, objects=objects)
    output = map_records(record, [FLIP])
    assert output["obj_sem_seg"][0].tolist() == [IGNORE, IGNORE, 3, 3, 1, 1]
    assert output["obj_instances"].gt_masks.tensor.sum((1, 2)).tolist() == [8, 8]
    # The instance of the record is the only one painted, and the parts of others are gone.
    alone = map_records({**record, "obj_annotations": objects[:1], "category_id": 1})
    assert alone["sem_seg"][0].tolist() == [233] * 3 + [IGNORE] * 3


def test_one_instance_for_each_class(tmp_path):
    part_map = np.array([[233, 0, 255], [233, IGNORE, 0]])
    instances = map_records(write_record(tmp_path, part_map))["instances"]
    assert instances.image_size == (2, 3)
    assert instances.gt_classes.tolist() == [0, 233, 255] and instances.gt_classes.dtype == torch.int64
    masks = instances.gt_masks.tensor
    assert masks.dtype == torch.bool
    assert masks.int().tolist() == [[[0, 1, 0], [0, 0, 1]], [[1, 0, 0], [1, 0, 0]], [[0, 0, 1], [0, 0, 0]]]


def test_a_map_of_ignore_alone_is_still_a_sample(tmp_path):
    output = map_records(write_record(tmp_path, np.full((3, 4), IGNORE)), [LARGER])
    assert (output["sem_seg"] == IGNORE).all() and (output["obj_sem_seg"] == IGNORE).all()
    height, width = output["image"].shape[1:]
    assert output["instances"].gt_masks.tensor.shape == (0, height, width)
    assert len(output["instances"]) == len(output["obj_instances"]) == 0


def test_small_pictures_are_padded_at_the_right_and_below_in_training(tmp_path):
    part_map, object_map = blocks(np.random.default_rng(4), 20, 33), np.full((20, 33), 2)
    record = write_record(tmp_path, part_map, object_map)
    plain, padded = map_records(record), map_records(record, pad_to=32)
    assert padded["image"].shape == (3, 32, 33) and padded["image"].dtype == torch.uint8
    for key, value in (("image", 128), ("sem_seg", IGNORE), ("obj_sem_seg", IGNORE)):
        assert torch.equal(padded[key][..., :20, :], plain[key]) and (padded[key][..., 20:, :] == value).all()
    assert padded["instances"].image_size == (32, 33)
    assert padded["instances"].gt_classes.tolist() == plain["instances"].gt_classes.tolist()
    assert torch.equal(map_records(record, is_train=False, pad_to=32)["image"], plain["image"])


def test_output_of_training_and_test(tmp_path):
    record = write_record(tmp_path, np.zeros((30, 40), np.int64), category_id=2)
    output = map_records(record, [LARGER], is_train=False)
    assert set(output) == {"image", "file_name", "image_id", "height", "width", "category_id"}
    # Without sizes in the record, the label map's count.
    assert (output["height"], output["width"], output["image_id"]) == (30, 40, "a_7")
    assert output["image"].dtype == torch.uint8 and output["image"].shape[0] == 3
    added = {"sem_seg", "instances", "obj_sem_seg", "obj_instances", "ignore_label"}
    assert set(map_records(record)) == set(output) | added
    for key in ("category_id", "obj_sem_seg_file_name"):
        del record[key]
    assert set(map_records(record)) == set(output) - {"category_id"} | {"sem_seg", "instances", "ignore_label"}


def test_the_picture_comes_in_the_pixel_grid_of_its_maps(tmp_path):
    part_map = blocks(np.random.default_rng(1), 20, 33)
    record = write_record(tmp_path, part_map)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colours_of(part_map)).save(record["file_name"], exif=exif)
    output = map_records(record)
    assert torch.equal(output["sem_seg"], ids_in(output["image"]))


def test_sizes_that_differ_name_the_file(tmp_path):
    part_map, object_map = np.zeros((4, 6), np.int64), np.zeros((4, 5), np.int64)
    with pytest.raises(ValueError, match=r"objects\.png: height and width are \(4, 5\), but .*\(4, 6\)"):
        map_records(write_record(tmp_path, part_map, object_map))
    record = write_record(tmp_path, part_map, part_map)
    with pytest.raises(ValueError, match=r"picture\.png: height and width are \(4, 6\).*\(6, 4\)"):
        map_records({**record, "height": 6, "width": 4})
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(record["file_name"])
    with pytest.raises(ValueError, match=r"parts\.png: height and width are \(4, 6\), but .*\(5, 6\)"):
        map_records({**record, "height": 5, "width": 6})


def our_cfg(*opts):
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (20, 40), "INPUT.MIN_SIZE_TEST", 16, *opts])
    return cfg


AUGMENTED = (
    *("INPUT.RANDOM_FLIP", "horizontal", "INPUT.CROP.ENABLED", True),
    *("INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [18, 18]),
)


def test_built_from_the_configuration(tmp_path):
    name = "part_mask_mapper_test"
    MetadataCatalog.get(name).set(**vars(METADATA))
    try:
        record = write_record(tmp_path, blocks(np.random.default_rng(2), 30, 60))
        train, test = (PartMaskMapper(our_cfg(*AUGMENTED), is_train, name) for is_train in (True, False))
    finally:
        MetadataCatalog.remove(name)
    assert train(record)["image"].shape == (3, 18, 18) and train(record)["ignore_label"] == IGNORE
    assert test(record)["image"].shape == (3, 16, 32)


def test_the_crop_comes_after_the_resize_and_the_test_has_neither_crop_nor_flip():
    kinds = [type(a) for a in build_augmentations(our_cfg(*AUGMENTED), is_train=True)]
    assert kinds == [T.ResizeShortestEdge, RandomCrop, T.RandomFlip]
    coloured = build_augmentations(our_cfg(*AUGMENTED, "INPUT.COLOR_AUG_SSD", True), is_train=True)
    assert [type(a) for a in coloured] == [*kinds, PhotometricDistortion]
    assert [type(a) for a in build_augmentations(our_cfg(), is_train=True)] == [T.ResizeShortestEdge]
    assert [type(a) for a in build_augmentations(our_cfg(*AUGMENTED), is_train=False)] == [T.ResizeShortestEdge]


def test_the_same_seed_gives_the_same_sample(tmp_path):
    record = write_record(tmp_path, blocks(np.random.default_rng(3), 30, 60))
    augmentations = build_augmentations(our_cfg(*AUGMENTED), is_train=True)
    first, again, other = (map_records(record, augmentations, seed=seed) for seed in (5, 5, 6))
    for key in ("image", "sem_seg", "obj_sem_seg"):
        assert torch.equal(first[key], again[key])
    assert not torch.equal(first["image"], other["image"])


BENCHMARKS = {
    "pascal_part_116": (write_pascal_part_116, load_pascal_part_116),
    "ade20k_part_234": (write_ade20k_part_234, load_ade20k_part_234),
    "partimagenet_147": (write_partimagenet, load_partimagenet_147),
}


@pytest.mark.parametrize("family", BENCHMARKS)
@pytest.mark.parametrize(
    "ov_set", [OVSet("train", "image", "seen"), OVSet("train", "object", "seen"), OVSet("train", "object", "all")]
)
def test_every_label_of_the_benchmarks_lies_on_its_colour(tmp_path, family, ov_set):
    write, load = BENCHMARKS[family]
    write(tmp_path)
    vocabulary = load_ov_vocabulary(family)
    metadata = SimpleNamespace(**ov_metadata(vocabulary, ov_set))
    seen_objects = [n for i, n in enumerate(vocabulary.object_names) if i not in vocabulary.unseen_objects]
    found = set()
    for record in load(str(tmp_path), ov_set):
        output = map_records(record, [T.RandomFlip()], metadata, seed=len(found))
        classes = output["instances"].gt_classes.tolist()
        found.update(metadata.thing_classes[c] for c in classes)
        for c in classes:
            pixels = output["image"][:, output["sem_seg"] == c]
            # JPEG blurs the rims of a part, but not most of it.
            assert (
                pixels.float().median(1).values - torch.tensor(class_colour(metadata.thing_classes[c]))
            ).abs().max() < 9
        if ov_set.record == "object":
            name = vocabulary.object_names[output["category_id"]]
            assert classes and {object_of_part(metadata.thing_classes[c]) for c in classes} == {name}
            numbered = seen_objects if ov_set.classes == "seen" else vocabulary.object_names
            assert [numbered[i] for i in output["obj_instances"].gt_classes] == [name]
    unseen = {name for name in found if object_of_part(name) not in seen_objects}
    assert len(found) >= 6 and bool(unseen) == (ov_set.classes == "all")


# --- Models that look inside of given objects


def test_objects_are_given_at_test_time_where_that_is_asked_for(tmp_path):
    object_map = np.array([[2, 2, 3], [2, 1, IGNORE]])
    record = write_record(tmp_path, np.full((2, 3), 7), object_map)
    one = {**record, "category_id": 2}
    settings = {"is_train": False, "augmentations": [FLIP], "metadata": METADATA}
    assert "obj_sem_seg" not in PartMaskMapper(**settings)(one)
    given = PartMaskMapper(**settings, object_maps=True)(one)
    assert given["obj_sem_seg"].tolist() == [[IGNORE, 2, 2], [IGNORE, IGNORE, 2]]
    assert given["ignore_label"] == IGNORE and "sem_seg" not in given and "instances" not in given
    # The truth about a whole picture is never given; what another model predicts is.
    assert "obj_sem_seg" not in PartMaskMapper(**settings, object_maps=True)(record)
    folder = tmp_path / "objects"
    folder.mkdir()
    Image.fromarray(np.array([[3, 255, 0], [3, 3, 0]], np.uint8)).save(folder / "picture.png")
    predicted = PartMaskMapper(**settings, object_maps=True, object_predictions=str(folder))(record)
    assert predicted["obj_sem_seg"].tolist() == [[0, IGNORE, 3], [0, 3, 3]]
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / "picture.png")
    with pytest.raises(ValueError, match=r"picture\.png: height and width are \(2, 2\), .* says \(2, 3\)"):
        PartMaskMapper(**settings, object_maps=True, object_predictions=str(folder))(record)
