"""ZSSeg+: its formulas computed anew, both losses by hand, checkpoints of ours and of the reference, what learns."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from wps_sam.checkpointer import SafeCheckpointer
from wps_sam.config import read_config
from wps_sam.engine.solver import build_optimizer
from wps_sam.models import region_classifier as regions
from wps_sam.models.mask_criterion import mask_set_loss
from wps_sam.models.mask_proposals import MaskProposals, object_features
from wps_sam.models.resnet import ARCHS, ResNetArch, build_resnet
from wps_sam.models.zsseg import ZSSeg, read_prompts, split_name
from wps_sam.vocabulary import PartVocabulary

import pytest
import torch
import torchvision
import zsseg_scenes as plain
from torch import Tensor
from torch.nn import functional as F
from zsseg_scenes import IGNORE, NAMES, VOCABULARY, picture, tiny


@pytest.fixture(scope="module")
def model() -> ZSSeg:
    return tiny("MODEL.ZSSEG.ENSEMBLE_WEIGHT", 0.7)


@pytest.fixture(scope="module")
def conditional() -> ZSSeg:
    return tiny("MODEL.ZSSEG.PROMPT_KIND", "CPTCoCoOp")


def for_test(record: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "sem_seg"} | more


# ------------------------------------------------------------------ inference, computed anew


@torch.no_grad()
def full(model: ZSSeg, record: dict[str, Any]) -> Tensor:
    """Scores of all classes, of which :meth:`ZSSeg.segment` gives the object's own."""
    own = VOCABULARY.parts_of(record["category_id"])
    scores = torch.zeros(len(NAMES), *record["image"].shape[1:])
    scores[own] = model.segment(record, model.object_of(record), own)
    return scores


@torch.no_grad()
def test_scores_are_those_of_the_formulas(model: ZSSeg, conditional: ZSSeg) -> None:
    for of in (model, conditional):
        for record in (picture(0), picture(1, object_id=1)):
            expected = plain.scores(of, record)
            assert expected.max() > 0.1
            torch.testing.assert_close(full(of, record), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        *("additive attention", "positions in values", "the normed state goes on", "mean over the object"),
        *("no object in the class", "object in the masks", "no object left out before the softmax", "with 's"),
        *("V and W swapped", "only own classes compete", "the object's box", "attention in the last block"),
        *("cells not of unit length", "the region alone", "mixed, then of unit length", "exponents swapped"),
    ],
)
@torch.no_grad()
def test_wrong_formulas_are_told(model: ZSSeg, wrong: str) -> None:
    records = (picture(0), picture(1, object_id=1))
    assert max((full(model, r) - plain.scores(model, r, wrong)).abs().max() for r in records) > 1e-3


@torch.no_grad()
def test_words_of_cocoop_move_with_the_object(conditional: ZSSeg) -> None:
    record = picture(0)
    assert (full(conditional, record) - plain.scores(conditional, record, "words that do not move")).abs().max() > 1e-3


