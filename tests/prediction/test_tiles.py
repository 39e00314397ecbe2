"""Tiles find what is small, the whole picture what is large, and what several see is one part."""

from __future__ import annotations

from typing import Any

from wps_sam import PartPredictor, predictor
from wps_sam.prediction import PartPrediction
from wps_sam.prediction.tiles import merge_tiles, tile_rectangles

import numpy as np
import pytest

SIZE = 70
NAMES = ("button", "coat")
# Sides 40, of which 10 are shared: 0..40 and 30..70.
TILES = tile_rectangles(SIZE, SIZE, 2, 2)


def block(y0: int, x0: int, y1: int, x1: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def found(*parts: tuple[int, float, np.ndarray], shape: tuple[int, int] = (SIZE, SIZE)) -> PartPrediction:
    masks = np.stack([mask for *_, mask in parts]) if parts else np.zeros((0, *shape), bool)
    part_map = np.full(shape, len(NAMES))
    for c, _, mask in parts:
        part_map[mask] = c
    scores = np.array([score for _, score, _ in parts], np.float32)
    classes = np.array([c for c, *_ in parts], np.int64)
    image = np.zeros((*shape, 3), np.uint8)
    return PartPrediction(image, NAMES, classes, scores, masks, part_map, np.zeros((len(parts), 4), np.float32))


def merged(whole: PartPrediction, truth: list[tuple[int, float, np.ndarray]]) -> PartPrediction:
    """Every tile sees exactly what lies in it."""
    tiles = []
    for y0, x0, y1, x1 in TILES:
        inside = [(c, score, mask[y0:y1, x0:x1]) for c, score, mask in truth]
        inside = [part for part in inside if part[2].any()]
        tiles.append(((y0, x0, y1, x1), found(*inside, shape=(y1 - y0, x1 - x0))))
    return merge_tiles(whole, tiles)


def test_tiles_cover_the_picture_and_overlap() -> None:
    assert TILES == [(0, 0, 40, 40), (0, 30, 40, 70), (30, 0, 70, 40), (30, 30, 70, 70)]
    assert tile_rectangles(5, 7, 1, 1) == [(0, 0, 5, 7)]
    for height, width, rows, columns in [(100, 333, 3, 5), (1, 2, 3, 3)]:
        covered = np.zeros((height, width), bool)
        for y0, x0, y1, x1 in tile_rectangles(height, width, rows, columns):
            assert 0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width
            covered[y0:y1, x0:x1] = True
        assert covered.all()


@pytest.mark.parametrize(
    "button",
    [
        block(5, 5, 12, 12),  # In one tile.
        block(32, 32, 38, 38),  # Whole in all four.
        block(5, 31, 12, 38),  # Whole in two.
        block(5, 36, 12, 44),  # Cut off by the border of one, whole in its neighbour.
        block(20, 20, 27, 50),  # Longer than the overlap, cut off by both.
    ],
)
def test_a_small_part_is_found_once_wherever_it_lies(button: np.ndarray) -> None:
    parts = merged(found(), [(0, 0.7, button)])
    assert parts.names == ["button"] and parts.scores[0] == pytest.approx(0.7)
    assert np.array_equal(parts.masks[0], button) and np.array_equal(parts.part_map == 0, button)
    rows, columns = np.flatnonzero(button.any(1)), np.flatnonzero(button.any(0))
    assert parts.boxes[0].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_a_small_part_stands_in_the_place_of_what_the_whole_picture_made_of_it() -> None:
    parts = merged(found((0, 0.9, block(5, 5, 13, 13))), [(0, 0.7, block(6, 6, 13, 14))])
    assert parts.names == ["button"] and np.array_equal(parts.masks[0], block(6, 6, 13, 14))
    assert np.array_equal(parts.part_map == 0, parts.masks[0])


def test_of_large_parts_the_whole_picture_speaks() -> None:
    coat, button = block(5, 5, 65, 65), block(10, 10, 14, 14)
    # Tiles see pieces of the coat; one of them takes the whole of its corner for a button.
    whole = found((1, 0.8, coat))
    parts = merged(whole, [(1, 0.9, coat), (0, 0.6, button), (0, 0.9, block(0, 40, 30, 70))])
    assert parts.names == ["coat", "button"]
    assert np.array_equal(parts.masks[0], coat) and np.array_equal(parts.masks[1], button)
    assert np.array_equal(parts.part_map, np.where(button, 0, np.where(coat, 1, 2)))
    # A small piece of the coat in a corner of a tile is no coat of its own.
    assert merged(whole, [(1, 0.9, block(60, 60, 65, 65))]).names == ["coat"]


def test_a_piece_that_no_neighbour_confirms_goes() -> None:
    tiles = [(TILES[0], found((0, 0.9, block(5, 35, 12, 40)[:40, :40]), shape=(40, 40)))]
    tiles += [(rectangle, found(shape=(40, 40))) for rectangle in TILES[1:]]
    assert len(merge_tiles(found(), tiles)) == 0


def test_what_the_whole_picture_alone_finds_stays() -> None:
    whole = found((1, 0.8, block(5, 5, 65, 65)), (0, 0.5, block(50, 50, 54, 54)))
    parts = merged(whole, [])
    assert parts.names == ["coat", "button"] and np.array_equal(parts.part_map, whole.part_map)


def test_the_predictor_asks_for_every_tile(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:

    find = PartPredictor(tiny_model.config_file, tiny_model.safetensors, tiles=(2, 2))
    asked = []
    forward = find.model.forward
    monkeypatch.setattr(find.model, "forward", lambda inputs: asked.extend(inputs) or forward(inputs))
    monkeypatch.setattr(predictor, "WORKING_PIXELS", 70 * 70)
    parts = find(np.random.default_rng(0).integers(0, 256, (140, 140, 3), dtype=np.uint8))
    assert [(x["height"], x["width"]) for x in asked] == [(70, 70)] + [(40, 40)] * 4
    assert parts.part_map.shape == (140, 140) and parts.coarse_map.shape == (70, 70)
    with pytest.raises(ValueError, match=r"tiles: expected rows and columns of 1 or more, got 2"):
        PartPredictor(tiny_model.config_file, tiny_model.safetensors, tiles=2)
    with pytest.raises(ValueError, match=r"tiles: expected rows and columns of 1 or more, got \(0, 2\)"):
        PartPredictor(tiny_model.config_file, tiny_model.safetensors, tiles=(0, 2))
