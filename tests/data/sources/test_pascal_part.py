"""Pascal-Part: the vocabularies, the .mat files and their traps, part maps, instances, and the prepared layout."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wps_sam.data.sources.coco import load_partimagenet, read_vocabulary
from wps_sam.data.sources.part_map_check import check_part_map_ids
from wps_sam.data.sources.pascal_part import (
    SPLITS,
    UNLABELED,
    VARIANTS,
    ObjectMask,
    PartMask,
    _field,
    load_part_groups,
    load_pascal_vocabulary,
    original_parts,
    paint_order,
    part_instances,
    part_map,
    prepare,
    read_annotation,
)
from wps_sam.masks import read_part_map, segmentation_to_mask

import numpy as np
import pascal_layout as layout
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image
from scipy.io import savemat

SIZE = (layout.HEIGHT, layout.WIDTH)
COUNTS = {"58": 57, "93": 93, "108": 107, "116": 116, "201": 200}


def classes(variant: str) -> list[dict[str, Any]]:
    return read_vocabulary(f"pascal_part_{variant}")["classes"]


def ids(variant: str) -> dict[str, int]:
    """Class name to id."""
    return {entry["name"]: entry["id"] for entry in classes(variant)}


def kinds_of(entry: dict[str, Any]) -> list[str]:
    return [kind for kinds in entry["members"] for kind in kinds]


def annotation(tmp_path: Path, *things: layout.Thing, imname: str | None = None) -> list[ObjectMask]:
    return read_annotation(layout.write_mat(tmp_path / "2008_000002.mat", things, imname))


def map_of(objects: list[ObjectMask], variant: str) -> np.ndarray:
    return part_map(objects, variant, *SIZE)


# --- vocabularies


def flat(entry: dict[str, Any]) -> list[str]:
    """A class's members as the class lists write them: sorted, without the mark of a number."""
    return sorted(kind.removesuffix("_%d") for kind in kinds_of(entry))


@pytest.mark.parametrize("variant", ["58", "108"])
def test_part_groups_equal_the_published_lists(specs, variant):
    expected = specs["pascal_part_variants"][variant]["classes"]
    assert [(c["id"], c["supercategory"], c["part"]) for c in classes(variant)] == [
        (c["id"], c["object"], c["part"]) for c in expected
    ]
    for ours, theirs in zip(classes(variant), expected):
        # A tvmonitor's one part is its screen, so the frame is what no part covers.
        assert flat(ours) == sorted(UNLABELED if m == "frame" else m for m in theirs["members"]), ours["name"]


def test_93_equals_the_published_list(specs):
    expected = specs["pascal_part_variants"]["93_detection"]
    ours = {f"{c['supercategory']}:{c['part']}": c for c in classes("93")}
    assert [(c["id"], name) for name, c in ours.items()] == [(c["id"], c["name"]) for c in expected["categories"]]
    assert [name for name, c in ours.items() if c["seen"]] == expected["base_categories"]
    assert [name for name, c in ours.items() if not c["seen"]] == expected["novel_categories"]


def test_116_groups_as_the_published_list(specs):
    listed = specs["pascal_part_116"]
    assert [(c["id"], c["name"]) for c in classes("116")] == [(c["id"], c["name"]) for c in listed["obj_parts"]]
    grouped = {
        name: {kind: c["part"] for c in classes("116") if c["supercategory"] == name for kind in kinds_of(c)}
        for name in listed["merge_from_original"]["map"]
    }
    assert grouped == listed["merge_from_original"]["map"]