@torch.no_grad()
def test_additive_attention_is_the_references(model: ZSSeg) -> None:
    compat = tiny("MODEL.ZSSEG.ENSEMBLE_WEIGHT", 0.7, "MODEL.ZSSEG.COMPAT", ["additive_attention"])
    record = picture(0)
    expected = plain.scores(compat, record, "additive attention")
    torch.testing.assert_close(full(compat, record), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_object_conditioned_scores_are_full_ones_restricted(model: ZSSeg) -> None:
    record = picture(1, object_id=1)
    # As it is computed for all of them, where those of others end at 0.
    everything = plain.scores(model, record)
    assert (everything[:3] == 0).all() and (everything[3:] > 0).any()
    output = model([for_test(record, height=28, width=36)])[0]
    assert output["part_classes"].tolist() == [3, 4, 5]
    expected = F.interpolate(everything[None], (28, 36), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(output["sem_seg"], expected[3:], rtol=0, atol=1e-5)
    # By the reference's names.
    model.substring_names = True
    named_alike = model.vocabulary.parts_named_like(record["category_id"])
    assert model([for_test(record)])[0]["part_classes"].tolist() == named_alike
    model.substring_names = False
    boat = model([for_test(record, category_id=2)])[0]
    assert boat["sem_seg"].shape == (0, 56, 72) and boat["part_classes"].tolist() == []


@torch.no_grad()
def test_whole_pictures_are_asked_object_by_object(model: ZSSeg) -> None:
    record = picture(0)
    record["obj_sem_seg"][45:, :20] = 1
    whole = {key: value for key, value in for_test(record).items() if key != "category_id"}
    found = model([whole])[0]["sem_seg"]
    cat, bus, nothing = (record["obj_sem_seg"] == value for value in (0, 1, IGNORE))
    assert found.shape == (7, 56, 72) and (found[6] == nothing.float()).all()
    alone = {**record, "obj_sem_seg": record["obj_sem_seg"].where(cat, torch.tensor(IGNORE))}
    torch.testing.assert_close(found[:6, cat], full(model, alone)[:, cat])
    assert not found[:3, bus].any() and not found[3:6, cat].any() and found[3:6, bus].any()


@torch.no_grad()
def test_an_object_that_is_nowhere_gets_zeros(model: ZSSeg) -> None:
    record = for_test(picture(0))
    record["obj_sem_seg"] = torch.full_like(record["obj_sem_seg"], IGNORE)
    assert not model([record])[0]["sem_seg"].any()


def test_what_is_missing_is_told(model: ZSSeg) -> None:
    with pytest.raises(ValueError, match=r"0\.jpg: ZSSeg looks inside of given objects: .*OBJECT_MAPS_AT_TEST"):
        model([{key: value for key, value in picture(0).items() if key != "obj_sem_seg"}])
    with pytest.raises(ValueError, match="these make no masks"):
        tiny("MODEL.ZSSEG.STAGE", "prompts")([picture(0)])
    model.vocabulary = None
    with pytest.raises(ValueError, match="call set_vocabulary first"):
        model([picture(0)])
    model.set_vocabulary(VOCABULARY)


# ------------------------------------------------------------------ the pieces, by hand


def test_names_are_split_at_the_first_owner() -> None:
    assert split_name("chest of drawers's leg") == {"object": "chest of drawers", "part": "leg"}
    assert split_name("dog's driver's seat") == {"object": "dog", "part": "driver's seat"}
    assert split_name("sky") == {"object": "sky", "part": ""}


def test_box_by_hand() -> None:
    mask = torch.zeros(30, 40, dtype=torch.bool)
    mask[3:5, 10:20] = True
    # Columns 10 to 20 about 15, 6 to each side. Rows 3 to 5 about 4, 1.2 to each side: 2.8 and 5.2, truncated.
    assert regions.object_box(mask, 1.2) == (9, 2, 21, 5)
    mask[:, 39] = True
    assert regions.object_box(mask, 1.2) == (7, 0, 40, 30)


def test_regions_of_all_classes_that_meet_the_object() -> None:
    scores = torch.tensor([[[3.0, 0, 0, 0]], [[0, 2.0, 0, 1.0]], [[0, 0, 1.0, 0]]])
    found = regions.hard_regions(scores, torch.tensor([[True, True, False, False]]))
    assert found.int().tolist() == [[[1, 0, 0, 0]], [[0, 1, 0, 1]]]


def test_thin_regions_may_vanish_and_only_their_object_counts() -> None:
    features = F.normalize(torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0)), dim=0)
    found = regions.masked_means(features, torch.zeros(1, 64, 64))
    assert not found.any()
    masks = torch.zeros(1, 64, 64)
    masks[0, 0, 15] = masks[0, 16, 0] = 1
    torch.testing.assert_close(regions.masked_means(features, masks)[0], (features[:, 0, 0] + features[:, 1, 0]) / 2)
    fused = regions.fuse(found, torch.ones(5), torch.tensor(0.3))
    torch.testing.assert_close(fused, torch.full((1, 5), 0.7))


