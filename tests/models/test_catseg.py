"""CATSeg: a plain computation's numbers, published files, names, what is trained, the reference's defects, learning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from wps_sam.checkpointer import SafeCheckpointer
from wps_sam.config import add_wps_sam_config
from wps_sam.encoders.clip import IMAGENET_TEMPLATES
from wps_sam.engine.solver import build_optimizer
from wps_sam.evaluation import metrics
from wps_sam.models import catseg
from wps_sam.models.catseg import CATSeg, build_networks
from wps_sam.models.named_masks import mask_loss
from wps_sam.vocabulary import PartVocabulary

import numpy as np
import pytest
import torch
from catseg_reference import PREDICTOR, PUBLISHED, TINY, WRONG, layout, logits, random_checkpoint
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from named_pictures import IGNORE, NAMES, VOCABULARY, eight_pictures, labelled, picture
from torch import Tensor

BOTH = ("backbone", "aggregator")


def config(**keys: Any) -> CfgNode:
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "CATSeg"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.CATSEG.ARCH = "tiny"
    for key, value in keys.items():
        cfg.MODEL.CATSEG[key] = value
    return cfg


def build(vocabulary: PartVocabulary | None = VOCABULARY, **keys: Any) -> CATSeg:
    """A tiny CATSeg with the same random weights every time, in eval mode; ``keys`` of MODEL.CATSEG."""
    model = build_model(config(**keys)).eval()
    if vocabulary is not None:
        model.set_vocabulary(vocabulary)
    return model


@pytest.fixture(scope="module")
def shared() -> CATSeg:
    """For tests that change nothing but the vocabulary. Random weights large enough that each step shows."""
    model = build()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.aggregator.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter[0].numel() ** -0.5)
    return model


@pytest.fixture
def model(shared: CATSeg) -> CATSeg:
    shared.set_vocabulary(VOCABULARY)
    return shared


@torch.no_grad()
def masks(model: CATSeg, *records: dict[str, Any]) -> Tensor:
    """Logits [B, K+1, s, s]."""
    return model.masks(model.encode_images(model.preprocess_image(list(records))), model.encode_names())


def close(actual: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# ------------------------------------------------------------------ the formulas, and published files


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return random_checkpoint(TINY)


def test_published_file_gives_the_logits_of_the_plain_computation(published: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "model_final_base.pth"
    torch.save({"model": published, "iteration": 79999}, file)
    model = build(WEIGHTS=str(file)).double()
    record = picture()
    found = masks(model, record)[0]
    tokenizer = model.clip.tokenizer
    texts = [[tokenizer(t.format(name))["input_ids"] for t in IMAGENET_TEMPLATES[:3]] for name in NAMES]
    expected = logits(published, TINY, record["image"], texts, model.background_embedding)
    assert found.shape == (7, 16, 16)
    assert expected.std() > 0.1, "the logits must differ, or the check shows nothing"
    close(found, expected, 1e-6)
    for what in WRONG:
        other = logits(published, TINY, record["image"], texts, model.background_embedding, wrong=what)
        assert (other[:6] - expected[:6]).abs().max() > 1e-3, what
    # Queries and keys are no longer told apart.
    swapped = {
        name: torch.cat([v.chunk(3)[i] for i in (1, 0, 2)]) if ".in_proj_" in name else v
        for name, v in published.items()
    }
    other = logits(swapped, TINY, record["image"], texts, model.background_embedding)
    assert (other - expected).abs().max() > 1e-3


def read(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, arch: str = "tiny") -> catseg.Networks:
    monkeypatch.setattr(catseg, "read_state_dict", lambda path: dict(state))
    return build_networks(arch, weights="base.pth")


def test_published_checkpoint_fits_name_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, which checks names and shapes."""
    names = layout(PUBLISHED)
    of = [sum(name.startswith(p) for name in names) for p in ("backbone.", f"{PREDICTOR}clip", f"{PREDICTOR}trans")]
    assert of == [470, 302, 126]
    assert len(names) == sum(of)
    with torch.device("meta"):
        networks = read({name: torch.empty(shape) for name, shape in names.items()}, monkeypatch, "vitb_r101_384")
    assert sum(p.numel() for p in networks.aggregator.parameters()) == 3_485_921
    assert sum(p.numel() for p in networks.backbone.parameters()) == 27_452_608
    assert networks.background is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("backbone.res3.0.shortcut.norm.bias"), "no CATSeg tiny: .*Missing"),
        (lambda state: state.update({"backbone.res5.0.conv1.weight": torch.zeros(1)}), "Unexpected.*layer4"),
        (lambda state: state.update({"proposal_generator.x": torch.zeros(1)}), r"holds \['proposal_generator\.x'\]"),
        (lambda state: state.update({f"{PREDICTOR}clip_model.visual.x": torch.zeros(1)}), r"clip_model\.visual\.x: no"),
        (lambda state: state.update({f"{PREDICTOR}transformer.head.bias": torch.zeros(2)}), "size mismatch"),
    ],
)
def test_other_checkpoints_are_refused(
    published: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Tensor]], Any],
    message: str,
) -> None:
    state = dict(published)
    change(state)
    with pytest.raises(ValueError, match=rf"(?s)MODEL\.CATSEG\.WEIGHTS base\.pth: .*{message}"):
        read(state, monkeypatch)