def test_201_holds_every_part_of_the_published_list(specs):
    expected = specs["pascal_part_variants"]["201"]["classes"]
    assert [(c["supercategory"], c["part"]) for c in classes("201")] == [(c["object"], c["part"]) for c in expected]
    assert original_parts() == {name: set(parts) for name, parts in specs["pascal_part_original"].items()}
    for entry in classes("201"):
        words = specs["pascal_part_original"][entry["supercategory"]].get(entry["members"][0][0])
        if words:
            assert entry["name"] == f"{entry['supercategory']}'s {words}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_vocabulary(variant):
    vocabulary = load_pascal_vocabulary(variant)
    first = 0 if variant == "116" else 1
    assert len(vocabulary.names) == len(set(vocabulary.names)) == COUNTS[variant]
    assert vocabulary.dataset_ids == tuple(range(first, first + COUNTS[variant]))
    for entry in classes(variant):
        whole = entry["part"] == entry["supercategory"]
        assert entry["name"].split("'s ", 1)[0] == entry["supercategory"]
        assert whole == ("'s " not in entry["name"])
    if variant != "116":
        assert vocabulary.label_map[0] == COUNTS[variant]
    assert load_part_groups(variant).background == (255 if variant == "116" else 0)


def test_vocabulary_samples():
    assert (ids("58")["bicycle's body"], ids("58")["table"], ids("58")["train"]) == (7, 32, 55)
    assert (ids("93")["potted plant's pot"], ids("93")["bus's license plate"]) == (84, 19)
    assert (ids("108")["train's coach roof"], ids("116")["tvmonitor's screen"]) == (106, 115)
    assert sum(len(kinds) for kinds in original_parts().values()) == 193
    assert "table" in original_parts() and "diningtable" not in original_parts()
    base = [entry for entry in classes("93") if entry["seen"]]
    assert len(base) == 77
    assert {e["supercategory"] for e in classes("93")} - {e["supercategory"] for e in base} == {"bus", "dog"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_part_is_known_and_belongs_to_one_class(variant):
    for name, instances in load_part_groups(variant).instances.items():
        kinds = [kind for _, group in instances for kind in group]
        assert len(kinds) == len(set(kinds))
        assert set(kinds) <= original_parts()[name] | {UNLABELED}


def left_out(variant: str) -> dict[str, set[str]]:
    """Object -> kinds of parts that have no class in the variant."""
    groups = load_part_groups(variant)
    rest = {
        name: {kind for kind in kinds if groups.class_id(name, kind) is None}
        for name, kinds in original_parts().items()
    }
    return {name: kinds for name, kinds in rest.items() if kinds}


def test_parts_without_a_class():
    assert left_out("58") == left_out("116") == left_out("201") == {}
    assert left_out("108") == {"bicycle": {"headlight_%d"}, "car": {"leftmirror", "rightmirror"}}


def vlpart_class(object_name: str, part_name: str) -> int | None:
    """VLPart's rule itself: the object's first class whose (abbreviated) name the part's name contains."""
    abbreviations = {"license plate": "liplate", "paw": "pa"}
    for entry in classes("93"):
        if entry["supercategory"].replace(" ", "") == object_name:
            if abbreviations.get(entry["part"], entry["part"]) in part_name:
                return entry["id"]
    return None


def test_93_is_vlparts_rule_written_out():
    groups = load_part_groups("93")
    for name, kinds in original_parts().items():
        for kind in kinds:
            assert groups.class_id(name, kind) == vlpart_class(name, kind), (name, kind)
    # What a rule of equal names would leave out.
    assert groups.class_id("bicycle", "chainwheel") == ids("93")["bicycle's wheel"]
    assert groups.class_id("horse", "lfuleg") == ids("93")["horse's leg"]
    assert groups.class_id("cat", "lfpa") == ids("93")["cat's paw"]
    assert groups.class_id("bus", "bliplate") == ids("93")["bus's license plate"]
    assert groups.class_id("pottedplant", "pot") == ids("93")["potted plant's pot"]
    rest = left_out("93")
    assert rest["person"] == {"lebrow", "rebrow"}
    assert rest["horse"] == {"lfho", "rfho", "lbho", "rbho"}
    assert rest["aeroplane"] == {"stern", "engine_%d"}
    assert {"train", "tvmonitor"} <= set(rest) and "cow" not in rest


def test_flip_map_swaps_sides_of_201_only():
    assert [load_pascal_vocabulary(variant).flip_map for variant in VARIANTS[:4]] == [None] * 4
    names, flipped = load_pascal_vocabulary("201").names, load_pascal_vocabulary("201").flip_map
    assert flipped is not None and len(flipped) == 200
    for class_id, mirrored in enumerate(flipped):
        # The names say "left" and "right"; the table was not made from them.
        swapped = names[class_id].replace("left", "?").replace("right", "left").replace("?", "right")
        assert names[mirrored] == swapped
    position = {name: i for i, name in enumerate(names)}
    assert flipped[position["horse's left front hoof"]] == position["horse's right front hoof"]
    assert flipped[position["train's coach left side"]] == position["train's coach right side"]
    assert flipped[position["bus's front license plate"]] == position["bus's front license plate"]


def test_unknown_variant():
    for function in (load_pascal_vocabulary, load_part_groups):
        with pytest.raises(ValueError, match="expected a variant among .*'201'.*, got '59'"):
            function("59")


# --- .mat files


def test_reads_the_struct_layout(tmp_path):
    car, table = annotation(tmp_path, layout.CAR, layout.Thing("table", layout.box(0, 30, 20, 40)))
    assert (car.name, table.name) == ("car", "table")
    assert car.mask.dtype == bool and car.mask.shape == SIZE and car.mask.sum() == 30 * 20
    assert [(part.kind, part.number) for part in car.parts][-3:] == [
        ("leftmirror", None),
        ("wheel_%d", 1),
        ("wheel_%d", 12),
    ]
    assert car.parts[0].mask.sum() == 8
    assert table.parts == ()


def test_a_diningtable_is_a_table(tmp_path):
    (table,) = annotation(tmp_path, layout.Thing("diningtable", layout.box(0, 0, 9, 9)))
    assert map_of([table], "58")[0, 0] == ids("58")["table"]


def test_fields_are_found_by_name_and_empty_parts_in_any_form(tmp_path):
    mask = layout.box(0, 0, 9, 9)
    objects = layout.struct_array(
        [
            {"parts": np.empty((0, 0), dtype=[("part_name", object), ("mask", object)]), "mask": mask, "class": "boat"},
            {"parts": np.empty((1, 0)), "mask": mask, "class": "sofa"},
        ]
    )
    savemat(tmp_path / "2008_000002.mat", {"anno": {"objects": objects, "imname": "2008_000002"}})
    boat, sofa = read_annotation(tmp_path / "2008_000002.mat")
    assert (boat.name, boat.parts, sofa.name, sofa.parts) == ("boat", (), "sofa", ())
    assert boat.mask.sum() == 81


def test_picture_without_objects(tmp_path):
    assert annotation(tmp_path) == []
    assert (part_map([], "58", *SIZE) == 0).all() and (part_map([], "116", *SIZE) == 255).all()


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (layout.Thing("sheap", layout.box(0, 0, 9, 9)), r"objects\[0\]\.class: unknown object 'sheap'.*'sheep'"),
        (
            layout.Thing("cat", layout.box(0, 0, 9, 9), [("muzzle", layout.box(0, 0, 9, 9))]),
            r"objects\[0\] \(cat\)\.parts\[0\]\.part_name: unknown part 'muzzle' of cat; expected one of .*'lfpa'",
        ),
        # A number alone does not make a part known, and none where one belongs neither.
        (layout.Thing("cat", layout.box(0, 0, 9, 9), [("head_1", layout.box(0, 0, 9, 9))]), "unknown part 'head_1'"),
        (layout.Thing("car", layout.box(0, 0, 9, 9), [("wheel", layout.box(0, 0, 9, 9))]), "unknown part 'wheel'"),
        (
            layout.Thing("cat", layout.box(0, 0, 9, 9), [("head", layout.box(0, 0, 9, 9, (10, 12)))]),
            r"\(head\)\.mask: expected whole numbers of \(40, 60\).*got uint8 of \(10, 12\)",
        ),
    ],
)
def test_refuses_what_it_does_not_know(tmp_path, thing, message):
    with pytest.raises(ValueError, match=f"annotation .*2008_000002.mat: anno.*{message}"):
        annotation(tmp_path, thing)