def test_ensemble_by_hand() -> None:
    first, second = torch.tensor([0.5, 0.5])[:, None, None], torch.tensor([0.2, 0.2])[:, None, None]
    found = regions.ensemble(first, second, torch.tensor([True, False]), 0.9).flatten()
    torch.testing.assert_close(found, torch.tensor([0.5**0.9 * 0.2**0.1, 0.5**0.1 * 0.2**0.9]))
    assert regions.ensemble(first, 0 * second, torch.tensor([True, False]), 0.9).max() == 0


def test_a_larger_object_says_more() -> None:
    pixels = torch.ones(1, 2, 16, 16) * torch.tensor([1.0, -2.0])[None, :, None, None]
    small, large = torch.zeros(2, 1, 64, 64)
    small[0, :8, :10], large[0, :16, :10] = 1, 1
    expected = torch.tensor([[80 / 4096, -160 / 4096]])
    torch.testing.assert_close(object_features(pixels, small[None]), expected)
    torch.testing.assert_close(object_features(pixels, large[None]), 2 * expected)


@torch.no_grad()
def test_queries_do_not_look_outside_of_the_object(model: ZSSeg) -> None:
    """ "inside": the map of other cells does not matter; an object that is nowhere opens all."""
    proposals = model.proposals
    assert proposals is not None
    objects = torch.zeros(1, 1, 64, 96)
    objects[..., :20, :20] = 1
    closed = proposals.memory_mask(objects)
    assert closed.tolist() == [[False, True, True, True, True, True]]
    assert not proposals.memory_mask(0 * objects).any()
    memory = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(0))
    queries, position = proposals.queries.weight[None], torch.zeros(1, 6, 32)
    changed = memory.clone()
    changed[:, 3] += 5
    said = [proposals.decoder(0 * queries, queries, m, position, closed) for m in (memory, changed)]
    assert torch.equal(*said)
    proposals.attention = "additive"
    additive = proposals.memory_mask(objects)
    proposals.attention = "inside"
    assert additive.tolist() == [[0.0, 1, 1, 1, 1, 1]]
    said = [proposals.decoder(0 * queries, queries, m, position, additive) for m in (memory, changed)]
    assert not torch.allclose(*said)


def test_class_logits_are_cosines(model: ZSSeg) -> None:
    with torch.no_grad():
        record = picture(0)
        images = model.normalised(record["image"])[None, :, :32, :64]
        features = model.proposals(images, torch.ones(1, 1, 32, 64)).features  # type: ignore[misc]
        logits = model.class_logits(features)
    assert logits.shape == (2, 1, 10, 7) and logits.abs().max() <= 100.001
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 1, 10))


def test_published_sizes() -> None:
    """Of the specification; the pixel decoder's were counted in the reference's own code."""
    with torch.device("meta"):
        for arch, entries in (("resnet50", 265), ("resnet101c", 530)):
            backbone = build_resnet(arch)
            assert len(backbone.state_dict()) == entries
        network = MaskProposals(backbone, size="published", num_queries=50, embedding_dim=512)
    assert sum(p.numel() for p in network.pixel_decoder.parameters()) == 7_540_480
    assert [tuple(p.shape) for p in network.class_head.parameters()] == [(1024, 256), (1024,), (512, 1024), (512,)]
    assert len(network.decoder.layers) == 6 and network.decoder.layers[0].linear1.out_features == 2048
    assert [block.conv2.dilation[0] for block in backbone.layer4] == [1, 2, 4]


# ------------------------------------------------------------------ losses


