"""Polygons, run-length encodings, label maps and the one image decoder, on good and bad input."""

from __future__ import annotations

from types import SimpleNamespace

from wps_sam.masks import (
    clip_far_polygons,
    deepest_pixel,
    mask_to_box,
    mask_to_rle,
    pil_to_rgb,
    read_label_png,
    read_object_map,
    read_part_map,
    read_predicted_objects,
    read_rgb,
    record_size,
    restrict_to_object,
    segmentation_to_mask,
    stored_size,
    to_eight_bits,
    valid_polygons,
)

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.ndimage import distance_transform_edt

TRIANGLE = [0.0, 0.0, 8.0, 0.0, 0.0, 8.0]
METADATA = SimpleNamespace(label_map={0: 0, 1: 1, 2: 2}, background_label=2, ignore_label=255)


@pytest.mark.parametrize(
    ("polygons", "strict", "wps_sam"),
    [
        ([], 0, 0),
        ([[]], 0, 0),
        ([[1, 2]], 0, 0),
        ([[1, 2, 3, 4]], 0, 0),
        ([[1, 2, 3, 4, 5]], 0, 1),
        ([TRIANGLE], 1, 1),
        ([[1, 2, 3, 4, 5, 6, 7]], 0, 1),
        ([[1, 2, 3, 4, 5, 6, 7, 8]], 1, 1),
        ([[1, 2, 3, 4], TRIANGLE], 1, 0),
        ([TRIANGLE, [1, 2]], 1, 2),
        ([[*TRIANGLE, 1.0]], 0, 1),
        ([[1, 2, 3, 4, 5, float("nan")]], 0, 1),
        ([[1, 2, 3, 4, 5, 10**400]], 0, 1),
        (TRIANGLE, 1, 1),
        ([1.0, 2.0], 0, 0),
    ],
)
def test_valid_polygons(polygons, strict, wps_sam):
    assert len(valid_polygons(polygons)) == strict
    assert len(valid_polygons(polygons, rule="wps_sam")) == wps_sam


@pytest.mark.parametrize("polygons", ["abc", 7, [1.0, [2.0]], [["a"] * 6]])
def test_malformed_polygons_are_refused(polygons):
    with pytest.raises(ValueError, match="segmentation: expected"):
        valid_polygons(polygons)
    with pytest.raises(ValueError, match="rule: expected"):
        valid_polygons([TRIANGLE], rule="other")


def test_four_numbers_are_no_box():
    # pycocotools would draw a rectangle of 3 x 4 pixels here.
    assert not segmentation_to_mask([[1.0, 2.0, 3.0, 4.0]], 10, 10).any()
    assert segmentation_to_mask([[1.0, 2.0, 3.0, 4.0], TRIANGLE], 10, 10).sum() > 20


def test_union_of_polygons():
    square = [4.0, 4.0, 9.0, 4.0, 9.0, 9.0, 4.0, 9.0]
    one, other = (segmentation_to_mask([p], 10, 10) for p in (TRIANGLE, square))
    assert np.array_equal(segmentation_to_mask([TRIANGLE, square], 10, 10), one | other)
    assert other.dtype == bool and other.sum() == 25


def test_every_encoding_of_a_mask_decodes_to_it():
    mask = np.zeros((4, 3), bool)
    mask[1:3, 1] = True
    compressed = mask_to_rle(mask)
    assert isinstance(compressed["counts"], str) and compressed["size"] == [4, 3]
    as_bytes = {**compressed, "counts": compressed["counts"].encode()}
    # Column by column: 5 outside, 2 inside, 5 outside.
    uncompressed = {"size": [4, 3], "counts": [5, 2, 5]}
    for encoding in (compressed, as_bytes, uncompressed):
        assert np.array_equal(segmentation_to_mask(encoding, 4, 3), mask)