def test_refuses_other_files(tmp_path):
    path = tmp_path / "2008_000002.mat"
    with pytest.raises(ValueError, match=r"2008_000002\.mat: the file does not exist"):
        read_annotation(path)
    whole = layout.write_mat(path, [layout.CAR]).read_bytes()
    for content in (b"", b"no MATLAB file", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"2008_000002\.mat: cannot be read as a MATLAB 5 file"):
            read_annotation(path)
    for anno, message in (
        ({"other": np.ones(3)}, r"anno: expected a field 'imname', got \[\]"),
        ({"anno": np.ones(3)}, "anno: expected MATLAB structs, got an array of float64"),
        ({"anno": {"imname": "2008_000002"}}, r"anno: expected a field 'objects', got \['imname'\]"),
        ({"anno": {"imname": "2008_000003", "objects": 0}}, "anno.imname: expected the file's own name"),
        ({"anno": {"imname": 7, "objects": 0}}, "anno.imname: expected a text"),
    ):
        savemat(path, anno)
        with pytest.raises(ValueError, match=message):
            read_annotation(path)


def test_a_field_that_holds_no_array_is_named():
    (struct,) = np.array([(7,)], dtype=[("mask", object)])
    with pytest.raises(ValueError, match=r"anno\.mask: expected a MATLAB array, got int"):
        _field(struct, "mask", "anno")


