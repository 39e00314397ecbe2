"""SAM-HQ, SAM 2.1, EdgeTAM and SAM 3: tiny random networks against transformers' own pictures-to-masks."""

import math
import re
from contextlib import contextmanager
from pathlib import Path

from wps_sam.data.feature_store import pack, unpack
from wps_sam.encoders import HuggingFaceSAM, all_archs, build_encoder, encoder_class, family_of
from wps_sam.encoders import hugging_face_networks as networks
from wps_sam.encoders.build_sam import key_differences
from wps_sam.encoders.hugging_face_networks import HUGGING_FACE_ARCHS, read_network
from wps_sam.encoders.official_names import OFFICIAL_NAMES
from wps_sam.inference.merge import resize_mask
from wps_sam.models.wps_sam import covered_shares
from wps_sam.prompt_evaluation import PromptedPicture, load_encoder, score_prompts, synthetic_pictures
from wps_sam.structures import Frame

import numpy as np
import pytest
import torch
import transformers
from detectron2.modeling import build_model
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from tests.tiny_encoders import TINY
from tests.tiny_wps_sam import make_inputs, tiny_config

OFFICIAL = Path(__file__).parent / "official_names"
WHICH_SAM = Path(__file__).resolve().parents[2] / "docs" / "which_sam.md"
SIZES = {"odd": (37, 51), "portrait": (90, 41), "landscape": (33, 120)}


@pytest.fixture(scope="module")
def folders(tiny_encoders):
    return {arch: Path(tiny_encoders[arch]) for arch in TINY}


@pytest.fixture(scope="module")
def encoders(folders):
    return {arch: HuggingFaceSAM.load(arch, str(folder)) for arch, folder in folders.items()}


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def processor_of(arch, size):
    square = {"height": size, "width": size}
    if arch == "hq_test":
        image = transformers.SamImageProcessor(size={"longest_edge": size}, pad_size=square)
        return transformers.SamHQProcessor(image)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if arch == "sam3_test" else {}
    return transformers.Sam2Processor(transformers.Sam2ImageProcessor(size=square, **half))


@contextmanager
def repaired(arch, network):
    """SamHQModel cuts masks out of the image from before its transformer, transposed: the transformer's own output is
    put where it is then read. It was compared with the authors' modules, too, on the same random weights. SAM 2's
    exchange of unstable masks is off, as it is here."""
    transformer = network.mask_decoder.transformer
    network.mask_decoder.dynamic_multimask_via_stability = False
    forward = transformer.forward

    def kept(image_embeddings, **more):
        queries, keys = forward(image_embeddings=image_embeddings, **more)
        image = keys.flatten(0, 1).transpose(1, 2).unflatten(2, image_embeddings.shape[-2:])
        image_embeddings.copy_(image.transpose(2, 3))
        return queries, keys

    if arch == "hq_test":
        transformer.forward = kept
    try:
        yield
    finally:
        transformer.forward = forward


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("arch", TINY)
def test_masks_are_the_librarys_own(arch, shape, encoders):
    encoder, (height, width), image = encoders[arch], SIZES[shape], picture(*SIZES[shape])
    boxes = np.array([[3.0, 4.0, 21.5, 30.0], [10.0, 0.0, 37.0, 11.0]])
    points = np.array([[12.0, 9.0], [33.0, 30.5]])
    asked = {"input_boxes": [boxes.tolist()]}, {"input_points": [[[p] for p in points.tolist()]]}
    prompted = PromptedPicture(encoder, image)
    square = encoder.preprocess(
        torch.from_numpy(encoder.spec.resize.get_transform(image).apply_image(image).copy()).permute(2, 0, 1)
    )[0]
    processor = processor_of(arch, encoder.image_size)
    for of_library, ours, tokens in zip(asked, ((boxes, None), (None, points)), (encoder.spec.box_tokens, 2)):
        for multimask in (False, True):
            given = processor(images=image, return_tensors="pt", **of_library)
            # It rounds pixels otherwise than PIL: by a level at most, or two for sums of both axes.
            assert (given["pixel_values"][0] - square).abs().max() < 2.1 / encoder.pixel_std.min()
            sizes = [given["original_sizes"]]
            sizes += [given["reshaped_input_sizes"]] if "reshaped_input_sizes" in given else []
            with torch.no_grad(), repaired(arch, encoder.network):
                output = encoder.network(
                    **{k: v.float() for k, v in given.items() if k in of_library},
                    pixel_values=square[None],
                    multimask_output=multimask,
                )
            masks = processor.post_process_masks(output.pred_masks, *sizes, binarize=False)[0]
            found = list(prompted.logits(*ours, multimask))
            assert torch.stack([logits for logits, _ in found]).std() > 0.01
            for k, (logits, iou) in enumerate(found):
                enlarged = torch.stack([prompted.enlarged(one) for one in logits])
                # Logits are in the tens; single ones near 0 have the rounding of those.
                close = 1e-5 * output.pred_masks.abs().max()
                assert (logits - output.pred_masks[0, k]).abs().max() < close
                assert (enlarged - masks[k]).abs().max() < close
                assert enlarged.shape[1:] == (height, width) and len(logits) == (3 if multimask else 1)
                if multimask:
                    torch.testing.assert_close(iou, output.iou_scores[0, k], atol=1e-5, rtol=1e-4)
        given = torch.from_numpy(ours[0] if ours[0] is not None else ours[1]).float()
        name = "boxes" if ours[0] is not None else "points"
        assert encoder.encode_prompts(**{name: given}).shape == (2, tokens, 256)


