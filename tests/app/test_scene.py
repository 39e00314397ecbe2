"""What the page knows of a photo, without a page: a scene in, a scene out."""

from __future__ import annotations

from collections.abc import Sequence

from wps_sam.app import scene as scenes
from wps_sam.app.drawing import draw, label
from wps_sam.app.scene import Box, Scene
from wps_sam.prompt_evaluation import Click, PromptedPicture, load_encoder

import numpy as np
import pytest
from prediction.prediction_scenes import HalvesPredictor

LEFT, RIGHT, EAR = range(3)


class SquareAsk:
    """Answers with the box, else with a square of 3 x 3 pixels around each click inside; remembers the questions."""

    def __init__(self) -> None:
        self.asked: list[tuple[Box | None, tuple[Click, ...]]] = []

    def __call__(self, box: Box | None, clicks: Sequence[Click]) -> np.ndarray:
        self.asked.append((box, tuple(clicks)))
        mask = np.zeros((8, 12), bool)
        if box is not None:
            x0, y0, x1, y1 = map(int, box)
            mask[y0:y1, x0:x1] = True
        for x, y, inside in clicks:
            mask[max(0, int(y) - 1) : int(y) + 2, max(0, int(x) - 1) : int(x) + 2] = inside
        return mask


@pytest.fixture
def ask() -> SquareAsk:
    return SquareAsk()


@pytest.fixture
def scene(ask: SquareAsk) -> Scene:
    """8 x 12 pixels: the left half, sure 0.9, and the right one, 0.4."""
    (found,) = HalvesPredictor().predict_batch([np.full((8, 12, 3), 200, np.uint8)])
    return scenes.opened(found, ask, 0.3)


def names(scene: Scene) -> list[str]:
    return [scene.name_of(part) for part in scene.shown]


def test_confidence_and_hiding_leave_parts_out_and_bring_them_back(scene: Scene) -> None:
    assert names(scene) == ["left half", "right half"]
    sure = scenes.with_confidence(scene, 0.5)
    assert names(sure) == ["left half"] and names(scenes.with_confidence(sure, 0.2)) == names(scene)
    hidden = scenes.showing(scene, [1])
    assert names(hidden) == ["right half"] and len(hidden.listed) == 2
    assert names(scenes.showing(hidden, [0, 1])) == names(scene)
    # What is not there is neither shown nor hidden by a list that does not have it.
    assert names(scenes.with_confidence(scenes.showing(sure, [0]), 0.3)) == names(scene)


def test_the_smallest_part_under_a_click_is_chosen(scene: Scene) -> None:
    assert scenes.chosen_at(scene, 2, 2).chosen == 0 and scenes.chosen_at(scene, 11.9, 7.9).chosen == 1
    small = scenes.started(scene, EAR, Click(2, 2, True))
    assert scenes.chosen_at(small, 2, 2).chosen == small.chosen == 2
    assert scenes.chosen_at(scenes.showing(scene, [1]), 2, 2).chosen is None
    # A chosen part that is there no longer is chosen no longer.
    assert scenes.with_confidence(scenes.chosen_at(scene, 8, 2), 0.5).chosen is None


def test_a_click_asks_for_the_parts_box_and_all_clicks(scene: Scene, ask: SquareAsk) -> None:
    once = scenes.clicked(scenes.chosen_at(scene, 2, 2), Click(7, 3, True))
    # The left half is columns 0 to 5; the box grows so as to hold pixel 7.
    assert ask.asked == [((0, 0, 8, 8), (Click(7, 3, True),))]
    twice = scenes.clicked(once, Click(4, 4, False))
    assert ask.asked[1] == ((0, 0, 8, 8), (Click(7, 3, True), Click(4, 4, False)))
    part = twice.part(0)
    assert part is not None and part.by_hand and part.score == 1 and not part.mask[4, 4] and part.mask[0, 7]
    # One undo a click, and what was hidden since stays hidden.
    back = scenes.undone(scenes.showing(twice, [0]))
    assert back.part(0).clicks == (Click(7, 3, True),) and back.part(1).hidden
    assert np.array_equal(scenes.undone(back).part(0).mask, scene.part(0).mask)
    assert scenes.undone(scene) is scene