# --- part maps


def test_license_plates_are_painted_last(tmp_path):
    (car,) = annotation(tmp_path, layout.CAR)
    plate = (slice(16, 18), slice(6, 10))
    assert [part.kind for part in car.parts][:2] == ["fliplate", "frontside"]
    for variant, name in (
        ("58", "car's license plate"),
        ("93", "car's license plate"),
        ("108", "car's license plate"),
        ("116", "car's license plate"),
        ("201", "car's front license plate"),
    ):
        assert (map_of([car], variant)[plate] == ids(variant)[name]).all(), variant
    order = [part.kind for part in paint_order(car.parts)]
    assert order == ["frontside", "leftside", "leftmirror", "wheel_%d", "wheel_%d", "fliplate"]


def test_plain_file_order_would_bury_the_plates(tmp_path, monkeypatch):
    monkeypatch.setattr("wps_sam.data.sources.pascal_part.paint_order", list)
    assert ids("58")["car's license plate"] not in map_of(annotation(tmp_path, layout.CAR), "58")


def test_order_by_area_would_bury_a_paw(tmp_path, monkeypatch):
    cat = layout.Thing(
        "cat", layout.box(0, 0, 20, 20), [("lfleg", layout.box(5, 5, 8, 10)), ("lfpa", layout.box(4, 8, 9, 12))]
    )
    objects = annotation(tmp_path, cat)
    assert (map_of(objects, "116")[8:12, 4:9] == ids("116")["cat's paw"]).all()
    monkeypatch.setattr(
        "wps_sam.data.sources.pascal_part.paint_order", lambda parts: sorted(parts, key=lambda p: -int(p.mask.sum()))
    )
    assert map_of(objects, "116")[8, 5] == ids("116")["cat's leg"]


def test_an_eye_lies_on_the_head(tmp_path):
    objects = annotation(tmp_path, layout.PERSON)
    by_name = ids("116")
    painted = map_of(objects, "116")
    assert (painted == by_name["person's eye"]).sum() == 8
    assert (painted == by_name["person's head"]).sum() == 100 - 8
    # In 58 the eyes are the head's, and in 201 each is its own.
    assert (map_of(objects, "58") == ids("58")["person's head"]).sum() == 100
    assert map_of(objects, "201")[3, 50] == ids("201")["person's left eye"]
    assert map_of(objects, "201")[3, 46] == ids("201")["person's right eye"]


def test_unlabelled_pixels_are_ignored_and_never_background(tmp_path):
    (person,) = annotation(tmp_path, layout.PERSON)
    assert not any(part.mask[30, 50] for part in person.parts)
    for variant in VARIANTS:
        painted = map_of([person], variant)
        assert painted[30, 50] == 255
        assert painted[0, 0] == (255 if variant == "116" else 0)