def set_loss(classes: Tensor, masks: Tensor, targets: list[Tensor], labels: list[Tensor], wrong: str = "") -> float:
    """Every assignment is tried, and the cheapest taken; then the three losses as they are written down."""
    total = 0.0
    number = max(1, sum(map(len, labels)))
    for of_classes, of_masks in list(zip(classes, masks))[-1 if wrong == "last layer alone" else 0 :]:
        weight, cross = 0.0, 0.0
        for logits, predicted, wanted, of in zip(of_classes, of_masks, targets, labels):
            small = F.interpolate(wanted[:, None], predicted.shape[1:])[:, 0]
            costs = {
                (q, n): -logits[q].softmax(0)[of[n]] + 20 * focal(predicted[q], small[n]) + dice(predicted[q], small[n])
                for q in range(len(predicted))
                for n in range(len(of))
            }
            best = min(
                itertools.permutations(range(len(predicted)), len(of)),
                key=lambda chosen: sum(costs[q, n] for n, q in enumerate(chosen)),
            )
            for q in range(len(predicted)):
                target = of[best.index(q)] if q in best else torch.tensor(logits.shape[1] - 1)
                counts = 0.1 if q not in best and wrong != "no object as the others" else 1.0
                cross += counts * -logits[q].log_softmax(0)[target]
                weight += counts
            for n, q in enumerate(best):
                large = F.interpolate(predicted[None, None, q], wanted.shape[1:], mode="bilinear")[0, 0]
                if wrong == "masks at their own size":
                    large, full_size = predicted[q], small[n]
                else:
                    full_size = wanted[n]
                total += (20 * focal(large, full_size) + dice(large, full_size)) / number
        total += cross / weight
    return float(total)


def focal(logits: Tensor, target: Tensor) -> Tensor:
    p = logits.sigmoid()
    return torch.where(target > 0, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()).mean()


def dice(logits: Tensor, target: Tensor) -> Tensor:
    p = logits.sigmoid()
    return 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)


def test_set_loss_by_hand_and_wrong_ones() -> None:
    generator = torch.Generator().manual_seed(2)
    classes = torch.randn(2, 2, 4, 4, generator=generator)
    masks = torch.randn(2, 2, 4, 4, 4, generator=generator)
    targets = [(torch.rand(n, 16, 16, generator=generator) > 0.6).float() for n in (2, 1)]
    labels = [torch.tensor([2, 0]), torch.tensor([1])]
    losses = mask_set_loss(classes, masks, targets, labels)
    assert set(losses) == {"loss_class", "loss_mask", "loss_dice"}
    total = sum(losses.values()).item()
    assert total == pytest.approx(set_loss(classes, masks, targets, labels), abs=1e-5)
    for wrong in ("last layer alone", "no object as the others", "masks at their own size"):
        assert abs(total - set_loss(classes, masks, targets, labels, wrong)) > 1e-2, wrong
    # Pictures without labels: only that there is nothing.
    nothing = mask_set_loss(classes, masks, [t[:0] for t in targets], [k[:0] for k in labels])
    assert nothing["loss_mask"] == nothing["loss_dice"] == 0 and nothing["loss_class"] > 0


def test_loss_of_masks_is_the_loss_of_their_labels(model: ZSSeg) -> None:
    records = [picture(0), picture(1, object_id=1)]
    with torch.no_grad():
        losses = model.mask_losses(records)
        found = [plain.proposals(model, record) for record in records]
        texts = torch.stack([plain.text(model, c) for c in range(6)] + [plain.unit(model.no_object)[0]])
        classes = torch.stack([100 * plain.unit(features) @ texts.T for features, _ in found])
    targets = [torch.zeros(2, 64, 96), torch.zeros(2, 64, 96)]
    for record, target, of in zip(records, targets, (0, 3)):
        for k, c in enumerate((of, of + 2)):
            target[k, :56, :72] = record["sem_seg"] == c
    labels = [torch.tensor([0, 2]), torch.tensor([3, 5])]
    # Of the last layer: what all of them say is compared elsewhere.
    last = mask_set_loss(classes[None], torch.stack([masks for _, masks in found])[None], targets, labels)
    proposals = model.proposals
    assert proposals is not None
    original = proposals.forward
    try:
        proposals.forward = lambda *a: type(original(*a))(*(x[-1:] for x in original(*a)))  # type: ignore[method-assign]
        with torch.no_grad():
            ours = model.mask_losses(records)
    finally:
        del proposals.forward
    for name, value in last.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-4)
        assert losses[name] > ours[name]
    with pytest.raises(ValueError, match=r"0\.jpg: label 6, expected 0\.\.5"):
        model.mask_losses([{**picture(0), "sem_seg": torch.full((56, 72), 6)}])