@pytest.mark.parametrize("arch", TINY)
def test_wrong_ways_give_other_masks(arch, encoders):
    encoder, image = encoders[arch], picture(*SIZES["portrait"])
    box = np.array([[3.0, 4.0, 21.5, 30.0]])

    def masks(tokens=lambda t: t, shift=0.0, seen=image, name="image_embedding", scale=1.0):
        prompted = PromptedPicture(encoder, seen)
        prompted.features[name] = prompted.features[name] * scale
        tokens = tokens(encoder.encode_prompts(boxes=prompted._scaled(box.reshape(-1, 2, 2)).flatten(1) + shift))
        return encoder.decode(prompted.features, [tokens])[0].logits

    right = masks()
    wrong = {
        "the half pixel twice": masks(shift=0.5),
        "one token less": masks(tokens=lambda t: t[:, :-1]),
        "one token more": masks(tokens=lambda t: torch.cat([t, t[:, -1:]], dim=1)),
        # Padded where it is scaled: half of the square is black.
        "another frame": masks(seen=np.pad(image, ((0, 0), (0, 49), (0, 0)))),
        **{f"without {name}": masks(name=name, scale=0.0) for name in encoder.spec.features},
    }
    for what, found in wrong.items():
        assert (found - right).abs().max() > 1e-3, what


def test_an_unstable_mask_is_not_exchanged(encoders):
    """Otherwise what a prompter learns from would not be the mask that its prompt gets."""
    encoder = encoders["sam2_test"]
    features = encoder.encode(torch.randn(1, 3, 64, 64))
    tokens = encoder.encode_prompts(boxes=torch.tensor([[3.0, 4.0, 21.5, 30.0]]))
    found = encoder.decode(features, [tokens])[0].logits
    decoder = encoder.network.mask_decoder
    decoder.dynamic_multimask_stability_thresh = 1.1
    for exchanged in (True, False):
        decoder.dynamic_multimask_via_stability = exchanged
        masks, *_ = decoder(
            image_embeddings=features["image_embedding"],
            image_positional_embeddings=encoder.network.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=tokens[None],
            dense_prompt_embeddings=encoder.network.prompt_encoder.no_mask_embed.weight[..., None, None],
            multimask_output=False,
            high_resolution_features=[features["high_res_0"], features["high_res_1"]],
        )
        assert ((masks[0] - found).abs().max() > 1e-3) == exchanged


def test_images_of_a_batch_are_decoded_alone_and_gradients_reach_prompts(encoders):
    for encoder in encoders.values():
        size = encoder.image_size
        features = encoder.encode(torch.randn(3, 3, size, size))
        boxes = torch.tensor([[3.0, 4.0, 21.5, 30.0], [1.0, 2.0, 30.0, 50.0]] * 3, requires_grad=True)
        prompts = [encoder.encode_prompts(boxes=b) for b in (boxes[:5], boxes[:0], boxes[5:])]
        found = encoder.decode(features, prompts, multimask=True)
        assert [m.logits.shape for m in found] == [(k, 3, *[encoder.spec.mask_size] * 2) for k in (5, 0, 1)]
        one = encoder.decode({name: f[2:] for name, f in features.items()}, prompts[2:], multimask=True)[0]
        close = 1e-5 * one.logits.abs().max().item()
        torch.testing.assert_close(found[2].logits, one.logits, atol=close, rtol=1e-4)
        found[0].logits.sum().backward()
        assert boxes.grad[:5].abs().min() > 0 and not boxes.grad[5:].any()
        assert not any(p.requires_grad for p in encoder.parameters())
        with pytest.raises(ValueError, match="3 images, but prompts for 2"):
            encoder.decode(features, prompts[:2])