def test_missing_checkpoint_names_the_key() -> None:
    with pytest.raises(ValueError, match=r"MODEL\.CATSEG\.WEIGHTS nowhere\.pth: no such"):
        build_networks("tiny", weights="nowhere.pth")


def test_background_of_ov_parts_checkpoints_is_taken(
    published: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = torch.arange(float(TINY.joint))[None]
    state = {**published, f"{PREDICTOR}non_object_embedding": vector}
    monkeypatch.setattr(catseg, "read_state_dict", lambda path: state)
    assert torch.equal(build(WEIGHTS="ov_parts.pth").background_embedding, vector[0])


def test_random_weights_are_the_same_every_time() -> None:
    first, second = build(vocabulary=None), build(vocabulary=None)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert torch.equal(first.background_embedding, second.background_embedding)


# ------------------------------------------------------------------ names


def test_names_stand_in_every_template_with_their_s(model: CATSeg) -> None:
    prompts = model.encode_names()
    assert prompts.shape == (7, 3, TINY.joint)
    rows = [model.clip.tokens_of(t) for t in ("a bad photo of a bus's door.", "a photo of many bus's door.")]
    close(prompts[4, :2], model.clip.text_features(rows))
    close(prompts.norm(dim=-1), torch.ones(7, 3))
    close(prompts[6], (model.background_embedding / model.background_embedding.norm()).expand(3, -1))
    assert len(set(IMAGENET_TEMPLATES)) == 80 and all(t.count("{}") == 1 for t in IMAGENET_TEMPLATES)
    assert IMAGENET_TEMPLATES[39] == "a photo of a {}." and IMAGENET_TEMPLATES[79] == "a tattoo of the {}."


def test_order_of_templates_is_part_of_the_first_convolution(model: CATSeg) -> None:
    record, order = picture(), [2, 0, 1]
    features, prompts = model.encode_images(model.preprocess_image([record])), model.encode_names()
    with torch.no_grad():
        expected = model.masks(features, prompts)
        other = model.masks(features, prompts[:, order])
        weight = model.aggregator.conv1.weight
        kept = weight.clone()
        weight.copy_(kept[:, order])
        close(model.masks(features, prompts[:, order]), expected)
        weight.copy_(kept)
    assert (other - expected).abs().max() > 1e-3


def test_features_of_a_name_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = build(), []
    encode = model.clip.name_features
    monkeypatch.setattr(model.clip, "name_features", lambda names, t: asked.append(list(names)) or encode(names, t))
    model.encode_names()
    model.train()
    model.encode_names()
    model.set_vocabulary(PartVocabulary.from_names((NAMES[3], "dog's ear")))
    model.encode_names()
    assert asked == [list(NAMES), ["dog's ear"]]
    # Loaded weights may be of another CLIP.
    model.load_state_dict(model.state_dict())
    model.encode_names()
    assert asked[2:] == [[NAMES[3], "dog's ear"]]


def test_classes_are_exchangeable_and_have_a_say_in_each_other(model: CATSeg) -> None:
    record = picture()
    expected = masks(model, record)
    model.set_vocabulary(PartVocabulary.from_names(NAMES[::-1]))
    close(masks(model, record)[:, [5, 4, 3, 2, 1, 0, 6]], expected)
    # All classes twice: attention is a mean.
    features = model.encode_images(model.preprocess_image([record]))
    twice = model.masks(features, model.encode_names().repeat_interleave(2, dim=0))
    close(twice[:, ::2].detach(), masks(model, record))
    model.set_vocabulary(PartVocabulary.from_names((*NAMES, "dog's ear")))
    more = masks(model, record)
    assert all((more[0, k] - expected[0, k]).abs().max() > 1e-3 for k in range(6))


# ------------------------------------------------------------------ inference


def test_several_pictures_at_once_give_what_each_gives_alone(model: CATSeg) -> None:
    records = [picture(0), picture(1, height=30, width=90)]
    together = model(records)
    for record, output in zip(records, together):
        close(output["sem_seg"], model([record])[0]["sem_seg"])
    assert together[1]["sem_seg"].shape == (7, 30, 90)
    assert model([records[0] | {"height": 20, "width": 31}])[0]["sem_seg"].shape == (7, 20, 31)


def test_object_conditioned_scores_are_all_scores_restricted(model: CATSeg) -> None:
    everything = model([picture()])[0]["sem_seg"]
    output = model([picture(category_id=1)])[0]
    assert output["part_classes"].tolist() == [3, 4, 5]
    close(output["sem_seg"], everything[3:6])
    nothing = model([picture(category_id=2)])[0]
    assert nothing["part_classes"].tolist() == [] and nothing["sem_seg"].shape == (0, 40, 60)
    # Wrong: of the own names alone, which then have no say of the others.
    model.set_vocabulary(PartVocabulary.from_names(NAMES[3:]))
    assert (model([picture()])[0]["sem_seg"][:3] - everything[3:6]).abs().max() > 1e-3


def test_substring_names_need_all_scores() -> None:
    cfg = config()
    cfg.TEST.OV_COMPAT = ["substring_names"]
    model = build_model(cfg).eval()
    model.set_vocabulary(VOCABULARY)
    output = model([picture(category_id=1)])[0]
    assert set(output) == {"sem_seg"} and output["sem_seg"].shape == (7, 40, 60)


def centre_found(model: CATSeg, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """Row and column of the middle of a red square at (550, 700) in a picture of 614 x 768, after a round trip through
    the squeezed network input: the masks are its red channel, at the aggregator's resolution."""
    model.image_size = 384
    red = picture(height=614, width=768)
    red["image"] = torch.zeros_like(red["image"])
    red["image"][0, 520:581, 670:731] = 255
    monkeypatch.setattr(model, "encode_images", lambda images: [torch.nn.functional.avg_pool2d(images[1][:, :1], 4)])
    monkeypatch.setattr(model, "masks", lambda features, prompts: features[0].expand(-1, 7, -1, -1))
    found = model([red])[0]["sem_seg"][0] > 0.5
    rows, columns = found.nonzero(as_tuple=True)
    return rows.double().mean().item(), columns.double().mean().item()


def test_masks_lie_on_the_picture_but_for_the_references_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert centre_found(build(), monkeypatch) == pytest.approx((550, 700), abs=1)
    # 614 rows become 640, the columns stay: the row is found at 550 * 614 / 640.
    assert centre_found(build(COMPAT=["padding"]), monkeypatch) == pytest.approx((527.7, 700), abs=1)


def test_probabilities_are_upsampled_first_only_as_compat() -> None:
    plain, compat = build(), build(COMPAT=["sigmoid_first"])
    with torch.no_grad():
        for model in (plain, compat):
            # Around 0 a probability is nearly linear in its logit.
            model.aggregator.head.weight.mul_(30)
    expected = masks(plain, picture())
    resize = {"size": (40, 60), "mode": "bilinear", "align_corners": False}
    of_logits = torch.nn.functional.interpolate(expected, **resize)[0].sigmoid()
    of_probabilities = torch.nn.functional.interpolate(expected.sigmoid(), **resize)[0]
    close(plain([picture()])[0]["sem_seg"], of_logits, 1e-6)
    close(compat([picture()])[0]["sem_seg"], of_probabilities, 1e-6)
    assert (of_logits - of_probabilities).abs().max() > 1e-5


def test_background_is_drawn_anew_only_as_compat() -> None:
    compat = build(COMPAT=["fresh_background"])
    trained = compat.train().encode_names()[-1]
    close(trained, build().encode_names()[-1])
    drawn = []
    for _ in range(2):
        drawn.append(compat.eval().encode_names()[-1])
        assert torch.equal(compat.encode_names()[-1], drawn[-1]), "one for a whole evaluation"
    assert not torch.allclose(drawn[0], trained) and not torch.allclose(*drawn)
    close(drawn[0].norm(dim=-1), torch.ones(3))


def test_without_vocabulary_the_model_says_what_to_call() -> None:
    with pytest.raises(ValueError, match="call set_vocabulary first"):
        build(vocabulary=None)([picture()])


# ------------------------------------------------------------------ training


def test_loss_is_that_of_upsampled_logits_and_unknown_pixels_are_background() -> None:
    model = build().train()
    records = [labelled(0), labelled(1)]
    losses = model(records)
    assert set(losses) == {"loss_mask"}
    large = torch.nn.functional.interpolate(masks(model, *records), (64, 64), mode="bilinear")
    labels = torch.full((2, 64, 64), 6)
    labels[:, :, :32] = 1
    close(losses["loss_mask"].detach(), mask_loss(large, labels, 0.05), 1e-6)
    # By hand where nothing is known: log(1 + e^x) of parts, a twentieth of log(1 + e^-x) of the background.
    unknown = labelled(0)
    unknown["sem_seg"] = torch.full((40, 60), IGNORE)
    terms = (1 + (large[0] * torch.tensor([1.0] * 6 + [-1.0]).view(7, 1, 1)).exp()).log()
    expected = (terms[:6].sum() + 0.05 * terms[6].sum()) / (7 * 64 * 64)
    assert model([unknown])["loss_mask"].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("trained", [BOTH, ("aggregator",), ("backbone",)])
def test_step_changes_exactly_what_is_trained(trained: tuple[str, ...]) -> None:
    model = build(TRAIN=list(trained)).train()
    before = {name: value.clone() for name, value in model.named_parameters()}
    background, frozen = model.background_embedding.clone(), model.frozen_hash()
    model([labelled()])["loss_mask"].backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e3).step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    expected = {name for name in before if name.startswith(trained)}
    # Keys' biases in a softmax change nothing.
    assert expected - moved <= {name for name in expected if name.endswith(".attn.k.bias")}
    assert moved <= expected
    assert torch.equal(model.background_embedding, background)
    assert model.compute_frozen_hash() == frozen
    assert not model.clip.training and not model.clip.model.training


def test_backbone_learns_slowly_and_norms_do_not_decay() -> None:
    cfg = config()
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.WEIGHT_DECAY_NORM = "AdamW", 0.0
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = 2e-4, 1e-4
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    of = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    names = {name: of.get(id(p)) for name, p in model.named_parameters()}
    assert names["backbone.layer1.0.conv1.weight"] == pytest.approx((2e-6, 1e-4))
    assert names["aggregator.guidance_projection.0.weight"] == pytest.approx((2e-4, 1e-4))
    assert names["aggregator.layers.0.swin_block.guidance_norm.weight"] == (2e-4, 0)
    assert names["aggregator.decoder1.conv.double_conv.1.bias"] == (2e-4, 0)
    assert all((value is None) == name.startswith("clip.") for name, value in names.items())


def test_checkpoint_restores_what_was_trained_and_fits_no_other_model(tmp_path: Path) -> None:
    model = build()
    with torch.no_grad():
        for parameter in (*model.backbone.parameters(), *model.aggregator.parameters()):
            parameter.mul_(1.1)
        model.background_embedding.add_(1)
    saved = model.state_dict()
    assert not any(name.startswith("clip.") for name in saved) and "frozen_catseg_sha256" in saved
    SafeCheckpointer(model, str(tmp_path)).save("model")
    expected, again, file = model([picture()])[0]["sem_seg"], build(), str(tmp_path / "model.pth")
    assert (again([picture()])[0]["sem_seg"] - expected).abs().max() > 1e-3
    SafeCheckpointer(again, str(tmp_path), strict=True).load(file)
    close(again([picture()])[0]["sem_seg"], expected)
    other = build()
    other.clip.model.visual_projection.weight.data += 1
    for refusing in (other, build(TRAIN=["aggregator"])):
        with pytest.raises(ValueError, match=r"MODEL\.CATSEG\.WEIGHTS.*MODEL\.CATSEG\.TRAIN"):
            SafeCheckpointer(refusing, str(tmp_path)).load(file)


def harmonic(model: CATSeg, records: list[dict[str, Any]]) -> float:
    """As ov_oracle: own classes compete, labelled pixels count; cats' parts stand for the seen classes."""
    matrix = np.zeros((7, 7), dtype=np.int64)
    for record in records:
        output = model([record])[0]
        found = output["part_classes"][output["sem_seg"].argmax(0)]
        matrix += metrics.confusion_matrix(found.numpy(), record["sem_seg"].numpy(), 7, IGNORE)
    return metrics.open_vocabulary_means(matrix, [3, 4, 5], count_absent_but_predicted=True).harmonic


def test_model_over_fits_eight_pictures() -> None:
    records = eight_pictures()
    model = build()
    assert not harmonic(model, records) > 0.5
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=6e-3, betas=(0.9, 0.95))
    model.train()
    for _ in range(120):
        loss = model(records)["loss_mask"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.1)
        optimizer.step()
    model.eval()
    # Measured: 0.94.
    assert harmonic(model, records) > 0.9
    # The score is the names' doing.
    swapped = PartVocabulary.from_names((NAMES[1], NAMES[0], *NAMES[2:]))
    model.set_vocabulary(swapped)
    assert harmonic(model, records) < 0.6