def test_a_box_starts_a_part_or_becomes_the_chosen_ones(scene: Scene, ask: SquareAsk) -> None:
    new = scenes.started(scene, EAR, (1.0, 1.0, 3.0, 4.0))
    assert names(new) == ["left half", "right half", "dog's ear"] and new.chosen == 2
    assert new.part(2).mask.sum() == 6
    other = scenes.boxed(scenes.clicked(new, Click(1, 1, True)), (8.0, 0.0, 10.0, 2.0))
    assert ask.asked[-1] == ((8.0, 0.0, 10.0, 2.0), ()) and other.part(2).mask.sum() == 4
    # A confidence that nobody has leaves what is made by hand.
    assert names(scenes.with_confidence(other, 1)) == ["dog's ear"]


def test_the_result_is_what_is_shown(scene: Scene) -> None:
    as_found = scenes.result(scene)
    assert np.array_equal(as_found.part_map, scene.found.part_map) and as_found.names == scene.found.names
    new = scenes.started(scene, EAR, (4.0, 0.0, 8.0, 8.0))
    result = scenes.result(new)
    assert result.names == ["dog's ear", "left half", "right half"] and result.scores[0] == 1
    assert result.boxes[0].tolist() == [4, 0, 8, 8]
    expected = np.repeat([[0] * 4 + [2] * 4 + [1] * 4], 8, axis=0)
    assert np.array_equal(result.part_map, expected)
    only_new = scenes.result(scenes.showing(new, [2]))
    assert only_new.names == ["dog's ear"] and np.array_equal(only_new.part_map == 3, expected != 2)


def test_what_a_hidden_part_lay_on_is_seen(scene: Scene) -> None:
    # The right half's part also reaches under all of the left one's.
    found = scene.found
    found.coarse_masks[1] = True
    without = scenes.result(scenes.showing(scenes.opened(found, scene.ask, 0.3), [1]))
    assert (without.part_map == RIGHT).all()


def test_mistakes_are_told(scene: Scene) -> None:
    with pytest.raises(ValueError, match="no part is chosen: click on one"):
        scenes.clicked(scene, Click(1, 1, True))
    with pytest.raises(ValueError, match="SAM sees no dog's ear there"):
        scenes.started(scene, EAR, Click(1, 1, False))


@pytest.mark.parametrize("arch", ["mobile_test", "hq_test", "sam2_test", "edgetam_test", "sam3_test"])
def test_a_segmenter_of_any_family_answers_clicks_and_boxes(arch: str, tiny_encoders: dict[str, str]) -> None:
    """With the mask that it has for that prompt, at the photo's size, whose shape is not that of its square."""
    encoder = load_encoder(arch, tiny_encoders[arch])
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    (found,) = HalvesPredictor().predict_batch([image])
    opened = scenes.opened(found, scenes.asker(encoder, found), 0.3)
    asked = ((1.0, 1.0, 9.0, 7.0), (Click(4, 3, True), Click(10, 2, False)))
    answer = opened.ask(*asked)
    assert answer.shape == (8, 12) and np.array_equal(answer, PromptedPicture(encoder, image).mask(*asked))


def test_the_drawing_has_a_shape_for_each_part_with_its_name(scene: Scene) -> None:
    new = scenes.started(scene, EAR, Click(2, 2, True))
    drawn = draw(new)
    assert drawn.index('data-number="0"') < drawn.index('data-number="2"')
    assert 'data-name="3. dog&#x27;s ear, by hand"' in drawn and label(new, new.part(0)) == "1. left half, 0.90"
    assert 'viewBox="0 0 12 8"' in drawn and drawn.count("<circle") == 1 and drawn.count('class="chosen"') == 1
    # 3 x 3 pixels around pixel (2, 2), through the centres of those at its border.
    assert 'd="M1.5 1.5L1.5 3.5L3.5 3.5L3.5 1.5Z"' in drawn
    assert "<path" not in draw(scenes.showing(scene, [])) and "Drop a photo" in draw(None)