def test_unlabelled_pixels_that_are_a_class(tmp_path):
    bicycle, boat, screen = annotation(
        tmp_path,
        layout.BICYCLE,
        layout.BOAT,
        layout.Thing("tvmonitor", layout.box(40, 0, 50, 10), [("screen", layout.box(42, 2, 48, 8))]),
    )
    frame = 100 - 36
    for variant in ("58", "201"):
        by_name = ids(variant)
        # 40 x 30 pixels, of which two wheels have 15 x 15 and the chain wheel 4 x 4.
        body = map_of([bicycle], variant) == by_name["bicycle's body"]
        assert body.sum() == 1200 - 2 * 225 - 16
        assert (map_of([screen], variant) == by_name["tvmonitor's frame"]).sum() == frame
        assert (map_of([boat], variant) == by_name["boat"]).sum() == 600
    # No class claims them here.
    for variant in ("93", "116"):
        assert (map_of([boat], variant)[boat.mask] == 255).all()
        assert (map_of([bicycle], variant) == 255).sum() >= 1200 - 2 * 225 - 16
    assert (map_of([screen], "108") == 255).sum() == frame


def test_what_no_part_covers_is_a_part_of_its_own_and_lies_below_the_others(tmp_path):
    (bicycle,) = annotation(tmp_path, layout.BICYCLE)
    rest, *parts = bicycle.with_unlabelled
    assert (rest.kind, rest.number) == (UNLABELED, None) and tuple(parts) == bicycle.parts
    assert rest.mask.sum() == 1200 - 2 * 225 - 16 and not any((rest.mask & part.mask).any() for part in parts)
    (body,) = instances_of([bicycle], "58", "bicycle's body")
    assert body.sum() == 1200 - 2 * 225 - 16


def test_every_number_above_zero_is_of_the_mask(tmp_path):
    levels = layout.box(0, 0, 9, 9).astype(np.uint8) * 255
    levels[0, :3] = 1, 2, 128
    (cat,) = annotation(tmp_path, layout.Thing("cat", levels, [("head", levels)]))
    assert cat.mask.dtype == cat.parts[0].mask.dtype == bool
    assert cat.mask.sum() == cat.parts[0].mask.sum() == 81


def test_a_screen_seen_from_behind_is_all_frame(tmp_path):
    objects = annotation(tmp_path, layout.SCREEN_FROM_BEHIND)
    assert (map_of(objects, "58")[objects[0].mask] == ids("58")["tvmonitor's frame"]).all()


def test_train_of_58_is_the_union_of_its_parts(tmp_path):
    train = layout.Thing(
        "train",
        layout.box(0, 0, 50, 20),
        [
            ("head", layout.box(0, 0, 10, 10)),
            ("coach_1", layout.box(10, 0, 20, 10)),
            ("cleftside_1", layout.box(10, 0, 20, 5)),
            ("coach_2", layout.box(20, 0, 30, 10)),
        ],
    )
    objects = annotation(tmp_path, train)
    painted = map_of(objects, "58")
    assert (painted == 55).sum() == 300 and (painted == 255).sum() == 1000 - 300
    ((class_id, mask),) = part_instances(objects, "58")
    assert class_id == 55 and mask.sum() == 300
    # Where coaches have a class, each is an instance.
    sizes = [
        int(mask.sum()) for class_id, mask in part_instances(objects, "116") if class_id == ids("116")["train's coach"]
    ]
    assert sizes == [100, 100]


def test_a_part_without_a_class_leaves_what_lies_under_it(tmp_path):
    side = layout.box(0, 0, 10, 10)
    car = layout.Thing("car", layout.box(0, 0, 20, 20), [("leftside", side), ("leftmirror", layout.box(2, 2, 14, 4))])
    painted = map_of(annotation(tmp_path, car), "108")
    assert (painted == ids("108")["car's side"]).sum() == 100
    assert painted[2, 12] == 255