def prompt_loss(model: ZSSeg, records: list[dict[str, Any]], wrong: str = "") -> float:
    """The mean over labelled regions of all pictures."""
    terms = []
    for record in records:
        own = [c for c, n in enumerate(NAMES) if n.startswith(VOCABULARY.object_names[record["category_id"]])]
        competing = list(range(6)) if wrong == "all classes" else own
        for c in record["sem_seg"].unique().tolist():
            if c == IGNORE:
                continue
            mixed, whole = plain.seen_by_clip(model, record, record["sem_seg"] == c, wrong)
            shift = whole if model.conditional else None
            texts = torch.stack([plain.text(model, k, shift) for k in competing])
            terms.append(-(100 * texts @ mixed).log_softmax(0)[competing.index(c)])
    return float(torch.stack(terms).mean())


@torch.no_grad()
def test_loss_of_prompts_by_hand_and_wrong_ones(model: ZSSeg, conditional: ZSSeg) -> None:
    nothing = picture(2)
    nothing["sem_seg"] = torch.full_like(nothing["sem_seg"], IGNORE)
    records = [picture(0), picture(1, object_id=1), nothing]
    for of in (model, conditional):
        loss = of.prompt_losses(records)["loss_prompts"].item()
        assert loss == pytest.approx(prompt_loss(of, records), abs=1e-4)
        for wrong in ("all classes", "the region alone", "the object's box"):
            assert abs(loss - prompt_loss(of, records, wrong)) > 1e-2, wrong
    model.own_classes = False
    assert model.prompt_losses(records)["loss_prompts"].item() == pytest.approx(
        prompt_loss(model, records, "all classes"), abs=1e-4
    )
    model.own_classes = True
    assert model.prompt_losses([nothing])["loss_prompts"] == 0


# ------------------------------------------------------------------ what is trained


def test_each_stage_trains_its_own() -> None:
    prompts = tiny("MODEL.ZSSEG.STAGE", "prompts").train()
    assert {n for n, p in prompts.named_parameters() if p.requires_grad} == {"prompts.contexts", "fuse_weight"}
    prompts([picture(0), picture(1, object_id=1)])["loss_prompts"].backward()
    assert (prompts.prompts.contexts.grad.abs().sum(-1) > 0).all() and prompts.fuse_weight.grad != 0
    model = tiny().train()
    assert model.proposals.training and not model.clip.training  # type: ignore[union-attr]
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n.split(".")[0] for n in trained} == {"proposals", "no_object"}
    sum(model([picture(0), picture(1, object_id=1)]).values()).backward()
    # Several processes wait for the gradient of everything that learns; nothing else has one.
    assert {n for n, p in model.named_parameters() if p.grad is not None} == trained