def test_compressed_encodings_of_many_masks_decode_to_them():
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = rng.integers(1, 90, size=2)
        # Blocks of all sizes, so that runs are long and short and their differences of both signs.
        mask = np.kron(rng.random((5, 4)) < rng.random(), np.ones((20, 25)))[:height, :width].astype(bool)
        assert np.array_equal(segmentation_to_mask(mask_to_rle(mask), height, width), mask)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ({"counts": [12]}, "size and counts"),
        ({"size": [3, 4], "counts": [12]}, r"expected \[4, 3\], the picture's, got \[3, 4\]"),
        ({"size": [4, 3], "counts": [13]}, r"add up to 4 \* 3 = 12, got 13"),
        ({"size": [4, 3], "counts": [20, -8]}, "add up to"),
        ({"size": [4, 3], "counts": "0"}, "add up to .* got 0"),
        ({"size": [4, 3], "counts": ""}, "add up to .* got 0"),
        ({"size": [4, 3], "counts": 12}, "expected a list of integers, str or bytes, got 12"),
        ({"size": [4, 3], "counts": [12.0]}, "expected a list of integers"),
        ({"size": [4, 3], "counts": [6, 6.0]}, "expected a list of integers"),
    ],
)
def test_malformed_encodings_are_refused(encoding, message):
    with pytest.raises(ValueError, match=message):
        segmentation_to_mask(encoding, 4, 3)


def test_mask_to_box():
    mask = np.zeros((5, 7), bool)
    assert mask_to_box(mask) == (0, 0, 0, 0)
    mask[2, 3] = True
    assert mask_to_box(mask) == (3, 2, 4, 3)
    mask[4, 6] = True
    assert mask_to_box(mask) == (3, 2, 7, 5)


def record(tmp_path, stored=None, mode=None, annotations=()):
    base = {"file_name": "a.jpg", "height": 4, "width": 6, "annotations": list(annotations)}
    if stored is None:
        return base
    path = tmp_path / "a.png"
    image = Image.fromarray(stored)
    (image.convert(mode) if mode else image).save(path)
    return {**base, "sem_seg_file_name": str(path)}


def labels(dtype=np.uint8, ignore=255):
    stored = np.full((4, 6), 2, dtype)
    stored[0], stored[1], stored[3] = 0, 1, ignore
    return stored


@pytest.mark.parametrize("kind", ["8 bit", "16 bit", "palette"])
def test_label_maps_are_read_as_stored(tmp_path, kind):
    stored = labels(np.uint16 if kind == "16 bit" else np.uint8)
    entry = record(tmp_path, stored)
    if kind == "palette":
        image = Image.fromarray(stored)
        # Colours that have nothing to do with the ids.
        image.putpalette([(i * 37) % 256 for i in range(768)])
        image.save(entry["sem_seg_file_name"])
    part_map = read_part_map(entry, METADATA)
    assert part_map.dtype == np.int64 and np.array_equal(part_map, stored.astype(np.int64))


def test_sixteen_bits_keep_the_ignore_value_apart_from_class_255(tmp_path):
    stored = labels(np.uint16, ignore=65535)
    stored[2] = 255
    metadata = SimpleNamespace(label_map={i: i for i in range(301)}, background_label=300, ignore_label=65535)
    part_map = read_part_map(record(tmp_path, stored), metadata)
    assert (part_map[3] == 65535).all() and (part_map[2] == 255).all()


def test_label_map_values_follow_the_map(tmp_path):
    metadata = SimpleNamespace(label_map={1: 0, 2: 1, 0: 2}, background_label=2, ignore_label=255)
    part_map = read_part_map(record(tmp_path, labels()), metadata)
    assert part_map[:, 0].tolist() == [2, 0, 1, 255]


def test_bad_label_maps_are_refused_by_name(tmp_path):
    stored = labels()
    stored[0, 0] = 9
    with pytest.raises(ValueError, match=r"a\.png: unknown value 9; expected one of \[0, 1, 2\] or 255"):
        read_part_map(record(tmp_path, stored), METADATA)
    with pytest.raises(ValueError, match=r"a\.png: height and width are \(2, 3\), but .*a\.jpg says \(4, 6\)"):
        read_part_map(record(tmp_path, labels()[:2, :3].copy()), METADATA)
    with pytest.raises(ValueError, match=r"a\.png: cannot be decoded: expected one channel of label ids, got mode RGB"):
        read_part_map(record(tmp_path, labels(), mode="RGB"), METADATA)
    entry = record(tmp_path, labels())
    with open(entry["sem_seg_file_name"], "r+b") as file:
        file.truncate(50)
    with pytest.raises(ValueError, match=r"a\.png: cannot be decoded"):
        read_part_map(entry, METADATA)
    with pytest.raises(ValueError, match=r"gone\.png: the file does not exist"):
        read_part_map({**entry, "sem_seg_file_name": str(tmp_path / "gone.png")}, METADATA)