def test_objects_are_painted_in_file_order(tmp_path):
    dog = layout.Thing("dog", layout.box(0, 0, 20, 10), [("head", layout.box(0, 0, 10, 10))])
    cat = layout.Thing("cat", layout.box(8, 0, 30, 10), [("head", layout.box(20, 0, 30, 10))])
    dog_first = map_of(annotation(tmp_path, dog, cat), "58")
    cat_first = map_of(annotation(tmp_path, cat, dog), "58")
    # The dog's head reaches two columns into the cat, which has no part label there.
    assert (dog_first == ids("58")["dog's head"]).sum() == 80 and (dog_first[:10, 8:10] == 255).all()
    assert (cat_first == ids("58")["dog's head"]).sum() == 100


# --- instances


def instances_of(objects: list[ObjectMask], variant: str, name: str) -> list[np.ndarray]:
    return [mask for class_id, mask in part_instances(objects, variant) if class_id == ids(variant)[name]]


def test_each_side_is_an_instance(tmp_path):
    objects = annotation(tmp_path, layout.PERSON)
    left, right = instances_of(objects, "58", "person's lower arm")
    # A lower arm of 58 goes down to the hand: 4 x 6 and 4 x 4 pixels.
    assert left.sum() == right.sum() == 40
    assert left[:, 54:].sum() == 40 and right[:, :44].sum() == 40
    assert len(instances_of(objects, "116", "person's lower arm")) == 2
    assert len(instances_of(objects, "116", "person's hand")) == 2
    # The head of 58 is one, eyes and all.
    (head,) = instances_of(objects, "58", "person's head")
    assert head.sum() == 100


def test_two_objects_share_no_instance(tmp_path):
    dogs = [
        layout.Thing("dog", layout.box(x, 0, x + 20, 20), [("head", layout.box(x, 0, x + 10, 10))]) for x in (0, 30)
    ]
    assert [int(mask.sum()) for mask in instances_of(annotation(tmp_path, *dogs), "58", "dog's head")] == [100, 100]


def test_numbered_parts_are_instances_beyond_the_official_maximum(tmp_path):
    wheels = [(f"wheel_{n}", layout.box(2 * n, 0, 2 * n + n % 3 + 1, 1)) for n in (10, 2, 23, 1)]
    objects = annotation(tmp_path, layout.Thing("bus", layout.box(0, 0, 60, 10), wheels))
    found = instances_of(objects, "58", "bus's wheel")
    # In the order of the numbers, not of their letters nor of the file.
    assert [int(np.flatnonzero(mask.any(axis=0))[0]) for mask in found] == [2, 4, 20, 46]
    # A bus's body of 58 has numbered members and others, and is one.
    bus = layout.Thing(
        "bus", layout.box(0, 0, 60, 10), [(f"door_{n}", layout.box(9 * n, 0, 9 * n + 3, 9)) for n in (1, 2)]
    )
    assert [int(mask.sum()) for mask in instances_of(annotation(tmp_path, bus), "58", "bus's body")] == [54]


def test_masks_of_instances_ignore_the_paint_order(tmp_path):
    objects = annotation(tmp_path, layout.CAR)
    (front, left) = instances_of(objects, "108", "car's side")
    # Plate and wheel hide nothing of it.
    assert front.sum() == 14 * 12 and left.sum() == 14 * 12


def test_empty_masks_make_no_instance(tmp_path):
    nothing = np.zeros(SIZE, np.uint8)
    cat = layout.Thing("cat", layout.box(0, 0, 9, 9), [("head", nothing), ("tail", layout.box(0, 0, 3, 3))])
    objects = annotation(tmp_path, cat, layout.Thing("boat", nothing))
    assert [class_id for class_id, _ in part_instances(objects, "58")] == [ids("58")["cat's tail"]]


def test_93_has_an_instance_for_every_part_mask(tmp_path):
    legs = [("lfuleg", layout.box(0, 0, 4, 4)), ("lflleg", layout.box(0, 4, 4, 8))]
    objects = annotation(tmp_path, layout.Thing("cow", layout.box(0, 0, 20, 20), legs))
    assert len(instances_of(objects, "93", "cow's leg")) == 2
    assert len(instances_of(objects, "116", "cow's leg")) == 1


