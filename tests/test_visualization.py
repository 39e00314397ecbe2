"""Colours, names and legends: distinct, stable and readable at any image size."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from wps_sam.visualization import (
    draw_instances,
    draw_part_map,
    draw_weak_labels,
    part_colors,
    side_by_side,
    srgb_to_lab,
)

import cv2
import numpy as np
import pytest
from PIL import ImageDraw

NAMES = ("Dog Head", "Dog Body", "Dog Tail", "Car Body")
GOLDEN = [[39, 196, 235], [0, 255, 0], [255, 0, 0], [118, 0, 255]]


def classes(count: int) -> list[str]:
    return [f"part {i}" for i in range(count)]


def lab_distances(colors: np.ndarray) -> np.ndarray:
    lab = srgb_to_lab(colors)
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return distances


def has_color(picture: np.ndarray, color: Sequence[int]) -> bool:
    return bool((picture == np.asarray(color, np.uint8)).all(axis=-1).any())


def share_of(picture: np.ndarray, color: Sequence[int]) -> float:
    """Share of pixels with the hue of ``color``; mixing a colour with grey does not turn its hue."""
    pixels, wanted = picture.astype(float), np.asarray(color, float)
    pixels, wanted = pixels - pixels.mean(-1, keepdims=True), wanted - wanted.mean()
    length = np.linalg.norm(pixels, axis=-1)
    alike = pixels @ wanted / (np.maximum(length, 1e-6) * np.linalg.norm(wanted))
    return float(((length > 15) & (alike > 0.97)).mean())


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Every text set on a picture, with its box x0, y0, x1, y1."""
    found: list[tuple[str, tuple[float, float, float, float]]] = []
    draw_text = ImageDraw.ImageDraw.text

    def spy(self, xy, text, *args, **kwargs):
        found.append((text, self.textbbox(xy, text, font=kwargs["font"], anchor=kwargs["anchor"])))
        return draw_text(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    return found


# ---------------------------------------------------------------- colours


def test_srgb_to_lab_gives_the_published_values() -> None:
    # Red, green and blue of sRGB under D65, as printed in colour tables; white and black by definition.
    given = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]], np.uint8)
    expected = [[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [100, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(srgb_to_lab(given), expected, atol=0.05)
    # Grey of 128: ((128 / 255 + 0.055) / 1.055) ** 2.4 = 0.21586 of white's light, 116 * 0.21586 ** (1 / 3) - 16.
    np.testing.assert_allclose(srgb_to_lab(np.array([128, 128, 128])), [53.585, 0, 0], atol=0.005)


def test_srgb_to_lab_agrees_with_opencv() -> None:
    colors = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    theirs = cv2.cvtColor(colors.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    # OpenCV interpolates in a table.
    assert np.linalg.norm(srgb_to_lab(colors) - theirs, axis=-1).max() < 0.6


@pytest.mark.parametrize(("count", "least"), [(2, 100), (16, 48), (29, 34), (40, 28), (116, 14)])
def test_colors_are_far_apart(count: int, least: float) -> None:
    """In CIELAB 2 is just visible; 10 apart two colours have the same name for most people."""
    colors = part_colors(classes(count))
    assert colors.shape == (count, 3) and colors.dtype == np.uint8
    assert lab_distances(colors).min() >= least


@pytest.mark.parametrize("count", [16, 29, 40])
def test_neighbours_in_the_class_list_differ_most(count: int) -> None:
    """The parts of a supercategory, at most five in PartImageNet, follow each other in the class list."""
    distances = lab_distances(part_colors(classes(count)))
    near = [distances[i, j] for i, j in itertools.combinations(range(count), 2) if j - i < 5]
    assert min(near) >= 33
    assert np.mean(near) > np.mean(distances[np.isfinite(distances)])


def test_colors_are_neither_grey_nor_dark_nor_pale() -> None:
    lightness, a, b = srgb_to_lab(part_colors(classes(40))).T
    assert lightness.min() > 35 and lightness.max() < 92
    assert np.hypot(a, b).min() > 25


def test_colors_stay_what_they_are() -> None:
    """Pictures in papers and slides must not change their colours with a release: written down on purpose."""
    assert part_colors(NAMES).tolist() == GOLDEN
    assert part_colors([f"other {i}" for i in range(4)]).tolist() == GOLDEN


def test_the_returned_colors_are_the_callers_own() -> None:
    part_colors(NAMES)[:] = 0
    assert part_colors(NAMES).any()


def test_no_classes_no_colors() -> None:
    assert part_colors([]).shape == (0, 3)


def test_refuses_a_name_given_twice() -> None:
    with pytest.raises(ValueError, match="given twice: .*wheel"):
        part_colors(["wheel", "door", "wheel"])


# ---------------------------------------------------------------- part maps and instances


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_part_map_is_painted_where_it_says() -> None:
    part_map = np.full((40, 60), 4)
    part_map[10:30, 20:40] = 1
    picture = draw_part_map(np.full((40, 60, 3), 128, np.uint8), part_map, NAMES, legend=False)
    assert picture.dtype == np.uint8 and picture.shape[0] % 40 == 0
    factor = picture.shape[0] // 40
    color = part_colors(NAMES)[1]
    assert share_of(picture[10 * factor : 30 * factor, 20 * factor : 40 * factor], color) > 0.97
    # Background: grey stays grey.
    outside = picture[: 9 * factor]
    assert (np.ptp(outside.astype(int), axis=-1) <= 2).all()


def test_every_pixel_counts_in_an_enlarged_picture() -> None:
    part_map = np.full((4, 4), 4)
    part_map[1, 2] = 0
    picture = draw_part_map(np.full((4, 4, 3), 128, np.uint8), part_map, NAMES, legend=False)
    factor = picture.shape[0] // 4
    cell = picture[factor : 2 * factor, 2 * factor : 3 * factor]
    assert share_of(cell, part_colors(NAMES)[0]) > 0.95
    assert share_of(picture, part_colors(NAMES)[0]) < 1.3 / 16


def test_a_mask_with_a_hole_leaves_the_hole_bare() -> None:
    part_map = np.zeros((30, 30), int)
    part_map[10:20, 10:20] = 4
    picture = draw_part_map(np.full((30, 30, 3), 128, np.uint8), part_map, NAMES, legend=False)
    factor = picture.shape[0] // 30
    hole = picture[11 * factor : 19 * factor, 11 * factor : 19 * factor]
    assert share_of(hole, part_colors(NAMES)[0]) == 0


def test_legend_names_the_classes_present_and_no_others(texts: list) -> None:
    part_map = np.full((64, 64), 4)
    part_map[:20] = 0
    part_map[40:] = 3
    part_map[30, 30] = 255  # ignored
    picture = draw_part_map(photo(64, 64), part_map, NAMES)
    assert {text for text, _ in texts} == {"Dog Head", "Car Body"}
    assert has_color(picture, part_colors(NAMES)[0]) and has_color(picture, part_colors(NAMES)[3])
    assert not has_color(picture, part_colors(NAMES)[1])


def test_instances_carry_names_and_scores(texts: list) -> None:
    masks = np.zeros((2, 64, 64), bool)
    masks[0, 5:25, 5:60] = True
    masks[1, 35:60, 5:60] = True
    draw_instances(photo(64, 64), masks, [2, 2], NAMES, scores=[0.914, 0.5], boxes=[[5, 5, 60, 25], [5, 35, 60, 60]])
    assert sorted(text for text, _ in texts) == ["Dog Tail", "Dog Tail 50%", "Dog Tail 91%"]


def test_small_instances_lie_over_large_ones() -> None:
    masks = np.zeros((2, 32, 32), bool)
    masks[0, 12:20, 12:20] = True
    masks[1] = True
    picture = draw_instances(np.full((32, 32, 3), 128, np.uint8), masks, [0, 1], NAMES, alpha=1.0, legend=False)
    factor = picture.shape[0] // 32
    inner = picture[12 * factor : 20 * factor, 12 * factor : 20 * factor]
    assert share_of(inner, part_colors(NAMES)[0]) > 0.5


# ---------------------------------------------------------------- weak labels


def test_box_is_drawn_on_its_edges() -> None:
    picture = draw_weak_labels(np.full((64, 64, 3), 128, np.uint8), [1], NAMES, boxes=[[16, 16, 48, 48]], legend=False)
    factor = picture.shape[0] // 64
    color = part_colors(NAMES)[1]
    for x, y in ((16, 40), (48, 40), (32, 48)):
        assert share_of(picture[y * factor - 1 : y * factor + 2, x * factor - 1 : x * factor + 2], color) > 0.5
    assert share_of(picture[34 * factor : 46 * factor, 18 * factor : 46 * factor], color) == 0


def test_point_is_drawn_on_the_centre_of_its_pixel() -> None:
    picture = draw_weak_labels(np.full((64, 64, 3), 128, np.uint8), [1], NAMES, points=[[20, 30]], legend=False)
    factor = picture.shape[0] / 64
    x, y = round(20.5 * factor), round(30.5 * factor)
    assert share_of(picture[y - 2 : y + 3, x - 2 : x + 3], part_colors(NAMES)[1]) > 0.5


def mixed_labels() -> dict[str, Any]:
    """A box, a point and a mask of different classes, far from each other; what is of another kind is not drawn."""
    masks = np.ones((3, 64, 64), bool)
    masks[2] = False
    masks[2, 40:60, 36:60] = True
    boxes = [[4, 4, 28, 28], [np.nan] * 4, [0, 0, 64, 64]]
    points = [[50, 50], [50, 16], [10, 50]]
    return dict(kinds=["box", "point", "mask"], boxes=boxes, points=points, masks=masks)


def test_each_kind_of_a_mix_is_drawn_in_its_own_way(texts: list) -> None:
    picture = draw_weak_labels(np.full((64, 64, 3), 128, np.uint8), [0, 1, 2], NAMES, **mixed_labels(), legend=False)
    factor = picture.shape[0] // 64
    of_box, of_point, of_mask = part_colors(NAMES)[:3]

    def share(x0: float, y0: float, x1: float, y1: float, color: np.ndarray) -> float:
        x0, y0, x1, y1 = (round(v * factor) for v in (x0, y0, x1, y1))
        return share_of(picture[y0:y1, x0:x1], color)

    # The box has an edge (here the right one) and nothing in it but its name, which is at its upper left.
    assert share(27.8, 16, 28.2, 26, of_box) > 0.5 and share(6, 20, 26, 26, of_box) == 0
    # The point is a dot on the centre of its pixel.
    assert share(50.3, 16.3, 50.7, 16.7, of_point) > 0.5 and share(44, 16, 47, 17, of_point) == 0
    # The mask is filled, and nothing of the other labels' rows is.
    assert share(37, 41, 59, 59, of_mask) > 0.9 and share_of(picture, of_mask) < 1.3 * 20 * 24 / 64**2
    assert share(0, 40, 30, 64, of_mask) == share(0, 40, 30, 64, of_point) == 0
    assert sorted(text for text, _ in texts) == sorted(NAMES[:3])


def test_labels_that_are_all_of_one_kind_are_drawn_as_ever() -> None:
    image, labels = photo(64, 64), mixed_labels()
    boxes, points, masks = [[4, 4, 28, 28], [30, 8, 60, 50]], labels["points"][:2], labels["masks"][1:]
    given = dict(boxes=boxes, points=points, masks=masks)
    for kind, alone in (
        ("box", draw_weak_labels(image, [3, 1], NAMES, boxes=boxes)),
        ("point", draw_weak_labels(image, [3, 1], NAMES, points=points)),
        ("mask", draw_instances(image, masks, [3, 1], NAMES)),
    ):
        assert np.array_equal(draw_weak_labels(image, [3, 1], NAMES, **given, kinds=[kind] * 2), alone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": ["box", "point"]}, r"kinds: expected 3 .* got \['box', 'point'\]"),
        ({"kinds": ["box", "point", "scribble"]}, "kinds: expected 3 of 'box', 'point' and 'mask'.*'scribble'"),
        ({"boxes": None}, "boxes: expected one for label 0 of kind 'box', got None"),
        ({"points": None}, "points: expected one for label 1 of kind 'point', got None"),
        ({"masks": None}, "masks: expected one for label 2 of kind 'mask', got None"),
        ({"masks": np.zeros((3, 64, 32), bool)}, r"masks: expected \(3, 64, 64\) for 3 classes, got \(3, 64, 32\)"),
        ({"kinds": None}, "masks were given, so expected kinds, got None"),
    ],
)
def test_a_mix_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_weak_labels(photo(64, 64), [0, 1, 2], NAMES, **(mixed_labels() | change))


def test_names_never_cover_each_other(texts: list) -> None:
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 180, (12, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 70, (12, 2))], axis=1)
    draw_weak_labels(photo(256, 256), rng.integers(0, 4, 12), NAMES, boxes=boxes, legend=False)
    placed = [box for _, box in texts]
    assert len(placed) >= 8
    for one, other in itertools.combinations(placed, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)


def test_too_many_names_stand_in_the_legend_alone(texts: list) -> None:
    names = [f"a rather long part name {i}" for i in range(40)]
    part_map = np.arange(200)[:, None] // 40 * 8 + np.arange(320)[None] // 40
    draw_part_map(photo(200, 320), part_map, names)
    assert sorted(text for text, _ in texts) == sorted(names)  # once each: in the legend


# ---------------------------------------------------------------- side by side


def test_side_by_side_has_titles_and_says_what_was_missed(texts: list) -> None:
    truth = np.full((48, 32), 4)
    truth[:16], truth[16:32] = 0, 1
    prediction = np.where(truth == 1, 2, truth)
    picture = side_by_side(photo(48, 32), truth, prediction, NAMES)
    said = [text for text, _ in texts]
    assert {"picture", "ground truth", "prediction"} <= set(said)
    assert said[said.index("Dog Body", said.index("prediction")) + 1] == " missed"
    assert said[len(said) - 1 - said[::-1].index("Dog Tail") + 1] == " extra"
    assert picture.shape[1] > 3 * 400  # in a row


def test_true_parts_without_a_mask_are_drawn_as_boxes_and_are_not_extra(texts: list) -> None:
    image, nothing, prediction = photo(48, 32), np.full((48, 32), 4), np.full((48, 32), 4)
    prediction[:16] = 0
    boxed = ([0, 1], np.array([[0, 0, 32, 16], [4, 20, 28, 40]]))
    drawn = side_by_side(image, nothing, prediction, NAMES, true_boxes=boxed)
    said = [text for text, _ in texts]
    assert " extra" not in said and said[-1] == " missed" and said[-2] == NAMES[1]
    assert said.count(NAMES[0]) == 3  # over its box, over its mask, and in the legend
    bare = side_by_side(image, nothing, prediction, NAMES)
    assert texts[-1][0] == " extra"
    # The middle third holds the unfaded photo with boxes, instead of a faded one without.
    colors = part_colors(NAMES)
    middles = [one[:, one.shape[1] // 3 : 2 * one.shape[1] // 3] for one in (drawn, bare)]
    assert [bool((middle == colors[1]).all(-1).any()) for middle in middles] == [True, False]
    with pytest.raises(ValueError, match=r"true_boxes: expected \[1, 4\] for 1 classes"):
        side_by_side(image, nothing, prediction, NAMES, true_boxes=([0], np.zeros((2, 4))))


def test_wide_pictures_stand_below_each_other_and_without_ground_truth_there_are_two(texts: list) -> None:
    picture = side_by_side(photo(20, 400), None, np.zeros((20, 400), int), NAMES, titles=("in", "", "out"))
    assert picture.shape[0] > 2 * 40 and picture.shape[1] < 2 * 800
    assert {"in", "out"} <= {text for text, _ in texts}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 8000), (8000, 20), (2, 3)])