def square(x, y, side):
    return [[float(v) for v in (x, y, x + side, y, x + side, y + side, x, y + side)]]


def test_small_parts_stay_visible_where_annotations_are_painted(tmp_path):
    small = {"id": 1, "category_id": 0, "segmentation": square(1, 1, 1), "bbox": [1, 1, 1, 1]}
    large = {"id": 2, "category_id": 1, "segmentation": square(0, 0, 4), "bbox": [0, 0, 4, 4]}
    for order in ([small, large], [large, small]):
        part_map = read_part_map(record(tmp_path, annotations=order), METADATA)
        assert part_map[1, 1] == 0 and (part_map == 1).sum() == 15 and (part_map == 2).sum() == 8


def test_a_part_without_mask_is_ignored_not_background(tmp_path):
    boxed = {"id": 1, "category_id": 0, "bbox": [0, 0, 2, 4]}
    large = {"id": 2, "category_id": 1, "segmentation": square(1, 0, 4), "bbox": [1, 0, 4, 4]}
    part_map = read_part_map(record(tmp_path, annotations=[large, boxed]), METADATA)
    assert part_map[0].tolist() == [255, 1, 1, 1, 1, 2]


def test_unreadable_mask_names_picture_and_annotation(tmp_path):
    bad = {"id": 7, "category_id": 0, "segmentation": {"size": [9, 9], "counts": [81]}, "bbox": [0, 0, 2, 2]}
    with pytest.raises(ValueError, match=r"a\.jpg: annotation 7: segmentation\.size"):
        read_part_map(record(tmp_path, annotations=[bad]), METADATA)


def test_the_size_of_a_record_is_its_own_or_its_label_maps(tmp_path):
    entry = record(tmp_path, labels())
    assert record_size({**entry, "height": 5, "width": 7}) == (5, 7)
    unsized = without_size(entry)
    assert (
        record_size(unsized) == record_size({**unsized, "height": 9}) == record_size({**unsized, "width": 9}) == (4, 6)
    )
    with pytest.raises(ValueError, match=r"^a\.jpg: expected height and width, or a label map"):
        record_size({"file_name": "a.jpg"})
    with pytest.raises(ValueError, match=r"gone\.png: the file does not exist"):
        record_size({**unsized, "sem_seg_file_name": str(tmp_path / "gone.png")})
    with open(entry["sem_seg_file_name"], "r+b") as file:
        # Pixels are gone, the header is whole: it is all that may be read.
        file.truncate(50)
    assert record_size(unsized) == (4, 6)
    with pytest.raises(ValueError, match=r"a\.png: cannot be decoded"):
        read_part_map(unsized, METADATA)


def without_size(entry):
    return {key: value for key, value in entry.items() if key not in ("height", "width")}


# Three objects, of which the last two have parts; 233 is ADE20K-Part-234's last part.
OV_METADATA = SimpleNamespace(
    label_map={0: 0, 1: 65535, 233: 1}, ignore_label=65535, obj_classes=["boat", "bus", "dog"]
)


def test_open_vocabulary_part_maps_have_no_background_and_hide_unseen_classes(tmp_path):
    stored = np.array([[0, 1, 233, 65535]], np.uint16)
    part_map = read_part_map(without_size(record(tmp_path, stored)), OV_METADATA)
    # A class that the training set must not show reads as ignore, not as background.
    assert part_map.tolist() == [[0, 65535, 1, 65535]] and part_map.dtype == np.int64
    # 255 is Pascal-Part-116's ignore value; in this set it is neither a class nor ignore.
    stored[0, 3] = 255
    with pytest.raises(ValueError, match=r"a\.png: unknown value 255; expected one of \[0, 1, 233\] or 65535"):
        read_part_map(without_size(record(tmp_path, stored)), OV_METADATA)


