"""What makes maps: prototypes by hand, and the affinity of another network's features."""

from __future__ import annotations

from wps_sam.encoders.clip import ImageView, random_clip
from wps_sam.encoders.prompt_bank import FixedTexts
from wps_sam.encoders.semantic import build_semantic_encoder
from wps_sam.image_level.networks import CLIPNetwork, TagNetwork, cosine_affinity, prototype_maps
from wps_sam.image_level.settings import MapSettings

import numpy as np
import pytest
import torch

# Two kinds of patches in a 1 x 4 grid behind a class token that must not count.
PATCHES = torch.tensor([[[9.0, -9.0], [2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 3.0]]])
VIEW = ImageView((1, 4), PATCHES, 1, PATCHES.mean(1))


def test_prototypes_by_hand():
    """Sure is the first patch alone: inside (2, 0); outside the mean of the others, (1/3, 4/3), of length sqrt(17) / 3.
    The second patch, of which the map knew next to nothing, is like the first one."""
    (found,) = prototype_maps(VIEW, torch.tensor([[[1.0, 0.1, 0.0, -2.0]]]), 0.5)
    root = 17**0.5
    expected = torch.tensor([[1 - 1 / root, 1 - 1 / root, -4 / root, -4 / root]])
    assert torch.allclose(found, expected, atol=1e-6)
    cosines_to_the_inside_alone = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert not torch.allclose(found, cosines_to_the_inside_alone, atol=0.1)


def test_prototypes_are_sure_by_the_maps_own_range():
    maps = torch.tensor([[[5.0, 1.0, 1.0, 3.0]], [[1.0, 1.0, 5.0, 5.0]]])
    scaled = prototype_maps(VIEW, torch.stack([7 * maps[0], maps[1]]), 0.6)
    assert torch.equal(scaled, prototype_maps(VIEW, maps, 0.6))
    assert scaled[1, 0, 2] > 0 > scaled[1, 0, 0]
    level = torch.full((1, 1, 4), 0.3)
    assert torch.equal(prototype_maps(VIEW, level, 0.6), level), "sure of nothing"
    assert prototype_maps(VIEW, maps[:0], 0.6).shape == (0, 1, 4)


def test_affinity_is_of_angles_and_sharp():
    found = cosine_affinity(torch.tensor([[[1.0, 0.0], [3.0, 3.0], [-1.0, 0.0]]]))[0]
    # cos 45 degrees to the fourth is 1/4; what is opposed passes nothing.
    assert torch.allclose(found, torch.tensor([[1.0, 0.25, 0.0], [0.25, 1.0, 0.25 * 0], [0.0, 0.0, 1.0]]), atol=1e-6)


@pytest.fixture(scope="module")
def network():
    clip = random_clip()
    companion = TagNetwork(build_semantic_encoder("dinov2", "", 0, 64))
    return CLIPNetwork(clip, FixedTexts(clip, ["dog", "cat", "sky"]), 2, 0, companion)


def picture():
    """Left half black, right half bright noise."""
    image = np.random.default_rng(0).integers(90, 255, (48, 96, 3)).astype(np.uint8)
    image[:, :48] = 0
    return image


def test_clips_maps_are_passed_on_by_another_networks_features(network):
    view = network.view(picture(), "cosine")
    assert view.grid == (3, 6) and view.affinity.shape == (1, 18, 18)
    assert torch.allclose(view.affinity[0].diagonal(), torch.ones(18), atol=1e-5)
    between = view.affinity[0].unflatten(0, (3, 6)).unflatten(2, (3, 6))
    alike, other = between[1, 0, 1, 1], between[1, 0, 1, 5]
    assert alike > other + 1e-3, "black is like black"
    assert not torch.allclose(view.affinity, network.view(picture(), "qk").affinity, atol=1e-3)
    assert torch.equal(view.features, network.view(picture()).features)


def test_without_backgrounds_what_is_absent_is_against_the_tags(network):
    assert network.others(torch.tensor([1])).tolist() == [2], "a named background, not the other class"
    alone = CLIPNetwork(network.clip, FixedTexts(network.clip, ["dog", "cat", "car"]), 3)
    assert alone.others(torch.tensor([1])).tolist() == [0, 2] and alone.others(torch.tensor([2, 0, 1])).tolist() == []
    # With nothing against it, the wrong variant, a single tag has no map at all.
    assert alone.maps(picture(), torch.tensor([1]), MapSettings()).abs().max() > 1e-6


def test_prototypes_are_the_last_step_of_maps(network):
    tags = torch.tensor([0, 1])
    plain = network.maps(picture(), tags, MapSettings(affinity="cosine"))
    last = network.maps(picture(), tags, MapSettings(affinity="cosine", prototypes=0.6))
    assert torch.allclose(last, prototype_maps(network.view(picture()), plain, 0.6), atol=1e-5)
    assert not torch.allclose(last, plain, atol=1e-3)