def test_paint_order_keeps_the_file_order_otherwise():
    parts = [PartMask(kind, None, np.ones((1, 1), bool)) for kind in ("bliplate", "b", "fliplate", "a")]
    assert [part.kind for part in paint_order(parts)] == ["b", "a", "bliplate", "fliplate"]


# --- the prepared layout


def load(written: layout.Voc, name: str) -> tuple[list[dict[str, Any]], Any]:
    images, json_file = SPLITS[name]
    vocabulary = load_pascal_vocabulary(name.split("_")[2])
    records = load_partimagenet(str(written.root / images), str(written.root / json_file), vocabulary)
    return records, SimpleNamespace(**vocabulary.metadata())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> layout.Voc:
    written = layout.write_voc(tmp_path_factory.mktemp("pascal"))
    prepare(written.voc, written.mats, written.output)
    return written


def test_split_table():
    assert len(SPLITS) == 10
    assert SPLITS["pascal_part_201_val"] == ("VOCdevkit/VOC2010/JPEGImages", "PascalPart/201/annotations/val/val.json")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loader_reads_what_is_written(prepared, variant):
    records, metadata = load(prepared, f"pascal_part_{variant}_train")
    street, harbour = records
    assert street["image_id"] == 2008000652 and harbour["image_id"] == 2009000001
    assert (street["height"], street["width"]) == SIZE
    objects = read_annotation(prepared.mats / f"{layout.STREET}.mat")
    expected = part_instances(objects, variant)
    assert len(street["annotations"]) == len(expected) > 0
    dataset_ids = load_pascal_vocabulary(variant).dataset_ids
    for loaded, (class_id, mask) in zip(street["annotations"], expected):
        assert dataset_ids[loaded["category_id"]] == class_id
        assert (segmentation_to_mask(loaded["segmentation"], *SIZE) == mask).all()
    painted = read_part_map(street, metadata)
    stored = map_of(objects, variant)
    assert (painted == 255).sum() == (stored == 255).sum()
    assert (painted == metadata.background_label).sum() == (0 if variant == "116" else (stored == 0).sum())
    # Of a part that others cover the map shows little (a car's side here): no reason to refuse it.
    check_part_map_ids(records, metadata)


def test_permuted_part_maps_are_still_found_out(prepared, tmp_path):
    records, metadata = load(prepared, "pascal_part_116_train")
    (street, _), by_name = records, ids("116")
    stored = np.array(Image.open(street["sem_seg_file_name"]))
    head, eye = stored == by_name["person's head"], stored == by_name["person's eye"]
    stored[head], stored[eye] = by_name["person's eye"], by_name["person's head"]
    Image.fromarray(stored).save(tmp_path / "swapped.png")
    with pytest.raises(ValueError, match="person's head .*: expected 83, found 84"):
        check_part_map_ids([{**street, "sem_seg_file_name": str(tmp_path / "swapped.png")}], metadata)


def test_boxes_and_areas_come_from_the_masks(prepared):
    coco = json.loads((prepared.output / "58/annotations/train/train.json").read_text())
    plate = next(a for a in coco["annotations"] if a["category_id"] == ids("58")["car's license plate"])
    # Columns 6..9 and rows 16..17: a width of xmax - xmin, as VLPart's, would be one pixel short.
    assert (plate["bbox"], plate["area"]) == ([6, 16, 4, 2], 8)
    lower_arm = next(a for a in coco["annotations"] if a["category_id"] == ids("58")["person's lower arm"])
    assert lower_arm["area"] == 40 and lower_arm["iscrowd"] == 0
    assert [a["id"] for a in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
    assert coco["categories"][0] == {"id": 1, "name": "aeroplane's body", "supercategory": "aeroplane"}


def test_pictures_without_parts_stay(prepared):
    records, metadata = load(prepared, "pascal_part_93_val")
    assert [Path(record["file_name"]).stem for record in records] == [layout.BICYCLES, layout.EMPTY]
    assert records[1]["annotations"] == []
    assert (read_part_map(records[1], metadata) == metadata.background_label).all()


def test_missing_annotations_are_reported_and_a_finished_split_is_skipped(tmp_path, caplog):
    written = layout.write_voc(tmp_path)
    broken = written.mats / f"{layout.BICYCLES}.mat"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match=layout.BICYCLES):
        prepare(written.voc, written.mats, written.output, ["58"])
    # Stopped in the second split: the first is there, the second is not, not even in part.
    train, val = (written.output / f"58/annotations/{split}/{split}.json" for split in ("train", "val"))
    assert train.exists() and not val.exists()
    broken.write_bytes(whole)
    before = train.stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        prepare(written.voc, written.mats, written.output, ["58"], num_workers=2)
    assert train.stat().st_mtime_ns == before and "already there" in caplog.text
    assert (
        f"val.txt: 1 of 3 pictures have no .mat file and are left out, among them {layout.UNANNOTATED}" in caplog.text
    )
    assert [image["file_name"] for image in json.loads(val.read_text())["images"]] == [
        f"{layout.BICYCLES}.jpg",
        f"{layout.EMPTY}.jpg",
    ]