def test_extreme_sizes_stay_readable(height: int, width: int, texts: list) -> None:
    image = np.full((height, width, 3), 90, np.uint8)
    part_map = np.zeros((height, width), int)
    for draw in (
        lambda: side_by_side(image, part_map, part_map, NAMES),
        lambda: draw_weak_labels(image, [0], NAMES, boxes=[[0, 0, width, height]]),
    ):
        picture = draw()
        assert picture.dtype == np.uint8 and picture.ndim == 3
        # Text grows with the picture, and lies inside it.
        tallest = max(box[3] - box[1] for _, box in texts)
        assert tallest >= 0.0075 * max(picture.shape[:2])
        assert all(box[0] >= 0 and box[1] >= 0 for _, box in texts)
        assert max(box[2] for _, box in texts) <= picture.shape[1]
        assert max(box[3] for _, box in texts) <= picture.shape[0]
        texts.clear()


def test_large_photos_are_shrunk_with_their_masks() -> None:
    part_map = np.full((2250, 3000), 4)
    part_map[:, 1500:] = 3
    picture = draw_part_map(np.full((2250, 3000, 3), 128, np.uint8), part_map, NAMES, legend=False)
    assert picture.shape == (1536, 2048, 3)
    assert share_of(picture[:, 1030:], part_colors(NAMES)[3]) > 0.97