def test_stretched_masks_take_one_step_and_padded_ones_two():
    logits = torch.randn(16, 16)
    one = F.interpolate(logits[None, None], (37, 51), mode="bilinear", align_corners=False)[0, 0]
    assert torch.equal(resize_mask(logits, Frame(64, 64, 64, stretched=True), 37, 51), one)
    assert (resize_mask(logits, Frame(64, 64, 64), 37, 51) - one).abs().max() > 1e-3


def test_cells_of_masks_may_cut_pixels():
    """7 pixels to 2 cells: of columns 0 to 2 the first cell, 3.5 wide, has 3; of rows 0 to 3 it has all."""
    mask = torch.zeros(1, 7, 7, dtype=torch.bool)
    mask[0, :4, :3] = True
    shares = covered_shares(mask, Frame(7, 7, 7, stretched=True), 2)
    torch.testing.assert_close(shares[0], torch.tensor([[3 / 3.5, 0.0], [0.5 / 3.5 * 3 / 3.5, 0.0]]))
    mask = torch.rand(2, 64, 64) > 0.5
    assert torch.equal(covered_shares(mask, Frame(64, 64, 64), 16), F.avg_pool2d(mask[:, None].float(), 4)[:, 0])


def test_sam_3_adds_no_memory_to_the_level_that_is_read(folders, encoders):
    """As its authors do; transformers, left alone, to one that is then dropped."""
    config = networks.config_of("sam3_test")
    whole = transformers.Sam3TrackerModel.from_pretrained(folders["sam3_test"], config=config).eval()
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        left_alone = whole.get_image_embeddings(images)
    ours = encoders["sam3_test"].encode(images)
    assert whole.no_memory_embedding.abs().mean() > 0.01
    expected = left_alone[-1] + whole.no_memory_embedding.view(1, -1, 1, 1)
    torch.testing.assert_close(ours["image_embedding"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours["high_res_0"], left_alone[0], atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- sizes and weights


# The rows of the table that people choose by.
ROWS = {
    cells[1].strip(" `"): [cell.strip() for cell in cells]
    for line in WHICH_SAM.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `") and len(cells := line.split("|")) == 10 and cells[1] != " `MODEL.SAM.ARCH` "
}


def test_the_table_has_every_sam():
    assert {arch for arch in all_archs() if not arch.endswith("_test")} == set(ROWS)


@pytest.mark.parametrize("arch", [arch for arch in ROWS if arch in HUGGING_FACE_ARCHS])
def test_published_sizes(arch):
    config = networks.config_of(arch)
    with torch.device("meta"):
        network = getattr(transformers, HUGGING_FACE_ARCHS[arch].family.model)(config)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert family_of(arch) is HuggingFaceSAM and arch in all_archs()
    cfg = tiny_config("MODEL.SAM.ARCH", arch)
    spec = encoder_class(cfg).spec_of(cfg)
    side = {"sam3": 1008}.get(arch, 1024)
    cells = side // (14 if arch == "sam3" else 16)
    beside = (
        {"hq_features": (32, 4 * cells, 4 * cells)}
        if arch.startswith("hq")
        else {"high_res_0": (32, 4 * cells, 4 * cells), "high_res_1": (64, 2 * cells, 2 * cells)}
    )
    assert spec.features == {"image_embedding": (256, cells, cells), **beside}
    assert (spec.image_size, spec.mask_size, spec.box_tokens) == (side, 4 * cells, 2 if arch.startswith("hq") else 3)
    # PyTorch's fused attention, wherever there is attention: what is fast is on by default.
    kinds = {m.config._attn_implementation for m in network.modules() if hasattr(m, "config")}
    assert kinds == {"sdpa"}
    megabytes = 2 * sum(math.prod(shape) for shape in spec.features.values()) / 1e6
    way = "both sides scaled" if HUGGING_FACE_ARCHS[arch].family.scales_both_sides else "longest side, padded"
    tokens = f"{spec.box_tokens}, {spec.point_tokens}"
    assert ROWS[arch][3:8] == [f"{millions:.0f}", str(side), way, f"{megabytes:.1f}", tokens]


def official_tensors(name):
    """What an official file holds, on the meta device; numbers in braces stand for one name each."""
    state = {}
    for line in (OFFICIAL / f"{name}.txt").read_text(encoding="utf-8").splitlines()[1:]:
        key, shape = line.split(" ", 1)
        before, *numbered = re.split("[{}]", key)
        for number in numbered[0].split(",") if numbered else ("",):
            name = before + number + (numbered[1] if numbered else "")
            state[name] = torch.empty([int(n) for n in re.findall(r"\d+", shape)], device="meta")
    return state


@pytest.mark.parametrize(("arch", "file"), [("sam2_tiny", "sam2.1_hiera_tiny"), ("hq_b", "sam_hq_vit_b")])
def test_official_names_are_the_librarys(arch, file):
    """The lists are of the authors' own modules, as they build them."""
    family = HUGGING_FACE_ARCHS[arch].family
    with torch.device("meta"):
        expected = getattr(transformers, family.model)(networks.config_of(arch)).state_dict()
    state = official_tensors(file)
    assert len(state) > 300
    translate = OFFICIAL_NAMES[family.title]
    assert not any(key_differences(expected, translate(state)).values())
    # What only videos need is passed over, and nothing else.
    of_videos = {"memory_attention.norm.weight", "maskmem_tpos_enc", "obj_ptr_proj.layers.0.weight", "no_obj_ptr"}
    more = {**state, **dict.fromkeys(of_videos if arch == "sam2_tiny" else (), torch.empty(1, device="meta"))}
    assert translate(more).keys() == translate(state).keys()
    assert key_differences(expected, translate({**more, "mask_decoder.odd": torch.empty(1, device="meta")}))[
        "unexpected"
    ]


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_folders_load_strictly(form, folders, tmp_path):
    state = load_file(folders["sam2_test"] / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folders["sam2_test"] / "config.json").read_bytes())

    def write(content):
        if form == "bin":
            torch.save(content, tmp_path / "pytorch_model.bin")
        else:
            save_file(content, tmp_path / "model.safetensors", {"format": "pt"})

    # What files for videos hold beside is passed over.
    write({**state, "memory_encoder.x": torch.zeros(1)})
    assert networks.network_hash(read_network("sam2_test", str(tmp_path))) == networks.network_hash(
        read_network("sam2_test", str(folders["sam2_test"]))
    )
    wrong = dict(state)
    del wrong["mask_decoder.iou_token.weight"]
    wrong |= {"mask_decoder.other": torch.zeros(1), "no_memory_embedding": torch.zeros(1, 1, 3)}
    write(wrong)
    with pytest.raises(ValueError, match="these are not the weights of sam2_test") as error:
        read_network("sam2_test", str(tmp_path))
    for part in (
        "1 missing: mask_decoder.iou_token.weight",
        "1 unexpected: mask_decoder.other",
        "1 of another shape: no_memory_embedding ((1, 1, 3), expected (1, 1, 256))",
    ):
        assert part in str(error.value)


def test_other_weights_are_refused(folders, tmp_path):
    with pytest.raises(ValueError, match="these are not the weights of hq_test"):
        read_network("hq_test", str(folders["sam2_test"]))
    code = tmp_path / "sam2.pt"
    torch.save({"model": {"x": np.array([1, "code"], dtype=object)}}, code)
    with pytest.raises(ValueError, match=r"sam2\.pt: refused, it holds more than tensors"):
        read_network("sam2_test", str(code))
    with pytest.raises(ValueError, match="of SAM 3 a folder of Hugging Face is read"):
        read_network("sam3_test", str(code))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"MODEL\.SAM\.WEIGHTS .*empty"):
        read_network("sam2_test", str(empty))


# ---------------------------------------------------------------- in a model


def model_of(arch, folders, *opts):
    torch.manual_seed(0)
    return build_model(tiny_config("MODEL.SAM.ARCH", arch, "MODEL.SAM.WEIGHTS", str(folders[arch]), *opts))


def as_mapped(encoder, **how):
    """Inputs as the mapper gives them: labels lie in the first quarter of the square, or half of it."""
    size = encoder.image_size
    sizes = [(size, size)] * 2 if encoder.family.scales_both_sides else [(size, size - 13), (20, size)]
    records = make_inputs(sizes, **how)
    for record in records:
        instances = record["instances"]
        for name in ("gt_boxes", "gt_points"):
            if instances.has(name):
                field = instances.get(name)
                (field.tensor if name == "gt_boxes" else field).mul_(0.2)
    return records


@pytest.mark.parametrize("prompter", ["DETRPrompter", "DensePrompter"])
@pytest.mark.parametrize("arch", TINY)
def test_labels_of_every_kind_teach_the_same_live_and_from_stored_features(arch, prompter, folders):
    """The first step alone; more of them, and from the disk, in tests/engine/test_features.py."""
    dense = ("MODEL.DENSE_PROMPTER.STRIDE", 16) if prompter == "DensePrompter" else ()
    opts = ("MODEL.PROMPTER.NAME", prompter, "WEAK_LABELS.TYPE", "as_annotated", *dense)
    live, cached = (model_of(arch, folders, *opts, "MODEL.SAM.FEATURES", how) for how in ("live", "cache"))
    assert cached.backbone.network.vision_encoder is None
    assert cached.backbone.fingerprint() == live.backbone.fingerprint()
    records = as_mapped(live.backbone, label="mixed")
    features = {name: live.embed(records)[0][name] for name in live.feature_names}
    assert {name: tuple(f.shape[1:]) for name, f in features.items()} == live.backbone.spec.features
    from_store = []
    for i, record in enumerate(records):
        stored = unpack(pack({name: f[i] for name, f in features.items()}, "fp32"), features)
        seen = {key: value for key, value in record.items() if key != "image"}
        from_store.append({**seen, **stored, "image_size": tuple(record["image"].shape[1:])})
    expected, losses = live.train()(records), cached.train()(from_store)
    assert {k: float(v.detach()) for k, v in losses.items()} == pytest.approx(
        {k: float(v.detach()) for k, v in expected.items()}, rel=1e-5
    )
    assert losses["loss_mask"] > 0
    for found, record in zip(cached.eval()(from_store), records):
        assert found["sem_seg"].shape == (5, record["height"], record["width"])


def test_a_prompter_on_another_encoder_is_refused_by_name(tiny_encoders):
    models = {arch: model_of(arch, tiny_encoders) for arch in tiny_encoders}
    states = {arch: model.state_dict() for arch, model in models.items()}
    for arch, other in zip(models, [*list(models)[1:], "mobile_test"]):
        with pytest.raises(ValueError, match=rf"on another SAM .* \({arch} \w{{12}}\.\.\., here {other} \w{{12}}"):
            models[other].load_state_dict(states[arch])
        assert models[arch].load_state_dict(states[arch])
    # The same family with other weights is another one as well.
    with pytest.raises(ValueError, match=r"on another SAM .* \(sam2_test \w{12}\.\.\., here sam2_test \w{12}"):
        model_of("sam2_test", {"sam2_test": ""}).load_state_dict(states["sam2_test"])
    prompts = {arch: encoder.fingerprint() for arch, encoder in ((a, HuggingFaceSAM.load(a)) for a in TINY)}
    assert len(set(prompts.values())) == len(TINY)


def test_what_only_sams_own_class_reads_is_refused(folders, tmp_path):
    cfg = tiny_config("MODEL.SAM.ARCH", "sam2_test", "MODEL.SAM.PADDING", "center")
    with pytest.raises(ValueError, match=r"MODEL\.SAM\.PADDING is 'center', but MODEL\.SAM\.ARCH sam2_test"):
        build_encoder(cfg)
    encoder = HuggingFaceSAM.load("sam2_test", str(folders["sam2_test"]))
    with pytest.raises(ValueError, match="50x64 does not fill the 64x64 square"):
        encoder.preprocess(torch.zeros(3, 64, 50, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"SAM 2's image encoder takes \[B, 3, 64, 64\]"):
        encoder.encode(torch.zeros(1, 3, 32, 32))


def test_feature_settings_follow_what_features_follow_from(folders):
    def settings(arch, *opts):
        cfg = tiny_config("MODEL.SAM.ARCH", arch, *opts)
        return encoder_class(cfg).feature_settings(cfg)

    own = settings("sam2_test")
    other = settings("sam2_test", "MODEL.SAM.WEIGHTS", str(folders["sam2_test"]))
    assert [key for key in own if own[key] != other[key]] == ["MODEL.SAM.WEIGHTS"]
    assert own["resize"] == "both sides, bilinear" and settings("hq_test")["resize"] == "longest side, bilinear"


def test_prompts_are_evaluated_by_the_same_name(folders):
    encoder = load_encoder("sam2_test", str(folders["sam2_test"]))
    scores = score_prompts(encoder, synthetic_pictures(1, 96), ("box", "point_best_of_3"))
    assert len(scores) > 0 and all(np.isfinite(ious).all() for ious in scores.ious.values())
