"""SAM prompted with the truth: a stub whose masks are known, and agreement with the predictor of segment_anything."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from wps_sam import prompt_evaluation
from wps_sam.data import register_descriptions
from wps_sam.data.synthetic import generate
from wps_sam.encoders import MaskPredictions, SAMEncoder, build_sam
from wps_sam.encoders.frozen import hash_tensors
from wps_sam.masks import deepest_pixel, mask_to_box
from wps_sam.prompt_evaluation import (
    KINDS,
    LabelledPicture,
    PromptedPicture,
    PromptScores,
    dataset_pictures,
    load_encoder,
    score_prompts,
    synthetic_pictures,
    weights_hash,
)

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from segment_anything import SamPredictor
from segment_anything.modeling import PromptEncoder, Sam
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = Path(os.environ.get("WPS_SAM_CCP_PARTS") or ROOT.parent / "shared" / "data" / "ccp_parts")

# The stub's square; pictures are twice as large, so that coordinates and masks have to be scaled.
SIDE = 32
# y0, y1, x0, x1
Rectangle = tuple[int, int, int, int]


# ---------------------------------------------------------------- a SAM whose answers are known


class StubEncoder(SAMEncoder):
    """Passes prompts on as they come: tokens [K, 1, 6] of x0, y0, x1, y1, x, y; -1 for what was not given.

    A box gets the filled box, a point the rectangles of ``drawn``, the single mask first, both ``drawn_for_both``.
    """

    def __init__(
        self,
        drawn: Sequence[Rectangle] = ((0, 0, 0, 0),) * 4,
        drawn_for_both: Rectangle = (0, 0, 0, 0),
        rated: Sequence[float] = (0,) * 3,
    ) -> None:
        small = PromptEncoder(embed_dim=4, image_embedding_size=(2, 2), input_image_size=(SIDE, SIDE), mask_in_chans=4)
        super().__init__(image_encoder=None, prompt_encoder=small, mask_decoder=nn.Identity())
        self.drawn, self.drawn_for_both, self.rated = drawn, drawn_for_both, rated
        self.seen: list[torch.Tensor] = []
        self.tokens: list[torch.Tensor] = []

    def encode(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen.append(images)
        return {"image_embedding": images.new_zeros(len(images), 1, 2, 2)}

    def encode_prompts(
        self,
        *,
        boxes: torch.Tensor | None = None,
        points: torch.Tensor | None = None,
        inside: torch.Tensor | None = None,
    ) -> torch.Tensor:
        count = len(points if boxes is None else boxes)
        boxes = torch.full((count, 4), -1.0) if boxes is None else boxes
        points = torch.full((count, 2), -1.0) if points is None else points
        return torch.cat([boxes, points], dim=1)[:, None]

    def decode(self, features, prompts, multimask: bool = False) -> list[MaskPredictions]:
        (tokens,) = prompts
        self.tokens.append(tokens)
        logits = torch.full((len(tokens), 3 if multimask else 1, SIDE, SIDE), -1.0)
        for k, (x0, y0, x1, y1, x, _) in enumerate(tokens[:, 0].round().int().tolist()):
            if x0 < 0:
                rectangles = self.drawn[1:] if multimask else self.drawn[:1]
            else:
                rectangles = [(y0, y1, x0, x1) if x < 0 else self.drawn_for_both]
            for mask, (top, bottom, left, right) in zip(logits[k], rectangles):
                mask[top:bottom, left:right] = 1
        iou = torch.tensor(self.rated, dtype=torch.float32).expand(len(tokens), 3)
        return [MaskPredictions(logits, iou if multimask else None)]


def rectangle(y0: int, y1: int, x0: int, x1: int, shape: tuple[int, int] = (32, 64)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def picture_of(*masks: np.ndarray) -> LabelledPicture:
    image = np.full((*masks[0].shape, 3), 128, np.uint8)
    return LabelledPicture(image, list(masks), list(range(len(masks))))


def l_shape() -> np.ndarray:
    """Three quarters of the box 8..24 x 16..48: 384 of 512 pixels; with its filled box it has IoU 3/4."""
    mask = rectangle(8, 24, 16, 48)
    mask[8:16, 32:48] = False
    return mask


# ---------------------------------------------------------------- scores


def test_perfect_masks_score_one_by_every_kind() -> None:
    """A wide and a high picture, halved for the square: rows or columns 16..31 of the square are padding."""
    for shape in ((32, 64), (64, 32)):
        mask = rectangle(8, 24, 4, 28, shape)
        there = (4, 12, 2, 14)
        sam = StubEncoder([there] * 4, there)
        assert score_prompts(sam, [picture_of(mask)]).mean() == dict.fromkeys(KINDS, 1.0)


def test_each_kind_takes_its_own_mask() -> None:
    """The piece is 16 x 32 pixels, so 8 x 16 in the square; every mask of it has another IoU, known by counting.

    Of a point the single mask is half of it (1/2) and the others a quarter, three quarters and an eighth (1/4, 3/4,
    1/8); SAM rates the one of 1/4 best. Box and point give a mask twice as large.
    """
    piece = rectangle(8, 24, 16, 48)
    drawn = [(4, 12, 8, 16), (4, 12, 8, 12), (4, 12, 8, 20), (4, 12, 8, 10)]
    sam = StubEncoder(drawn, (0, 16, 8, 24), rated=[0.8, 0.1, 0.5])
    assert score_prompts(sam, [picture_of(piece)]).mean() == {
        "filled_box": 1.0,
        "box": 1.0,
        "point": 0.5,
        "point_best_of_3": 0.75,
        "point_chosen_of_3": 0.25,
        "box_and_point": 0.5,
    }
    # Another rating, another choice; nothing else changes.
    sam.rated = [0.1, 0.2, 0.5]
    scores = score_prompts(sam, [picture_of(piece)]).mean()
    assert scores["point_chosen_of_3"] == 0.125 and scores["point_best_of_3"] == 0.75


def test_a_filled_box_is_scored_against_the_pixels_of_the_piece() -> None:
    # The stub answers a box with the filled box, whose IoU is that of the box itself: 384 / 512.
    scores = score_prompts(StubEncoder(), [picture_of(l_shape())], kinds=("box", "filled_box"))
    assert scores.mean() == {"filled_box": 0.75, "box": 0.75}
    assert scores.long_sides.tolist() == [32.0]


def test_prompts_reach_the_square_as_the_package_scales_them() -> None:
    """64 x 32 pixels to 32 x 16: the box 16, 8, 48, 24 to 8, 4, 24, 12, the point (23, 15) to (11.5, 7.5)."""
    sam = StubEncoder([(0, 0, 0, 0)] * 4)
    score_prompts(sam, [picture_of(l_shape())])
    box, both, point, again = (tokens[0, 0].tolist() for tokens in sam.tokens)
    x, y = deepest_pixel(l_shape())
    assert box == [8, 4, 24, 12, -1, -1]
    assert both == [8, 4, 24, 12, x / 2, y / 2]
    assert point == again == [-1, -1, -1, -1, x / 2, y / 2]


def test_each_axis_has_its_own_scale() -> None:
    # 63 x 32 pixels become 32 x int(32 * 32 / 63 + 0.5) = 32 x 16: 32/63 across, but exactly 1/2 down.
    sam = StubEncoder()
    score_prompts(sam, [picture_of(rectangle(8, 24, 21, 63, (32, 63)))], kinds=["box"])
    assert sam.tokens[0][0, 0, :4].tolist() == pytest.approx([32 / 3, 4, 32, 12])


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("_scaled", lambda self, coords: torch.from_numpy(coords.astype(np.float32))),
        ("_scaled", lambda self, coords: torch.from_numpy((coords * self.scale)[..., ::-1].astype(np.float32))),
        (
            "resize_mask",
            lambda mask, frame, *size: nn.functional.interpolate(mask[None, None], size, mode="bilinear")[0, 0],
        ),
    ],
    ids=["unscaled", "x and y exchanged", "padding not cropped"],
)
def test_a_wrong_version_would_be_noticed(monkeypatch: pytest.MonkeyPatch, name: str, wrong: Callable) -> None:
    pictures = [picture_of(rectangle(8, 24, 16, 48))]
    assert score_prompts(StubEncoder(), pictures, kinds=["box"]).mean() == {"box": 1.0}
    monkeypatch.setattr(prompt_evaluation if name == "resize_mask" else PromptedPicture, name, wrong)
    assert score_prompts(StubEncoder(), pictures, kinds=["box"]).mean()["box"] < 0.7


def test_the_encoder_sees_the_normalised_picture_above_its_padding() -> None:
    image = np.empty((32, 64, 3), np.uint8)
    image[:, :32], image[:, 32:] = (10, 20, 30), (200, 150, 100)
    sam = StubEncoder()
    masks = [rectangle(8, 24, 16, 48)]
    score_prompts(sam, [LabelledPicture(image, masks, [0])], kinds=["box"])
    (seen,) = sam.seen
    assert seen.shape == (1, 3, SIDE, SIDE) and (seen[..., 16:, :] == 0).all()
    expected = (torch.tensor([10.0, 20, 30]) - sam.pixel_mean[:, 0, 0]) / sam.pixel_std[:, 0, 0]
    torch.testing.assert_close(seen[0, :, 5, 3], expected)
    # None at all is asked for what needs no SAM.
    score_prompts(sam, [LabelledPicture(image, masks, [0])], kinds=["filled_box"])
    assert len(sam.seen) == 1


def test_more_prompts_than_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven pieces, three at once, in their order: each has the IoU of its own share of its box."""
    monkeypatch.setattr(prompt_evaluation, "PROMPTS_AT_ONCE", 3)
    masks = []
    for k in range(7):
        mask = rectangle(8, 24, 8 * k, 8 * k + 8)
        mask[8 : 8 + 2 * k, 8 * k : 8 * k + 4] = False
        masks.append(mask)
    sam = StubEncoder()
    scores = score_prompts(sam, [picture_of(*masks)], kinds=["box"])
    assert scores.ious["box"].tolist() == [1 - k / 16 for k in range(7)]
    assert [len(tokens) for tokens in sam.tokens] == [3, 3, 1]