def object_record(tmp_path, objects=None, annotations=()):
    entry = without_size(record(tmp_path, labels()))
    if objects is None:
        return {**entry, "obj_sem_seg_file_name": "NA", "obj_annotations": list(annotations)}
    path = tmp_path / "objects.png"
    Image.fromarray(objects).save(path)
    return {**entry, "obj_sem_seg_file_name": str(path)}


@pytest.mark.parametrize(("dtype", "ignore"), [(np.uint8, 255), (np.uint16, 65535)])
def test_object_maps_are_read_as_stored(tmp_path, dtype, ignore):
    metadata = SimpleNamespace(obj_classes=["boat", "bus", "dog"], ignore_label=ignore)
    objects = np.full((4, 6), ignore, dtype)
    objects[1], objects[2] = 0, 2
    object_map = read_object_map(object_record(tmp_path, objects), metadata)
    assert object_map.dtype == np.int64 and np.array_equal(object_map, objects)
    objects[0] = 3
    with pytest.raises(ValueError, match=r"objects\.png: unknown value 3; expected one of \[0, 1, 2\] or"):
        read_object_map(object_record(tmp_path, objects), metadata)
    with pytest.raises(ValueError, match=r"objects\.png: height and width are \(3, 6\), but .*\(4, 6\)"):
        read_object_map(object_record(tmp_path, objects[1:]), metadata)


def test_later_objects_are_painted_over_earlier_ones(tmp_path):
    mask = np.zeros((4, 6), bool)
    mask[:2, :3] = True
    boxed = {"id": 1, "category_id": 2, "segmentation": mask_to_rle(mask)}
    upright = {"id": 2, "category_id": 0, "segmentation": square(1, 1, 3)}
    object_map = read_object_map(object_record(tmp_path, annotations=[boxed, upright]), OV_METADATA)
    none = 65535
    assert object_map.tolist() == [
        [2, 2, 2, none, none, none],
        [2, 0, 0, 0, none, none],
        [none, 0, 0, 0, none, none],
        [none, 0, 0, 0, none, none],
    ]
    # The small one first: painted by size, as parts are, it would show through.
    object_map = read_object_map(object_record(tmp_path, annotations=[upright, boxed]), OV_METADATA)
    assert object_map[1].tolist() == [2, 2, 2, 0, none, none]
    assert (read_object_map(object_record(tmp_path), OV_METADATA) == none).all()


def test_bad_objects_name_picture_and_annotation(tmp_path):
    annotation = {"id": 7, "category_id": 3, "segmentation": square(0, 0, 2)}
    with pytest.raises(ValueError, match=r"^a\.jpg: annotation 7: category_id: expected an object 0\.\.2, got 3"):
        read_object_map(object_record(tmp_path, annotations=[annotation]), OV_METADATA)
    annotation.update(category_id=1, segmentation={"size": [6, 4], "counts": [24]})
    with pytest.raises(ValueError, match=r"^a\.jpg: annotation 7: segmentation\.size: expected \[4, 6\]"):
        read_object_map(object_record(tmp_path, annotations=[annotation]), OV_METADATA)


def test_parts_of_other_objects_are_ignored():
    part_map = np.array([[0, 1, 2], [3, 255, 4]])
    object_map = np.array([[5, 6, 255], [6, 6, 5]])
    assert restrict_to_object(part_map, object_map, 6, 255).tolist() == [[255, 1, 255], [3, 255, 255]]
    assert (restrict_to_object(part_map, object_map, 7, 255) == 255).all()


