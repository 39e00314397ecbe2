"""The opened CLIP: its own features where nothing is changed, exact derivatives, learned words in the right places."""

from __future__ import annotations

from wps_sam.encoders.clip import ATTENTION_KINDS, CLIP, attend, build_clip, random_clip

import pytest
import torch
from text_encoders import write_clip
from torch.nn import functional as F


@pytest.fixture(scope="module")
def clip() -> CLIP:
    found = random_clip()
    found.double()
    return found


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_tokens_are_the_librarys_own_at_its_own_size(clip):
    """At the size it was trained for nothing is interpolated; the class token alone is CLIP's own image feature."""
    vision = clip.model.vision_model
    picture = images(2, 3, 32, 32)
    states = vision(picture, output_hidden_states=True).hidden_states
    normed = vision.encoder.layers[-1].layer_norm1(states[-2])
    view = clip.look(picture)
    assert view.grid == (2, 2) and view.prefix == 1
    assert torch.allclose(view.activations, normed, atol=1e-12)
    patches = vision.post_layernorm(states[-1])[:, 1:].mean(1)
    expected = F.normalize(clip.model.visual_projection(patches), dim=-1)
    assert torch.allclose(view.features, expected, atol=1e-12)
    pooled = F.normalize(clip.model.get_image_features(picture).pooler_output, dim=-1)
    assert torch.allclose(clip.pooled(picture), pooled, atol=1e-12)
    assert not torch.allclose(view.features, pooled, atol=1e-3), "the mean of patches, not the class token"


def test_positions_are_interpolated_bilinearly(clip):
    picture = images(1, 3, 64, 96)
    view = clip.look(picture)
    assert view.grid == (4, 6) and view.activations.shape[1] == 25
    states = clip.model.vision_model(picture, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    bicubic = clip.model.vision_model.encoder.layers[-1].layer_norm1(states[-2])
    assert not torch.allclose(view.activations, bicubic, atol=1e-4)


def test_a_picture_alone_is_as_in_a_batch(clip):
    picture = images(3, 3, 32, 64)
    together = clip.look(picture, affinity="qk")
    alone = clip.look(picture[1:2], affinity="qk")
    assert torch.allclose(together.features[1:2], alone.features, atol=1e-12)
    assert torch.allclose(together.affinity[1:2], alone.affinity, atol=1e-12)


def test_affinity_is_the_attention_among_patches(clip):
    picture = images(1, 3, 32, 64)
    view = clip.look(picture, affinity="qk")
    clip.model.set_attn_implementation("eager")
    maps = clip.model.vision_model(picture, interpolate_pos_encoding=True, output_attentions=True).attentions
    clip.model.set_attn_implementation("sdpa")
    assert len(maps) == 4 and view.affinity.shape == (1, 8, 8)
    # Positions differ (bicubic there), so only the square of the trained size is the same.
    square = images(1, 3, 32, 32)
    clip.model.set_attn_implementation("eager")
    maps = clip.model.vision_model(square, output_attentions=True).attentions
    clip.model.set_attn_implementation("sdpa")
    expected = torch.stack([m.mean(1) for m in maps]).mean(0)[:, 1:, 1:].double()
    # Eager's softmax is float32 even here.
    assert torch.allclose(clip.look(square, affinity="qk").affinity, expected, atol=1e-6)
    kinds = [clip.look(square, affinity=kind).affinity for kind in ATTENTION_KINDS]
    assert all(not torch.allclose(kinds[0], other, atol=1e-4) for other in kinds[1:])


def test_the_last_block_has_a_second_derivative(clip):
    attention = clip.model.vision_model.encoder.layers[-1].self_attn
    tokens = images(1, 3, 48).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: attend(attention, x), (tokens,))


def test_sides_that_do_not_fit_are_refused(clip):
    with pytest.raises(ValueError, match="multiples of 16 pixels, got 40x32"):
        clip.look(images(1, 3, 32, 40))


def test_texts_are_the_librarys_own(clip):
    texts = ["a photo of a dog.", "an ear"]
    found = clip.text_features([clip.tokens_of(text) for text in texts])
    given = clip.tokenizer(texts, padding=True, return_tensors="pt")
    expected = clip.model.get_text_features(**given).pooler_output
    assert torch.allclose(found, F.normalize(expected, dim=-1), atol=1e-12)


def test_long_texts_are_refused(clip):
    with pytest.raises(ValueError, match="at most 75 tokens, got one of 76"):
        clip.text_features([[5] * 76])


def test_a_folder_loads_and_others_are_refused(tmp_path):
    clip = build_clip(write_clip(tmp_path / "clip"))
    assert clip.look(torch.zeros(1, 3, 16, 24)).features.shape == (1, 8)
    with pytest.raises(ValueError, match="nothing: no CLIP could be read"):
        build_clip(str(tmp_path / "nothing"))
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (tmp_path / "clip" / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="clip"):
        build_clip(str(tmp_path / "clip"))