def test_what_is_not_asked_for_is_not_computed() -> None:
    sam = StubEncoder([(4, 12, 8, 24)] * 4)
    scores = score_prompts(sam, [picture_of(l_shape())], kinds=("point", "box"))
    # In the order of KINDS, whatever the order of the request.
    assert list(scores.ious) == ["box", "point"] and len(sam.tokens) == 2
    assert scores.table(["a"]).splitlines()[0].split() == ["mean", "IoU", "in", "percent", "pieces", "box", "point"]


def test_bad_input_is_refused() -> None:
    good = rectangle(8, 24, 16, 48)
    image = np.zeros((32, 64, 3), np.uint8)
    for kinds in ([], ["box", "boxes"]):
        with pytest.raises(ValueError, match="kinds: expected some of"):
            score_prompts(StubEncoder(), [picture_of(good)], kinds)
    with pytest.raises(ValueError, match="no piece to prompt for"):
        score_prompts(StubEncoder(), [LabelledPicture(image, [], [])])
    with pytest.raises(ValueError, match="picture 1: 1 masks, but 2 classes"):
        score_prompts(StubEncoder(), [picture_of(good), LabelledPicture(image, [good], [0, 1])], ["box"])
    for bad in (good.T, np.zeros((32, 64), bool)):
        with pytest.raises(ValueError, match=r"picture 0: mask 0: expected \(32, 64\)"):
            score_prompts(StubEncoder(), [LabelledPicture(image, [bad], [0])])