def picture():
    return np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def test_rgb_and_transparency(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    assert np.array_equal(read_rgb(str(tmp_path / "a.png"), 4, 6), picture())
    # One side alone is no size.
    assert np.array_equal(read_rgb(str(tmp_path / "a.png"), 5), picture())
    Image.fromarray(np.dstack([picture(), np.zeros((4, 6), np.uint8)])).save(tmp_path / "b.png")
    assert np.array_equal(read_rgb(str(tmp_path / "b.png")), picture())


def test_a_png_named_jpeg(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.JPEG", "PNG")
    assert np.array_equal(read_rgb(str(tmp_path / "a.JPEG")), picture())


def test_grey_and_cmyk(tmp_path):
    grey = np.full((4, 6), 77, np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.jpg", quality=100)
    assert np.abs(read_rgb(str(tmp_path / "grey.jpg")).astype(int) - 77).max() <= 1
    red = Image.new("RGB", (6, 4), (255, 0, 0))
    red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    decoded = read_rgb(str(tmp_path / "cmyk.jpg"))
    assert decoded.shape == (4, 6, 3) and np.abs(decoded.astype(int) - [255, 0, 0]).max() <= 3


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 24).reshape(4, 6).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(read_rgb(str(tmp_path / "a.png")), np.repeat((values >> 8)[..., None], 3, axis=2))
    for wrong in (65536, -1):
        values = np.full((4, 6), 7, np.int32)
        values[0, 0] = wrong
        Image.fromarray(values).save(tmp_path / "b.tiff")
        with pytest.raises(ValueError, match=r"b\.tiff: cannot be decoded: expected 8 or 16 bits"):
            read_rgb(str(tmp_path / "b.tiff"))


@pytest.mark.parametrize(
    ("highest", "upper_eight"), [(1, 1), (255, 255), (300, 75), (1500, 93), (4095, 255), (16383, 255), (20000, 78)]
)
def test_the_upper_eight_of_an_even_number_of_bits_are_taken(highest, upper_eight):
    """300 has 9 bits and 1500 has 11, so 10 and 12 are in use: divided by 4 and 16; 20000 has 15: by 256."""
    found = to_eight_bits(np.array([0, highest]), "a.png")
    assert found.dtype == np.uint8 and found.tolist() == [0, upper_eight]


def test_unused_bits_are_said_once_a_depth(monkeypatch, caplog):
    monkeypatch.setattr("wps_sam.masks._BITS_SAID", set())
    for highest in (4095, 3000, 65535, 700):
        to_eight_bits(np.array([0, highest]), f"{highest}.png")
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["image 4095.png", "image 700.png"]


def save_rotated(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture()).save(path, exif=exif)


def test_exif_turns_only_where_the_annotation_says_so(tmp_path):
    path = str(tmp_path / "a.png")
    # 6: the camera was turned; to be seen upright, the picture is turned clockwise.
    save_rotated(path, 6)
    upright = np.rot90(picture(), -1)
    assert np.array_equal(read_rgb(path, 4, 6), picture())
    assert np.array_equal(read_rgb(path, 6, 4), upright)
    # Without annotation there is nothing to obey but the tag.
    assert np.array_equal(read_rgb(path), upright)
    with pytest.raises(ValueError, match=r"a\.png: height and width are \(4, 6\) \(EXIF orientation 6\), .*\(5, 5\)"):
        read_rgb(path, 5, 5)
    # A half turn keeps the size, so the stored grid is the annotation's.
    save_rotated(path, 3)
    assert np.array_equal(read_rgb(path, 4, 6), picture())
    assert np.array_equal(read_rgb(path), picture()[::-1, ::-1])
    with pytest.raises(ValueError, match=r"\(4, 6\) \(EXIF orientation 3\), but its annotation says \(6, 4\)"):
        read_rgb(path, 6, 4)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_missing_truncated_and_foreign_files_are_named(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(ValueError, match=rf"image .*{name}: the file does not exist"):
        read_rgb(str(path))
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a picture"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"image .*{name}: cannot be decoded"):
            read_rgb(str(path))


def test_the_deepest_pixel_does_not_hang_on_opencvs_last_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = cv2.distanceTransform
    noise = np.random.default_rng(0).uniform(-2e-7, 2e-7, (9, 22)).astype(np.float32)
    monkeypatch.setattr(cv2, "distanceTransform", lambda *args: transform(*args) * (1 + noise))
    mask = np.zeros((30, 40), bool)
    mask[10:17, 5:25] = True
    # Depth 4 from column 8 to 21 of row 13.
    assert deepest_pixel(mask) == (8, 13)


def transposed(polygon):
    return [v for x, y in zip(polygon[::2], polygon[1::2]) for v in (y, x)]


@pytest.mark.parametrize("turn", [list, transposed])
def test_a_polygon_is_cut_its_pictures_size_outside_of_it(turn):
    # The picture spans 0 to 10 both ways, so -10 to 20 is left; the side from (1000, 0) to (0, 10) leaves that at 9.8.
    (cut,) = clip_far_polygons([turn([0, 0, 1000, 0, 0, 10])], 10, 10)
    assert cut == pytest.approx(turn([0, 0, 20, 0, 20, 9.8, 0, 10]))
    # From (-110, 0) to (90, 10): enters at 5 and leaves at 6.5.
    (cut,) = clip_far_polygons([turn([-110, 0, 90, 10, 90, 20, -110, 20])], 10, 10)
    assert cut == pytest.approx(turn([-10, 5, 20, 6.5, 20, 20, -10, 20]))
    # What lies beyond one side is gone; what reaches the limits is left as it was.
    assert clip_far_polygons([turn([30, 0, 40, 0, 40, 10]), turn([-40, 0, -30, 0, -30, 10])], 10, 10) == []
    assert clip_far_polygons([turn([-10, -10, 20, -10, 20, 20])], 10, 10) == [turn([-10, -10, 20, -10, 20, 20])]


def test_sides_of_pictures_limit_their_own_direction():
    """A picture of height 5 and width 20: x from -20 to 40 and y from -5 to 10."""
    (cut,) = clip_far_polygons([[-99, -99, 99, -99, 99, 99, -99, 99]], 5, 20)
    assert sorted(zip(cut[::2], cut[1::2])) == [(-20, -5), (-20, 10), (40, -5), (40, 10)]
    # Within 20 of it both ways, and yet too high above it.
    (cut,) = clip_far_polygons([[0, -15, 10, -15, 10, 5, 0, 5]], 5, 20)
    assert min(cut[1::2]) == -5
    # Or too low below it.
    (cut,) = clip_far_polygons([[0, 0, 10, 0, 10, 12, 0, 12]], 5, 20)
    assert max(cut[1::2]) == 10


@pytest.mark.parametrize("counts", ["P", "o" * 8 + "0", "o" * 30])
def test_bytes_that_are_no_runs_are_refused(counts):
    """A byte says that more follow and none does; a number of more bits than any picture has pixels."""
    with pytest.raises(ValueError, match="segmentation.counts: expected"):
        segmentation_to_mask({"size": [4, 3], "counts": counts}, 4, 3)


@pytest.mark.parametrize("byte", ["/", "p"])
def test_bytes_beside_the_encodings_are_named(byte):
    with pytest.raises(ValueError, match="expected COCO's compressed encoding, got"):
        segmentation_to_mask({"size": [4, 3], "counts": byte}, 4, 3)


def test_a_box_without_mask_is_ignored_as_far_as_it_touches_pixels(tmp_path):
    boxed = {"id": 1, "category_id": 0, "bbox": [-1.5, 0.5, 3.0, 1.2]}
    part_map = read_part_map(record(tmp_path, annotations=[boxed]), METADATA)
    # Columns 0 and 1, of which the second half is covered, and rows 0 and 1.
    assert (part_map == 255).nonzero()[0].tolist() == [0, 0, 1, 1]
    assert (part_map == 255).nonzero()[1].tolist() == [0, 1, 0, 1]
    outside = {"id": 1, "category_id": 0, "bbox": [-9.0, -9.0, 8.0, 8.0]}
    assert (read_part_map(record(tmp_path, annotations=[outside]), METADATA) == 2).all()
    for bbox, rows, columns in (
        ([0.5, -1.5, 1.2, 3.0], [0, 1], [0, 1]),
        ([0, 0, 1, 1], [0], [0]),
        ([1.5, 1.5, 1.0, 1.0], [1, 2], [1, 2]),
        # Beside the picture in one direction alone.
        ([1, -9, 2, 8], [], []),
        ([-9, 1, 8, 2], [], []),
    ):
        found = read_part_map(record(tmp_path, annotations=[{"id": 1, "category_id": 0, "bbox": bbox}]), METADATA)
        expected = np.full((4, 6), 2)
        expected[np.ix_(rows, columns)] = 255
        assert found.tolist() == expected.tolist()
    with pytest.raises(ValueError, match=r"a\.jpg: annotation 3: expected a mask or a box to paint"):
        read_part_map(record(tmp_path, annotations=[{"id": 3, "category_id": 0, "point": [1, 1]}]), METADATA)


def test_of_two_equally_large_parts_the_later_is_seen(tmp_path):
    parts = [{"id": c, "category_id": c, "segmentation": square(c, 0, 2)} for c in (0, 1)]
    assert read_part_map(record(tmp_path, annotations=parts), METADATA)[0].tolist() == [0, 1, 1, 2, 2, 2]
    assert read_part_map(record(tmp_path, annotations=parts[::-1]), METADATA)[0].tolist() == [0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_that_of_pillow(tmp_path, orientation):
    path = str(tmp_path / "a.png")
    save_rotated(path, orientation)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
        assert np.array_equal(pil_to_rgb(image), expected)
    with Image.open(path) as image:
        assert np.array_equal(pil_to_rgb(image, exif="stored"), picture())
    assert np.array_equal(read_rgb(path), expected)
    assert np.array_equal(read_rgb(path, *expected.shape[:2], exif="upright"), expected)
    assert np.array_equal(read_rgb(path, 4, 6, exif="stored"), picture())
    assert stored_size(path) == (4, 6, orientation if 2 <= orientation <= 8 else 1)
    if orientation >= 5 and orientation < 9:
        with pytest.raises(ValueError, match=r"its annotation says \(4, 6\), and its data set exif: upright"):
            read_rgb(path, 4, 6, exif="upright")


def test_damaged_exif_is_upright_and_said(tmp_path, monkeypatch, caplog):
    path = str(tmp_path / "a.png")
    save_rotated(path, 6)

    def fail(image):
        raise SyntaxError("no EXIF")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert np.array_equal(read_rgb(path), picture())
    assert "a.png: its EXIF block is damaged (no EXIF); taken as upright" in caplog.text
    assert stored_size(path) == (4, 6, 1)


def test_pictures_in_memory_are_converted_as_files_are():
    with pytest.raises(ValueError, match="image without a file name: .*got floating point numbers"):
        pil_to_rgb(Image.fromarray(np.ones((2, 3), np.float32)))
    with pytest.raises(ValueError, match="expected pixels, got 0 x 0"):
        pil_to_rgb(Image.new("RGB", (0, 0)))
    assert np.array_equal(pil_to_rgb(Image.fromarray(picture())), picture())


def test_predicted_objects_are_found_by_the_pictures_name(tmp_path):
    objects = np.full((4, 6), 2, np.uint8)
    Image.fromarray(objects).save(tmp_path / "a.b.png")
    entry = {"file_name": "elsewhere/a.b.jpg", "height": 4, "width": 6}
    assert np.array_equal(read_predicted_objects(str(tmp_path), entry), objects)
    with pytest.raises(ValueError, match=r"c\.png: the file does not exist"):
        read_predicted_objects(str(tmp_path), {**entry, "file_name": "c.jpg"})


def test_a_label_png_that_claims_no_size_is_taken_as_it_is(tmp_path):
    entry = record(tmp_path, labels())
    assert read_label_png(entry["sem_seg_file_name"]).tolist() == labels().tolist()
    assert read_label_png(entry["sem_seg_file_name"]).dtype == np.int64


def test_the_deepest_pixel_is_found_where_the_mask_is():
    mask = np.zeros((12, 15), bool)
    mask[3:8, 6:13] = True
    # Row 5 is 3 from either border, from column 8 on.
    assert deepest_pixel(mask) == (8, 5)
    one = np.zeros((4, 6), bool)
    one[2, 3] = True
    assert deepest_pixel(one) == (3, 2)
    # Against scipy's exact distances, of equally deep ones the first.
    rng = np.random.default_rng(0)
    for _ in range(50):
        blob = cv2.GaussianBlur(rng.random((24, 31)), (0, 0), 3)
        blob = blob > np.quantile(blob, 0.6)
        squares = np.rint(distance_transform_edt(np.pad(blob, 1)) ** 2)[1:-1, 1:-1]
        y, x = np.unravel_index(squares.argmax(), squares.shape)
        assert deepest_pixel(blob) == (x, y)
    with pytest.raises(ValueError, match=r"the deepest pixel of an empty mask \(4, 6\)"):
        deepest_pixel(np.zeros((4, 6), bool))
