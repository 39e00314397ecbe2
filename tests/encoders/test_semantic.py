"""Semantic networks: official folders load, features are the library's own, and no other encoder is taken for one."""

from __future__ import annotations

import json

from wps_sam.checkpoint_conversion import write_timm
from wps_sam.encoders.semantic import build_semantic_encoder, normalised
from wps_sam.encoders.semantic_networks import TINY, read_network

import pytest
import timm
import torch
import transformers
from torch.nn import functional as F

CONVNEXT = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1]}
# Family, the class that wrote the folder, its configuration, pixels of a cell.
FOLDERS = {
    "dinov2": ("dinov2", "Dinov2Model", TINY | {"patch_size": 14}, 14),
    "dinov2 with registers": ("dinov2", "Dinov2WithRegistersModel", TINY | {"patch_size": 14}, 14),
    "dinov3": ("dinov3", "DINOv3ViTModel", TINY | {"num_register_tokens": 4}, 16),
    "dinov3 backbone": ("dinov3", "DINOv3ViTBackbone", TINY, 16),
    "clip": ("clip", "CLIPVisionModel", TINY | {"patch_size": 16, "image_size": 64}, 16),
    "siglip2 of one size": ("siglip2", "SiglipVisionModel", TINY | {"patch_size": 16, "image_size": 64}, 16),
    "siglip2": ("siglip2", "Siglip2VisionModel", TINY | {"patch_size": 16, "num_patches": 16}, 16),
    "tipsv2": ("tipsv2", "Tipsv2VisionModel", TINY | {"patch_size": 14, "image_size": 56}, 14),
    "radio": ("radio", "RadioModel", TINY, 16),
}
SQUARE = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``folder(name)``: of FOLDERS, written by the library, and the network that wrote it."""

    def write(name):
        _, class_name, sizes, _ = FOLDERS[name]
        path = tmp_path_factory.mktemp(class_name)
        torch.manual_seed(3)
        network_class = getattr(transformers, class_name)
        network = network_class(network_class.config_class(**sizes)).eval()
        network.save_pretrained(path)
        return path, network

    return write


def pictures():
    return torch.rand(2, 3, SQUARE, SQUARE, generator=torch.Generator().manual_seed(0)) * 255


def expected_tokens(name, network, images):
    """The library's own forward of normalised squares [B, 3, s, s]: tokens [B, any, D]."""
    if name == "siglip2":
        side = images.shape[-1] // 16
        patches = F.unfold(images, 16, stride=16).unflatten(1, (3, 256)).movedim(1, 2).flatten(1, 2).transpose(1, 2)
        shapes = torch.tensor([[side, side]] * len(images))
        return network(patches, torch.ones(patches.shape[:2], dtype=torch.int64), shapes).last_hidden_state
    if name == "dinov3 backbone":
        return network.forward(images, output_hidden_states=True).feature_maps[-1].flatten(2).transpose(1, 2)
    more = {"interpolate_pos_encoding": True} if name in ("clip", "siglip2 of one size") else {}
    return network(images, **more).last_hidden_state


MEANS = {
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip2": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "tipsv2": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
MEANS |= {"dinov3": MEANS["dinov2"], "radio": MEANS["tipsv2"]}


@pytest.mark.parametrize("name", FOLDERS)
def test_features_are_the_librarys_own(folder, name):
    family, _, _, patch = FOLDERS[name]
    path, network = folder(name)
    encoder = build_semantic_encoder(family, str(path), 0, SQUARE)
    side = SQUARE // 16
    assert encoder.image_size == side * patch and encoder.features == {"semantic_16": (32, side, side)}
    given = pictures()
    (feature,) = encoder(given).values()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in MEANS[family])
    scaled = F.interpolate(given, (side * patch,) * 2, mode="bicubic", antialias=True).clamp(0, 255) / 255
    with torch.no_grad():
        tokens = expected_tokens(name, network, (scaled - mean) / std)[:, -side * side :]
        unscaled = expected_tokens(name, network, scaled * 255)[:, -side * side :]
    expected = F.layer_norm(tokens, (32,)).transpose(1, 2).unflatten(2, (side, side))
    assert torch.allclose(feature, expected, atol=1e-4)
    # The comparison could have failed: of pictures that are not normalised, and of tokens in another order.
    assert not torch.allclose(
        feature, F.layer_norm(unscaled, (32,)).transpose(1, 2).unflatten(2, (side, side)), atol=0.1
    )
    assert not torch.allclose(feature, expected.transpose(2, 3), atol=0.1)


def test_convolutional_dinov3_gives_its_stages(tmp_path):
    network = transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig(**CONVNEXT)).eval()
    network.save_pretrained(tmp_path)
    encoder = build_semantic_encoder("dinov3", str(tmp_path), 0, SQUARE)
    assert encoder.features == {"semantic_8": (12, 12, 12), "semantic_16": (16, 6, 6), "semantic_32": (24, 3, 3)}
    found = encoder(pictures())
    assert {name: tuple(value.shape[1:]) for name, value in found.items()} == encoder.features