# ---------------------------------------------------------------- the deepest pixel


def test_deepest_pixel_by_hand() -> None:
    # A single pixel; a 5 x 5 square, whose middle is 3 from the outside; one that fills the picture to its border.
    assert deepest_pixel(rectangle(2, 3, 6, 7)) == (6, 2)
    assert deepest_pixel(rectangle(10, 15, 20, 25)) == (22, 12)
    assert deepest_pixel(np.ones((5, 9), bool)) == (2, 2)
    # At the border: were the outside of the picture no outside, the corner (0, 0) would be the deepest.
    assert deepest_pixel(rectangle(0, 5, 0, 5)) == (2, 2)
    # A ring has no middle: the pixel lies in the ring, on its thicker side.
    ring = rectangle(4, 24, 4, 24)
    ring[8:20, 6:17] = False
    x, y = deepest_pixel(ring)
    assert ring[y, x] and 17 <= x < 24
    with pytest.raises(ValueError, match="empty mask"):
        deepest_pixel(np.zeros((4, 4), bool))


def test_deepest_pixel_measures_true_distances() -> None:
    """The middle of a 17 x 17 square is 9 from the outside, that of a disc sqrt(80), which ends 8 beside and 4 below.

    Along such a slant distances that are added up from steps come out too long. The disc has arms, because along
    an axis they do not.
    """
    mask = rectangle(4, 21, 40, 57, (30, 60))
    y, x = np.mgrid[-12:18, -14:46]
    mask |= (x**2 + y**2 < 80) | ((abs(x) <= 2) & (abs(y) <= 11)) | ((abs(y) <= 2) & (abs(x) <= 11))
    assert deepest_pixel(mask) == (48, 12)
    mask[:, 40:] = False
    assert deepest_pixel(mask) == (14, 12)