def test_prepare_counts_empty_parts(tmp_path, caplog):
    written = layout.write_voc(tmp_path)
    parts = [("head", np.zeros(SIZE, np.uint8)), ("torso", layout.box(2, 2, 5, 5)), ("tail", layout.box(6, 6, 8, 8))]
    thing = layout.Thing("cat", layout.box(0, 0, 9, 9), parts)
    layout.write_mat(written.mats / f"{layout.STREET}.mat", [thing])
    prepare(written.voc, written.mats, written.output, ["58"])
    assert "train: 1 parts with an empty mask left out" in caplog.text


def test_prepare_says_what_is_wrong(tmp_path):
    written = layout.write_voc(tmp_path)
    picture = written.voc / "JPEGImages" / f"{layout.STREET}.jpg"
    Image.new("RGB", (layout.HEIGHT, layout.WIDTH)).save(picture)
    message = rf"image .*{layout.STREET}\.jpg: height and width are \(60, 40\), but the masks of .* have \(40, 60\)"
    with pytest.raises(ValueError, match=message):
        prepare(written.voc, written.mats, written.output, ["58"])
    picture.unlink()
    with pytest.raises(ValueError, match=rf"image .*{layout.STREET}\.jpg: the file does not exist"):
        prepare(written.voc, written.mats, written.output, ["58"])
    with pytest.raises(ValueError, match="nowhere: expected .mat files such as 2008_000002.mat for the 2 pictures"):
        prepare(written.voc, tmp_path / "nowhere", written.output, ["58"])
    with pytest.raises(ValueError, match=r"list of pictures .*train\.txt: the file does not exist"):
        prepare(tmp_path / "nowhere", written.mats, written.output, ["58"])
    (written.voc / "ImageSets" / "Main" / "train.txt").write_text("../2008_000001\n")
    message = r"list of pictures .*train\.txt: expected names such as 2008_000002, got '\.\./2008_000001'"
    with pytest.raises(ValueError, match=message):
        prepare(written.voc, written.mats, written.output, ["58"])
    # Before anything is written.
    fresh = layout.write_voc(tmp_path / "fresh")
    with pytest.raises(ValueError, match="expected a variant among"):
        prepare(fresh.voc, fresh.mats, fresh.output, ["58", "59"])
    assert not (fresh.output / "58").exists()


def test_base_and_novel_classes_are_in_the_metadata() -> None:
    """VLPart trains on 77 of 93 classes; the parts of buses and dogs are novel."""
    metadata = MetadataCatalog.get("pascal_part_93_val")
    base = metadata.evaluation_set["base"]
    novel = [name for c, name in enumerate(metadata.thing_classes) if c not in base]
    assert (len(base), len(novel)) == (77, 16)
    assert {name.split("'s ")[0] for name in novel} == {"bus", "dog"}
    assert len(MetadataCatalog.get("pascal_part_116_val").evaluation_set["base"]) == 74
    assert MetadataCatalog.get("pascal_part_58_val").get("evaluation_set") is None