@pytest.mark.parametrize(
    ("family", "config_class", "model_class"),
    [("clip", "CLIPConfig", "CLIPModel"), ("siglip2", "SiglipConfig", "SiglipModel")],
)
def test_the_text_encoder_of_a_whole_folder_is_left_out(tmp_path, family, config_class, model_class):
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, config_class)(
        vision_config=TINY | {"patch_size": 16, "image_size": 64},
        text_config=text | {"vocab_size": 50, "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1},
    )
    whole = getattr(transformers, model_class)(config).eval()
    whole.save_pretrained(tmp_path)
    network = read_network(family, str(tmp_path))
    assert not any("text" in name for name, _ in network.named_parameters())
    images = pictures()[:, :, :64, :64] / 255
    with torch.no_grad():
        expected = whole.vision_model(images).last_hidden_state[:, -16:]
    assert torch.allclose(network(images)[0].flatten(2).transpose(1, 2), expected, atol=1e-5)


def test_a_folders_own_normalisation_is_taken(folder):
    path, _ = folder("dinov2")
    before = build_semantic_encoder("dinov2", str(path), 0, SQUARE)
    about = {"do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (path / "preprocessor_config.json").write_text(json.dumps(about))
    after = build_semantic_encoder("dinov2", str(path), 0, SQUARE)
    assert after.network.pixel_mean == (0.1, 0.2, 0.3) and after.network.pixel_std == (0.4, 0.5, 0.6)
    assert before.fingerprint() != after.fingerprint()


def test_any_network_of_timm(tmp_path):
    encoder = build_semantic_encoder("timm/resnet10t", "", 0, SQUARE)
    assert encoder.features == {"semantic_8": (128, 12, 12), "semantic_16": (256, 6, 6), "semantic_32": (512, 3, 3)}
    network = timm.create_model("resnet10t", features_only=True)
    network.load_state_dict(encoder.network.network.state_dict())
    given = pictures()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in MEANS["dinov2"])
    with torch.no_grad():
        expected = network.eval()((given / 255 - mean) / std)[2]
    assert torch.allclose(encoder(given)["semantic_8"], normalised(expected), atol=1e-4)
    # A file of the whole network, and a folder as on the hub.
    torch.manual_seed(5)
    whole = timm.create_model("resnet10t", num_classes=1000)
    torch.save(whole.state_dict(), tmp_path / "resnet10t.pth")
    write_timm(whole.state_dict(), str(tmp_path / "folder"), "resnet10t", {"num_classes": 1000})
    of_file = build_semantic_encoder("timm/resnet10t", str(tmp_path / "resnet10t.pth"), 0, SQUARE)
    of_folder = build_semantic_encoder("timm", str(tmp_path / "folder"), 0, SQUARE)
    assert of_file.fingerprint() == of_folder.fingerprint() != encoder.fingerprint()
    # A vision transformer has one map, at any size.
    assert build_semantic_encoder("timm/vit_tiny_patch16_224", "", 0, SQUARE).features == {"semantic_16": (192, 6, 6)}


def test_a_map_is_normalised_cell_by_cell():
    feature = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1) * torch.tensor([[1.0, 100.0]])[None, None]
    assert torch.allclose(normalised(feature)[0, :, 0], torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), atol=1e-4)


def test_the_size_at_which_it_looks_decides_the_grid():
    assert build_semantic_encoder("dinov3", "", 192, SQUARE).features == {"semantic_8": (32, 12, 12)}
    assert build_semantic_encoder("timm/mobilenetv2_100", "", 192, SQUARE).features["semantic_4"] == (32, 24, 24)
    with pytest.raises(ValueError, match=r"IMAGE_SIZE is 100; .* multiple of 16"):
        build_semantic_encoder("dinov3", "", 100, SQUARE)
    with pytest.raises(ValueError, match=r"expected \[B, 3, 96, 96\]"):
        build_semantic_encoder("dinov3", "", 0, SQUARE)(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("dino", "", r"NAME is 'dino'; allowed: 'dinov2'"),
        ("dinov2/small", "", r"NAME is 'dinov2/small'"),
        ("timm", "", r"NAME is 'timm': expected 'timm/ARCHITECTURE'"),
        ("timm/resnet10t", "nowhere.pth", r"WEIGHTS nowhere\.pth: the file does not exist"),
        ("timm/no_such_network", "", r"timm can't build 'no_such_network'"),
    ],
)
def test_what_is_no_network_is_refused(name, weights, message):
    with pytest.raises(ValueError, match=message):
        read_network(name, weights)


def test_a_folder_of_another_family_or_without_all_weights_is_refused(folder):
    path, network = folder("dinov2")
    with pytest.raises(ValueError, match=r"holds a network of the type 'dinov2', expected clip or clip_vision_model"):
        read_network("clip", str(path))
    state = network.state_dict()
    state.pop("layernorm.weight")
    network.save_pretrained(path, state_dict=state)
    with pytest.raises(ValueError, match=r"lacks 1 weights of Dinov2Model, the first 'layernorm\.weight'"):
        read_network("dinov2", str(path))


def test_random_weights_are_the_same_everywhere():
    one, two = (build_semantic_encoder("dinov2", "", 0, SQUARE).fingerprint() for _ in range(2))
    assert one == two