def test_deepest_pixel_is_as_far_from_the_outside_as_any() -> None:
    """Pieces of every shape, some at the border."""
    for picture in synthetic_pictures(4, 64):
        for mask in picture.masks:
            outside = np.argwhere(~np.pad(mask, 1)) - 1
            inside = np.argwhere(mask)
            distance = ((inside[:, None] - outside[None]) ** 2).sum(-1).min(axis=1)
            x, y = deepest_pixel(mask)
            assert distance[(inside == (y, x)).all(axis=1)] == distance.max()


# ---------------------------------------------------------------- the package's own predictor


@pytest.fixture(scope="module")
def random_sam() -> Sam:
    sam = build_sam("vit_tiny")
    # Random logits hardly change their sign within a picture; larger kernels make masks of them that have an edge.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for mlp in sam.mask_decoder.output_hypernetworks_mlps:
            mlp.layers[-1].weight.normal_(0, 1, generator=generator)
    return sam


def test_masks_are_those_of_the_packages_predictor(random_sam: Sam) -> None:
    """The same resize (Pillow's bilinear, antialiased) and the same arithmetic, but prompts decoded together."""
    size = random_sam.image_encoder.img_size
    picture = next(synthetic_pictures(1, max(64, size // 2)))
    # Not square, and of a side that is no simple multiple of the square's.
    image = np.ascontiguousarray(picture.image[: len(picture.image) * 5 // 7])
    boxes = np.array([[3.0, 5, 40, 31], [20, 10, 33, 44], [0, 0, 50, 20]])
    points = np.array([[12, 30], [40, 7], [25, 25]])
    predictor = SamPredictor(random_sam)
    predictor.set_image(image)
    with torch.inference_mode():
        prompted = PromptedPicture(SAMEncoder.from_sam(copy.deepcopy(random_sam)), image)
        asked = {
            "box": ((boxes, None), lambda k: {"box": boxes[k]}),
            "point": ((None, points), lambda k: {"point_coords": points[k : k + 1]}),
            "both": ((boxes, points), lambda k: {"box": boxes[k], "point_coords": points[k : k + 1]}),
        }
        covered = []
        for given_to_ours, prompt in asked.values():
            answers = zip(prompted.masks(*given_to_ours), prompted.masks(*given_to_ours, multimask=True))
            for k, ((of_single, _), (of_three, rated)) in enumerate(answers):
                masks = torch.cat([of_single, of_three])
                given = {"point_labels": np.ones(1), **prompt(k)} if "point_coords" in prompt(k) else prompt(k)
                single, _, _ = predictor.predict(**given, multimask_output=False)
                three, their_ratings, _ = predictor.predict(**given, multimask_output=True)
                expected = np.concatenate([single, three])
                assert masks.shape == expected.shape == (4, *image.shape[:2])
                # Rounding may turn a pixel whose logit is nearly zero.
                assert (masks.numpy() != expected).sum() <= 4
                np.testing.assert_allclose(rated, their_ratings, atol=1e-4)
                covered.append(expected.mean(axis=(1, 2)))
    # The comparison means something: masks have both sides, and prompts change them.
    assert ((np.array(covered) > 0.02) & (np.array(covered) < 0.98)).mean() > 0.5
    assert np.ptp(covered, axis=0).max() > 0.02


def test_bfloat16_changes_little(random_sam: Sam) -> None:
    pictures = list(synthetic_pictures(1, 64))
    full, half = load_encoder("vit_tiny", ""), load_encoder("vit_tiny", "", bf16=True)
    for encoder in (full, half):
        encoder.load_state_dict(random_sam.state_dict())
    expected = score_prompts(full, pictures)
    autocast = score_prompts(half, pictures, bf16=True)
    assert np.abs(autocast.ious["box"] - expected.ious["box"]).mean() < 0.1
    own = hash_tensors(sorted(random_sam.state_dict().items()))
    assert weights_hash(full) == own != weights_hash(load_encoder("vit_tiny", ""))
    with pytest.raises(ValueError, match="device 'nonsense': torch cannot use it"):
        load_encoder("vit_tiny", "", "nonsense")


# ---------------------------------------------------------------- means and the table


def known_scores() -> PromptScores:
    return PromptScores(
        category_ids=np.array([1, 0, 1, 1, 3]),
        long_sides=np.array([15.0, 16, 31, 128, 500]),
        ious={"filled_box": np.array([0.5, 0.6, 0.7, 0.8, 0.9]), "box": np.array([0.0, 1.0, 0.5, 0.25, 0.75])},
        pictures=2,
    )


def test_means_over_all_by_class_and_by_size() -> None:
    scores = known_scores()
    assert len(scores) == 5 and scores.mean() == pytest.approx({"filled_box": 0.7, "box": 0.5})
    assert scores.mean(scores.long_sides > 100) == pytest.approx({"filled_box": 0.85, "box": 0.5})
    assert all(np.isnan(v) for v in scores.mean(scores.long_sides > 1000).values())
    # A side of 16 pixels belongs to 16-32, one of 128 to the last group; the class "c" has no piece.
    by_size = scores.by_size()
    assert {name: means["pieces"] for name, means in by_size.items()} == {"<16": 1, "16-32": 2, ">=128": 2}
    assert by_size["16-32"] == pytest.approx({"pieces": 2, "filled_box": 0.65, "box": 0.75})
    by_class = scores.by_class(["a", "b", "c", "d"])
    assert list(by_class) == ["a", "b", "d"]
    assert by_class["b"] == pytest.approx({"pieces": 3, "filled_box": 2 / 3, "box": 0.25})


def test_the_table_and_the_dict_hold_the_same_means() -> None:
    scores = known_scores()
    names = ["a", "b", "c", "d"]
    lines = [line.split() for line in scores.table(names).splitlines()]
    assert lines[0] == ["mean", "IoU", "in", "percent", "pieces", "filled", "box", "box"]
    assert ["all", "5", "70.0", "50.0"] in lines
    assert ["16-32", "px", "2", "65.0", "75.0"] in lines and ["b", "3", "66.7", "25.0"] in lines
    # Heading, rule, one row for all, three sizes, three classes, and two empty rows between them.
    assert len(lines) == 2 + 1 + 3 + 3 + 2
    stored = json.loads(json.dumps(scores.as_dict(names)))
    assert stored["pictures"] == 2 and stored["pieces"] == 5
    assert stored["overall"] == scores.mean() and stored["by_size"] == scores.by_size()
    assert stored["by_class"] == scores.by_class(names)


# ---------------------------------------------------------------- pictures


def test_generated_pictures_are_those_that_training_never_draws() -> None:
    first, second = synthetic_pictures(2, 64)
    assert first.image.shape == (64, 64, 3) and not np.array_equal(first.image, second.image)
    assert len(first.masks) == len(first.category_ids) > 0
    assert np.array_equal(first.image, generate(1_000_000_000, 64).image)
    assert np.array_equal(second.image, generate(1_000_000_001, 64).image)
    with pytest.raises(ValueError, match="count: expected 1 or more pictures, got 0"):
        next(synthetic_pictures(0, 64))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture):
    """What the module logs, which other tests may have cut off from the root logger."""
    prompt_evaluation.logger.addHandler(caplog.handler)
    yield caplog
    prompt_evaluation.logger.removeHandler(caplog.handler)


@pytest.fixture
def of_tiny_parts(tiny_parts, monkeypatch: pytest.MonkeyPatch):
    """``of_tiny_parts(change)``: registers the validation records, each annotation changed by ``change``; the name."""
    register_descriptions([str(tiny_parts.description)])
    registered = []

    def register(change: Callable[[int, dict], dict]) -> str:
        name = f"prompted_parts_{len(registered)}"
        records = [
            {**r, "annotations": [change(a["id"], dict(a)) for a in r["annotations"]]}
            for r in DatasetCatalog.get(tiny_parts.split("val"))
        ]
        DatasetCatalog.register(name, lambda: records)
        registered.append(name)
        return name

    yield register
    for name in registered:
        DatasetCatalog.remove(name)


def test_data_sets_give_every_mask(tiny_parts) -> None:
    register_descriptions([str(tiny_parts.description)])
    records = DatasetCatalog.get(tiny_parts.split("val"))
    pictures = list(dataset_pictures(tiny_parts.split("val")))
    assert [p.category_ids for p in pictures] == [[a["category_id"] for a in r["annotations"]] for r in records]
    for picture, record in zip(pictures, records):
        assert picture.image.shape == (64, 64, 3) and picture.image.dtype == np.uint8
        for mask, annotation in zip(picture.masks, record["annotations"]):
            x, y, width, height = annotation["bbox"]
            assert mask_to_box(mask) == pytest.approx((x, y, x + width, y + height), abs=1.5)
    assert len(list(dataset_pictures(tiny_parts.split("val"), limit=1))) == 1
    with pytest.raises(ValueError, match="limit: expected 1 or more pictures, got 0"):
        dataset_pictures(tiny_parts.split("val"), limit=0)


def test_empty_masks_and_crowds_are_left_out(of_tiny_parts, log) -> None:
    """The first annotation's triangle lies between pixel centres; the second is a crowd, the third has no mask."""
    sliver = [[10.1, 10.1, 10.2, 10.1, 10.1, 10.2]]
    changes = {1: {"segmentation": sliver}, 2: {"iscrowd": 1}}

    def change(number: int, annotation: dict) -> dict:
        if number == 3:
            annotation.pop("segmentation")
        return annotation | changes.get(number, {})

    name = of_tiny_parts(change)
    pictures = list(dataset_pictures(name))
    # 4 pictures with 2, 1, 2, 1 parts: the second has no annotation left, the first no mask.
    assert [len(p.masks) for p in pictures] == [0, 2, 1]
    assert f"{name}: 1 of 4 masks are empty and left out" in log.text
    scores = score_prompts(StubEncoder(), pictures, kinds=["filled_box"])
    assert len(scores) == 3 and scores.pictures == 2


def test_a_data_set_without_masks_is_refused(of_tiny_parts) -> None:
    name = of_tiny_parts(lambda _, annotation: {k: v for k, v in annotation.items() if k != "segmentation"})
    with pytest.raises(ValueError, match=f"{name}: no annotation has a mask to prompt for"):
        dataset_pictures(name)
    name = of_tiny_parts(lambda _, annotation: annotation | {"iscrowd": 1})
    with pytest.raises(ValueError, match=f"{name}: no annotation has a mask to prompt for"):
        dataset_pictures(name)
    name = of_tiny_parts(lambda _, annotation: annotation | {"segmentation": []})
    with pytest.raises(ValueError, match=f"{name}: no annotation has a mask that covers a pixel"):
        score_prompts(StubEncoder(), dataset_pictures(name))
    with pytest.raises(ValueError, match="nowhere: no such data set; known: "):
        dataset_pictures("nowhere")


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="CCP parts not found; set WPS_SAM_CCP_PARTS")
def test_photos_have_boxes_that_their_masks_half_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WPS_SAM_CCP_PARTS", str(PHOTOS))
    register_descriptions([str(ROOT / "datasets" / "ccp_parts.yaml")])
    scores = score_prompts(StubEncoder(), dataset_pictures("ccp_parts_val", limit=3), kinds=["filled_box"])
    assert scores.pictures == 3 and len(scores) > 15
    assert 0.4 < scores.mean()["filled_box"] < 0.8