def test_optimizer_is_as_published() -> None:
    configs = Path(__file__).resolve().parents[2] / "configs" / "ov_parts"
    cfg = read_config(configs / "Base-ZSSeg.yaml")
    model = tiny()
    optimizer = build_optimizer(cfg, model)
    values = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    of = {name: values[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert len(of) == len(values)
    for name, (lr, decay) in of.items():
        assert lr == pytest.approx(1e-5 if name.startswith("proposals.backbone.") else 1e-4), name
        norm = "norm" in name or (".fpn." in name and name.split(".")[-2] == "1")
        assert decay == (0 if norm or name == "proposals.queries.weight" else 1e-4), name
    of_prompts = build_optimizer(read_config(configs / "Base-ZSSeg-prompts.yaml"), tiny("MODEL.ZSSEG.STAGE", "prompts"))
    (group,) = of_prompts.param_groups
    assert isinstance(of_prompts, torch.optim.SGD) and len(group["params"]) == 2
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.02, 0.9, 0.0005)


# ------------------------------------------------------------------ weights and checkpoints


def test_prompts_go_into_the_second_training_and_its_checkpoint(tmp_path: Path) -> None:
    first = tiny("MODEL.ZSSEG.STAGE", "prompts")
    with torch.no_grad():
        first.prompts.contexts.add_(1)
        first.fuse_weight.fill_(0.25)
    assert set(first.state_dict()) == {"prompts.contexts", "fuse_weight", "frozen_clip_sha256"}
    SafeCheckpointer(first, str(tmp_path)).save("prompts")
    second = tiny()
    weight = read_prompts(str(tmp_path / "prompts.pth"), second.prompts)
    assert weight == 0.25 and torch.equal(second.prompts.contexts, first.prompts.contexts)
    before = second([for_test(picture(0))])[0]["sem_seg"]
    SafeCheckpointer(second, str(tmp_path)).save("model")
    again = tiny()
    # Texts of other words must not outlive the loading.
    assert not torch.equal(again([for_test(picture(0))])[0]["sem_seg"], before)
    SafeCheckpointer(again, strict=True).load(str(tmp_path / "model.pth"))
    assert torch.equal(again([for_test(picture(0))])[0]["sem_seg"], before)
    other = tiny()
    other.clip.model.visual_projection.weight.data += 1
    with pytest.raises(ValueError, match=r"trained on another CLIP .*set MODEL\.ZSSEG\.CLIP"):
        SafeCheckpointer(other, strict=True).load(str(tmp_path / "model.pth"))
    with pytest.raises(ValueError, match=r"MODEL\.ZSSEG\.PROMPTS .*fuse_weight: expected numbers \(\), got none"):
        torch.save({"prompts.contexts": first.prompts.contexts.detach()}, tmp_path / "half.pth")
        read_prompts(str(tmp_path / "half.pth"), second.prompts)


def official(model: ZSSeg) -> dict[str, Tensor]:
    """The weights of a model by the names of the reference's code, as the specification lists them."""
    parts, ours = "sem_seg_head.", dict(model.named_parameters()) | dict(model.named_buffers())
    kinds = ("weight", "bias")
    names = {}
    fpn = "proposals.pixel_decoder.fpn."
    blocks = {"layer_4": "stem"}
    blocks |= {
        f"{theirs}_{3 - k}": f"layers.{k}.{own}"
        for k in range(3)
        for theirs, own in (("adapter", "proj"), ("layer", "block"))
    }
    for theirs, own in blocks.items():
        names[f"{parts}pixel_decoder.{theirs}.weight"] = f"{fpn}{own}.0.weight"
        names |= {f"{parts}pixel_decoder.{theirs}.norm.{kind}": f"{fpn}{own}.1.{kind}" for kind in kinds}
    names |= {
        f"{parts}pixel_decoder.mask_features.{kind}": f"proposals.pixel_decoder.mask_projection.{kind}"
        for kind in kinds
    }
    head = f"{parts}predictor."
    names[f"{head}query_embed.weight"] = "proposals.queries.weight"
    names |= {f"{head}input_proj.{kind}": f"proposals.input_projection.{kind}" for kind in kinds}
    for k in range(2):
        inner = ["linear1", "linear2", "norm1", "norm2", "norm3", "self_attn.out_proj", "multihead_attn.out_proj"]
        tensors = [f"{name}.{kind}" for name in inner for kind in kinds]
        tensors += [f"{name}.in_proj_{kind}" for name in ("self_attn", "multihead_attn") for kind in kinds]
        for name in tensors:
            names[f"{head}transformer.decoder.layers.{k}.{name}"] = f"proposals.decoder.layers.{k}.{name}"
    names |= {f"{head}transformer.decoder.norm.{kind}": f"proposals.decoder.norm.{kind}" for kind in kinds}
    for name, count in (("mask", 3), ("class", 2)):
        for k in range(count):
            for kind in kinds:
                names[f"{head}{name}_embed.layers.{k}.{kind}"] = f"proposals.{name}_head.{2 * k}.{kind}"
    state = {theirs: ours[own].detach().clone() for theirs, own in names.items()}
    # Backbone: Detectron2's.
    for k, stage in enumerate(("res2", "res3", "res4", "res5"), start=1):
        layer = f"proposals.backbone.layer{k}.0."
        pieces = {f"conv{i}": (f"conv{i}", f"bn{i}") for i in (1, 2, 3)} | {
            "shortcut": ("downsample.0", "downsample.1")
        }
        for theirs, (convolution, norm) in pieces.items():
            state[f"backbone.{stage}.0.{theirs}.weight"] = ours[f"{layer}{convolution}.weight"].detach().clone()
            for kind in (*kinds, "running_mean", "running_var"):
                state[f"backbone.{stage}.0.{theirs}.norm.{kind}"] = ours[f"{layer}{norm}.{kind}"].clone()
    state["backbone.stem.conv1.weight"] = ours["proposals.backbone.conv1.weight"].detach().clone()
    for kind in (*kinds, "running_mean", "running_var"):
        state[f"backbone.stem.conv1.norm.{kind}"] = ours[f"proposals.backbone.bn1.{kind}"].clone()
    return (
        state
        | official_clip(model)
        | official_prompts(model, "clip_adapter.")
        | {
            "clip_adapter.fuse_weight": model.fuse_weight.detach().clone(),
            "clip_adapter.non_object_embedding": ours["no_object"].detach().clone(),
            "criterion.empty_weight": torch.ones(75),
        }
    )


def official_prompts(model: ZSSeg, place: str = "") -> dict[str, Tensor]:
    """Of the checkpoints of prompts, and below the adapter of those of models."""
    contexts = model.prompts.contexts[0].detach().clone()
    learned = {"prefix_prompt": contexts[:4], "connect_prompt": contexts[4:], "fuse_weight": model.fuse_weight.detach()}
    words = {f"{name}_signal": torch.zeros(1, 48) for name in ("start", "ss", "dot", "end", "pad")}
    return {f"{place}prompt_learner.{name}": value.clone() for name, value in (learned | words).items()}


def official_clip(model: ZSSeg) -> dict[str, Tensor]:
    state, clip = {}, model.clip.model
    for theirs, tower in (("visual.transformer", clip.vision_model), ("transformer", clip.text_model)):
        for k, layer in enumerate(tower.encoder.layers):
            a, place = layer.self_attn, f"{theirs}.resblocks.{k}."
            for kind in ("weight", "bias"):
                state[f"{place}attn.in_proj_{kind}"] = torch.cat(
                    [getattr(p, kind) for p in (a.q_proj, a.k_proj, a.v_proj)]
                )
                state[f"{place}attn.out_proj.{kind}"] = getattr(a.out_proj, kind)
                state[f"{place}ln_1.{kind}"], state[f"{place}ln_2.{kind}"] = (
                    getattr(norm, kind) for norm in (layer.layer_norm1, layer.layer_norm2)
                )
                state[f"{place}mlp.c_fc.{kind}"] = getattr(layer.mlp.fc1, kind)
                state[f"{place}mlp.c_proj.{kind}"] = getattr(layer.mlp.fc2, kind)
    vision, words = clip.vision_model, clip.text_model
    for kind in ("weight", "bias"):
        state[f"visual.ln_pre.{kind}"] = getattr(vision.pre_layrnorm, kind)
        state[f"visual.ln_post.{kind}"] = getattr(vision.post_layernorm, kind)
        state[f"ln_final.{kind}"] = getattr(words.final_layer_norm, kind)
    state["visual.class_embedding"] = vision.embeddings.class_embedding
    state["visual.conv1.weight"] = vision.embeddings.patch_embedding.weight
    state["visual.positional_embedding"] = vision.embeddings.position_embedding.weight
    state["visual.proj"], state["text_projection"] = clip.visual_projection.weight.T, clip.text_projection.weight.T
    state["token_embedding.weight"] = words.embeddings.token_embedding.weight
    state["positional_embedding"] = words.embeddings.position_embedding.weight
    state["logit_scale"] = clip.logit_scale
    return {f"clip_adapter.clip_model.{name}": value.detach().clone() for name, value in state.items()}


def test_official_checkpoints_load_as_they_are_and_strictly(tmp_path: Path) -> None:
    source = tiny()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in source.named_buffers():
            if "running_mean" in name:
                buffer.normal_(0, 0.1, generator=generator)
    source.eval().train(False)
    state = official(source)
    torch.save({"model": state}, tmp_path / "official.pth")
    torch.save({"model": official_prompts(source)}, tmp_path / "prompts.pth")
    loaded = tiny()
    SafeCheckpointer(loaded, strict=True).load(str(tmp_path / "official.pth"))
    record = for_test(picture(0))
    expected = source([record])[0]["sem_seg"]
    torch.testing.assert_close(loaded([record])[0]["sem_seg"], expected)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), source.parameters()))
    fresh = tiny()
    assert torch.equal(read_prompts(str(tmp_path / "prompts.pth"), fresh.prompts), source.fuse_weight)
    assert torch.equal(fresh.prompts.contexts, source.prompts.contexts)
    # Queries and keys swapped is another model, and what is missing or left over is refused.
    block = "clip_adapter.clip_model.visual.transformer.resblocks.0.attn.in_proj_weight"
    q, k, v = state[block].chunk(3)
    torch.save({"model": {**state, block: torch.cat([v, k, q])}}, tmp_path / "swapped.pth")
    SafeCheckpointer(loaded, strict=True).load(str(tmp_path / "swapped.pth"))
    assert not torch.allclose(loaded([record])[0]["sem_seg"], expected, atol=1e-4)
    missing = {name: value for name, value in state.items() if not name.endswith("query_embed.weight")}
    with pytest.raises(ValueError, match=r"missing \['proposals\.queries\.weight'\]"):
        torch.save({"model": missing}, tmp_path / "missing.pth")
        SafeCheckpointer(tiny(), strict=True).load(str(tmp_path / "missing.pth"))
    with pytest.raises(ValueError, match="unexpected .*sem_seg_head.predictor.more"):
        torch.save({"model": {**state, "sem_seg_head.predictor.more": torch.ones(1)}}, tmp_path / "more.pth")
        SafeCheckpointer(tiny(), strict=True).load(str(tmp_path / "more.pth"))