def test_no_parts_at_all() -> None:
    image = photo(30, 40)
    nothing = np.full((30, 40), 4)
    assert side_by_side(image, nothing, nothing, NAMES).size
    assert draw_instances(image, np.zeros((0, 30, 40), bool), [], NAMES).size
    assert draw_weak_labels(image, [], NAMES, boxes=np.zeros((0, 4))).size
    assert draw_weak_labels(image, [], NAMES, points=np.zeros((0, 2))).size
    assert draw_weak_labels(image, [], NAMES, kinds=[]).size
    assert draw_part_map(image, nothing, NAMES).shape == draw_part_map(image, nothing, NAMES, legend=False).shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_part_map(np.zeros((4, 4)), np.zeros((4, 4), int), NAMES), r"image: expected uint8 \[H, W, 3\]"),
        (lambda: draw_part_map(photo(4, 4), np.zeros((4, 5), int), NAMES), r"part map: expected integers \[4, 4\]"),
        (lambda: draw_part_map(photo(4, 4), np.zeros((4, 4)), NAMES), "got float64"),
        (lambda: draw_instances(photo(4, 4), np.zeros((2, 4, 4), bool), [0], NAMES), "for 1 classes"),
        (lambda: draw_instances(photo(4, 4), np.zeros((1, 4, 4), bool), [4], NAMES), r"ids in 0\.\.3, got \[4\]"),
        (lambda: draw_instances(photo(4, 4), np.zeros((1, 4, 4), bool), [0], NAMES, scores=[]), "expected 1 values"),
        (lambda: draw_weak_labels(photo(4, 4), [0], NAMES), "either boxes or points"),
        (lambda: draw_weak_labels(photo(4, 4), [0], NAMES, points=[[1, 2, 3]]), r"points: expected \[1, 2\]"),
        (lambda: side_by_side(photo(4, 4), None, np.zeros((4, 4), int), NAMES, titles=["a"]), "titles: expected three"),
    ],
)
def test_what_does_not_fit_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
