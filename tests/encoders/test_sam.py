"""SAM behind the interface of promptable encoders: pictures, prompts, masks, identity."""

import dataclasses
import math
from types import SimpleNamespace

from wps_sam.encoders import SAMEncoder, build_encoder, build_sam, encoder_class
from wps_sam.encoders.build_sam import get_arch
from wps_sam.encoders.promptable import EncoderSpec, PromptableEncoder, ResizeLongestSide, check_levels, pad
from wps_sam.structures import Frame

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

SIZE = get_arch("vit_tiny").image_size


@pytest.fixture(scope="module")
def encoder():
    return SAMEncoder.from_sam(build_sam("vit_tiny"))


def _fourier(encoder, x, y):
    """SAM's position code of a pixel centre, written out."""
    unit = 2 * torch.tensor([(x + 0.5) / SIZE, (y + 0.5) / SIZE]) - 1
    angle = 2 * math.pi * (unit @ encoder.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
    return torch.cat([angle.sin(), angle.cos()])


def test_box_gives_its_two_corners(encoder):
    tokens = encoder.encode_prompts(boxes=torch.tensor([[10.0, 20.0, 110.0, 220.0]]))
    assert tokens.shape == (1, encoder.spec.box_tokens, encoder.spec.prompt_dim)
    embeddings = encoder.prompt_encoder.point_embeddings
    for i, (x, y) in enumerate([(10, 20), (110, 220)]):
        expected = _fourier(encoder, x, y) + embeddings[2 + i].weight[0]
        torch.testing.assert_close(tokens[0, i], expected, atol=1e-4, rtol=1e-4)
    # Adding the half pixel twice, the classic mistake, is another token.
    wrong = _fourier(encoder, 10.5, 20.5) + embeddings[2].weight[0]
    assert (tokens[0, 0] - wrong).abs().max() > 1e-3


def test_point_gives_itself_and_the_padding_token(encoder):
    tokens = encoder.encode_prompts(points=torch.tensor([[10.0, 20.0], [30.0, 40.0]]))
    assert tokens.shape == (2, encoder.spec.box_tokens, 256)
    expected = _fourier(encoder, 30, 40) + encoder.prompt_encoder.point_embeddings[1].weight[0]
    torch.testing.assert_close(tokens[1, 0], expected, atol=1e-4, rtol=1e-4)
    for i in range(2):
        assert torch.equal(tokens[i, 1], encoder.prompt_encoder.not_a_point_embed.weight[0])


def test_box_and_point_are_three_tokens(encoder):
    boxes, points = torch.tensor([[10.0, 20.0, 110.0, 220.0]]), torch.tensor([[30.0, 40.0]])
    tokens = encoder.encode_prompts(boxes=boxes, points=points)
    assert tokens.shape == (1, 3, 256)
    assert torch.equal(tokens[:, 0], encoder.encode_prompts(points=points)[:, 0])
    assert torch.equal(tokens[:, 1:], encoder.encode_prompts(boxes=boxes))


def test_several_points_a_prompt_are_inside_or_not(encoder):
    points = torch.tensor([[[10.0, 20.0], [30.0, 40.0]]])
    tokens = encoder.encode_prompts(points=points, inside=torch.tensor([[True, False]]))
    assert tokens.shape == (1, 3, 256)
    assert torch.equal(tokens[:, 0], encoder.encode_prompts(points=points[:, 0])[:, 0])
    outside = _fourier(encoder, 30, 40) + encoder.prompt_encoder.point_embeddings[0].weight[0]
    torch.testing.assert_close(tokens[0, 1], outside, atol=1e-4, rtol=1e-4)
    # The same place as a point inside is another token.
    assert (tokens[0, 1] - encoder.encode_prompts(points=points[:, 1])[0, 0]).abs().max() > 1e-3


def test_no_parts_and_bad_shapes(encoder):
    assert encoder.encode_prompts(boxes=torch.zeros(0, 4)).shape == (0, 2, 256)
    assert encoder.encode_prompts(points=torch.zeros(0, 2)).shape == (0, 2, 256)
    with pytest.raises(ValueError, match=r"boxes: expected \[K, 4\] in pixels, got a tensor \(3, 5\)"):
        encoder.encode_prompts(boxes=torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"points: expected \[K, 2\]"):
        encoder.encode_prompts(points=torch.zeros(3, 4))
    with pytest.raises(ValueError, match="expected boxes or points"):
        encoder.encode_prompts()


def test_gradients_reach_coordinates_and_no_weight(encoder):
    boxes = torch.tensor([[10.0, 20.0, 110.0, 220.0]], requires_grad=True)
    embedding = torch.randn(1, 256, SIZE // 16, SIZE // 16, generator=torch.Generator().manual_seed(0))
    prompts = [encoder.encode_prompts(boxes=boxes)]
    encoder.decode({"image_embedding": embedding}, prompts)[0].logits.sum().backward()
    assert boxes.grad.abs().min() > 0
    assert all(p.grad is None for p in encoder.parameters())


@pytest.mark.parametrize("height, width", [(512, 512), (333, 512), (512, 77)], ids=["square", "landscape", "portrait"])
@torch.no_grad()
def test_picture_to_mask_equals_sams_own_predictor(encoder, height, width):
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    predictor = SamPredictor(build_sam("vit_tiny"))
    predictor.set_image(picture)
    box, point = np.array([5.0, 20.0, 60.0, 120.0]), np.array([[30.0, 40.0]])
    square, frame = encoder.preprocess(torch.from_numpy(picture.transpose(2, 0, 1).copy()))
    features = encoder(square[None])
    torch.testing.assert_close(features["image_embedding"], predictor.get_image_embedding(), atol=1e-4, rtol=1e-4)
    _, _, single = predictor.predict(box=box, multimask_output=False, return_logits=True)
    _, quality, three = predictor.predict(point, np.array([1]), multimask_output=True, return_logits=True)
    of_box = encoder.decode(features, [encoder.encode_prompts(boxes=torch.from_numpy(box).float()[None])])[0]
    asked = [encoder.encode_prompts(points=torch.from_numpy(point).float())]
    of_point = encoder.decode(features, asked, multimask=True)[0]
    torch.testing.assert_close(of_box.logits[0], torch.from_numpy(single), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(of_point.logits[0], torch.from_numpy(three), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(of_point.iou[0], torch.from_numpy(quality), atol=1e-4, rtol=1e-4)
    assert (frame.height, frame.width, frame.top, frame.left) == (height, width, 0, 0)


def test_spec_is_what_the_built_encoder_does(tiny_cfg):
    cfg = tiny_cfg()
    kind = encoder_class(cfg)
    built, spec = build_encoder(cfg), kind.spec_of(cfg)
    assert built.spec.features == spec.features and built.image_size == spec.image_size == SIZE
    features = built(torch.zeros(1, 3, SIZE, SIZE))
    assert {name: tuple(value.shape[1:]) for name, value in features.items()} == spec.features
    assert {n: (s.channels, s.stride) for n, s in built.output_shape().items()} == {"image_embedding": (256, 16)}
    assert isinstance(spec.resize, ResizeLongestSide) and spec.resize.size == SIZE
    with pytest.raises(ValueError, match="unknown SAM 'vit_x'"):
        encoder_class(tiny_cfg("MODEL.SAM.ARCH", "vit_x"))


def test_padding_in_the_centre_is_the_authors(tiny_cfg):
    corner, centre = (build_encoder(tiny_cfg("MODEL.SAM.PADDING", way)) for way in ("bottom_right", "center"))
    picture = torch.randint(256, (3, 512, 100), dtype=torch.uint8)
    square, frame = centre.preprocess(picture)
    assert (frame.left, frame.top) == (206, 0)
    # Black borders before normalisation, zeros after it: the authors' way and SAM's.
    black = (-centre.pixel_mean / centre.pixel_std).flatten()
    torch.testing.assert_close(square[:, 0, 0], black)
    assert not corner.preprocess(picture)[0][:, :, 100:].any()


def test_a_picture_that_does_not_fit_is_refused(encoder):
    with pytest.raises(ValueError, match="100x600 does not fit the 512x512 square"):
        encoder.preprocess(torch.zeros(3, 600, 100, dtype=torch.uint8))


def test_without_an_image_encoder_nothing_is_encoded(tiny_cfg):
    cached = build_encoder(tiny_cfg("MODEL.SAM.FEATURES", "cache"))
    assert cached.image_encoder is None
    with pytest.raises(ValueError, match="MODEL.SAM.FEATURES is 'cache'"):
        cached(torch.zeros(1, 3, SIZE, SIZE))


def test_fingerprint_tells_weights_and_preprocessing_apart(tiny_cfg, monkeypatch):
    own = build_encoder(tiny_cfg())
    assert own.fingerprint() == build_encoder(tiny_cfg()).fingerprint()
    assert own.fingerprint() == build_encoder(tiny_cfg("MODEL.SAM.FEATURES", "cache")).fingerprint()
    # Rounding is no other encoder: features of both precisions serve one prompter.
    assert own.fingerprint() == build_encoder(tiny_cfg("MODEL.SAM.PRECISION", "bf16")).fingerprint()
    others = [
        build_encoder(tiny_cfg("MODEL.SAM.WEIGHTS", "shipped")),
        build_encoder(tiny_cfg("MODEL.SAM.PADDING", "center")),
        build_encoder(tiny_cfg("MODEL.PIXEL_MEAN", [0.0, 0.0, 0.0])),
    ]
    changed = build_encoder(tiny_cfg())
    changed.mask_decoder.iou_token.weight[0, 0] += 1
    fingerprints = [encoder.fingerprint() for encoder in (own, changed, *others)]
    monkeypatch.setattr("wps_sam.encoders.sam.VERSION", 10**6)
    fingerprints.append(build_encoder(tiny_cfg()).fingerprint())
    assert len(set(fingerprints)) == len(fingerprints)


def test_feature_settings_follow_what_features_follow_from(tiny_cfg):
    settings = SAMEncoder.feature_settings
    own = settings(tiny_cfg())
    assert own == settings(tiny_cfg("MODEL.DEVICE", "meta", "MODEL.PROMPTER.NUM_CLASSES", 5))
    for key, value in (
        ("MODEL.SAM.WEIGHTS", "shipped"),
        ("MODEL.SAM.PADDING", "center"),
        ("MODEL.SAM.PRECISION", "bf16"),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]),
    ):
        assert [name for name, other in settings(tiny_cfg(key, value)).items() if own[name] != other] == [key]


def test_arch_alone_chooses_the_encoder(tiny_cfg):
    assert encoder_class(tiny_cfg()) is SAMEncoder
    # Configurations of runs before hold the name of the only encoder that there was.
    assert encoder_class(tiny_cfg("MODEL.BACKBONE.NAME", "SAMEncoder")) is SAMEncoder
    with pytest.raises(ValueError, match=r"MODEL\.BACKBONE\.NAME is 'SAMImageEncoder', and no such encoder"):
        encoder_class(tiny_cfg("MODEL.BACKBONE.NAME", "SAMImageEncoder"))


def test_what_encoders_say_of_themselves_cannot_be_changed(encoder):
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoder.spec.image_size = 1
    assert encoder.padding_constraints == {"square_size": SIZE}


def test_strides_are_whole():
    """Of 1008 pixels 72 cells have 14 each; of 1000 they have 13 and something."""
    spec = EncoderSpec(1000, ResizeLongestSide(1000), {"a": (4, 72, 72)}, 2, 2, 256, 250)
    shape = PromptableEncoder.output_shape(SimpleNamespace(spec=spec, image_size=spec.image_size))["a"]
    assert shape.stride == 13 and isinstance(shape.stride, int)


def test_a_frame_inside_of_its_square_is_padded_on_all_sides():
    square = pad(torch.ones(1, 2, 3), Frame(8, 2, 3, top=1, left=4))
    expected = torch.zeros(1, 8, 8)
    expected[:, 1:3, 4:7] = 1
    assert torch.equal(square, expected)


def test_what_has_no_name_or_no_second_level_is_told():
    with pytest.raises(NotImplementedError, match="PromptableEncoder is built by a configuration alone"):
        PromptableEncoder.load("mine")
    check_levels("coarse", "")
    check_levels("all", "it would be SAM")
    with pytest.raises(ValueError, match="LEVELS is 'coarse', but it would be SAM; leave it at 'all'"):
        check_levels("coarse", "it would be SAM")