@torch.no_grad()
def test_backbone_is_torchvisions_and_takes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHS, "short", ResNetArch((1, 1, 1, 1)))
    torch.manual_seed(0)
    theirs = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1]).eval()
    for name, buffer in theirs.named_buffers():
        if "running_mean" in name:
            buffer.normal_(0, 0.1)
    torch.save(theirs.state_dict(), tmp_path / "short.pth")
    ours = build_resnet("short", str(tmp_path / "short.pth"))
    images = torch.randn(1, 3, 64, 64)
    hidden = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    for k, found in enumerate(ours(images), start=1):
        hidden = getattr(theirs, f"layer{k}")(hidden)
        torch.testing.assert_close(found, hidden, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"BACKBONE .*short\.pth: no tiny"):
        build_resnet("tiny", str(tmp_path / "short.pth"), "BACKBONE")


def test_prompts_of_another_vocabulary_are_made_anew(model: ZSSeg) -> None:
    before = model([for_test(picture(0))])[0]["sem_seg"]
    model.set_vocabulary(PartVocabulary.from_names(("cat's ear", "cat's paw")))
    assert model([for_test(picture(0))])[0]["sem_seg"].shape == (2, 56, 72)
    model.set_vocabulary(VOCABULARY)
    assert torch.equal(model([for_test(picture(0))])[0]["sem_seg"], before)


def test_cocoop_needs_features_as_wide_as_words(conditional: ZSSeg) -> None:
    config = conditional.clip.model.config
    config.projection_dim = 32
    parts = ("clip", "prompts", "conditional", "proposals", "clip_size", "own_classes", "weight", "region_scale")
    arguments = {name: getattr(conditional, name) for name in (*parts, "backbone_multiplier", "substring_names")}
    with pytest.raises(ValueError, match="those of this CLIP have 32 and 48 numbers"):
        ZSSeg(**arguments, fuse_weight=torch.zeros(()), pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3)
    config.projection_dim = 48
