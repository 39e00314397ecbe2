"""WPSSAM as a whole: losses against a plain reference, frozen SAM, outputs, checkpoints."""

import itertools

from wps_sam.config import add_wps_sam_config
from wps_sam.data.weak_labels import part_point
from wps_sam.encoders import build_sam
from wps_sam.inference.merge import resize_masks
from wps_sam.models.wps_sam import FOURIER_MATRIX
from wps_sam.structures import LabelKind
from wps_sam.vocabulary import PartVocabulary

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BoxMode, Instances
from tiny_wps_sam import make_inputs, tiny_config


@pytest.fixture(params=["DETRPrompter", "DensePrompter"])
def prompter_name(request):
    return request.param


def reference_losses(model, inputs):
    """The paper's losses with loops and brute force instead of our matcher and criterion."""
    size = model.backbone.image_size
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    class_loss, prompt_loss = [], []
    for record in inputs:
        square = torch.zeros(1, 3, size, size)
        height, width = record["image"].shape[1:]
        square[0, :, :height, :width] = (record["image"] - mean) / std
        prediction = model.prompter(model.backbone(square)["image_embedding"])
        logits, tokens = prediction.logits[0], prediction.tokens[0]
        instances = record["instances"]
        teacher, _ = model.backbone.prompt_encoder(points=None, boxes=instances.gt_boxes.tensor, masks=None)
        probability, best, chosen = logits.softmax(-1), float("inf"), None
        for queries in itertools.permutations(range(len(logits)), len(teacher)):
            cost = sum(
                (10 * -probability[q, instances.gt_classes[m]] + (tokens[q] - teacher[m]).norm()).item()
                for m, q in enumerate(queries)
            )
            if cost < best:
                best, chosen = cost, queries
        labels = torch.full((len(logits),), logits.shape[1] - 1)
        for m, q in enumerate(chosen):
            labels[q] = instances.gt_classes[m]
        class_loss.append(-sum(logits[q].log_softmax(-1)[c] for q, c in enumerate(labels)) / len(logits))
        difference = torch.stack([(tokens[q] - teacher[m]).abs() for m, q in enumerate(chosen)])
        prompt_loss.append(torch.where(difference < 1, difference**2 / 2, difference - 0.5).mean())
    count = len(inputs)
    return {"loss_class": 5 * sum(class_loss) / count, "loss_box": 20 * sum(prompt_loss) / count}


def test_losses_of_a_tiny_model_equal_the_reference():
    model = build_model(tiny_config()).train()
    inputs = make_inputs()
    ours, theirs = model(inputs), reference_losses(model, inputs)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-5)


def test_one_step_at_vit_b_1024_equals_the_reference():
    """The paper's sizes: ViT-B, 1024 pixels, batch 2, 25 queries, 40 classes."""
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    model = build_model(cfg).train()
    inputs = make_inputs(sizes=((1024, 683), (400, 1024)))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    # The encoder is deterministic and by far the slowest piece: both sides may share its results.
    encoded = {}
    forward = model.backbone.forward

    def remembered(images):
        for i, image in enumerate(images):
            key = image.sum().item()
            if key not in encoded:
                encoded[key] = forward(images[i : i + 1])["image_embedding"]
        return {"image_embedding": torch.cat([encoded[image.sum().item()] for image in images])}

    model.backbone.forward = remembered
    ours, theirs = model(inputs), reference_losses(model, inputs)
    torch.set_num_threads(threads)
    assert len(encoded) == 2, "both sides must have fed the very same squares"
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "label, kind", [("box", "box"), ("point", "point"), ("mask", "mask"), ("mixed", "as_annotated")]
)
def test_a_step_moves_the_prompter_and_nothing_of_sam(prompter_name, label, kind):
    model = build_model(tiny_config("MODEL.PROMPTER.NAME", prompter_name, "WEAK_LABELS.TYPE", kind)).train()
    assert not any(m.training for m in model.backbone.modules())
    frozen = {k: v.clone() for k, v in model.backbone.named_parameters()}
    trained = {k: v.clone() for k, v in model.prompter.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    sum(model(make_inputs(label=label)).values()).backward()
    optimizer.step()
    for key, value in model.backbone.named_parameters():
        assert torch.equal(value, frozen[key]) and value.grad is None
    moved = [k for k, v in model.prompter.named_parameters() if not torch.equal(v, trained[k])]
    assert len(moved) == len(trained)


@pytest.mark.parametrize("label", ["box", "point"])
def test_outputs_follow_detectron2s_form(prompter_name, label):
    model = build_model(tiny_config("MODEL.PROMPTER.NAME", prompter_name, "WEAK_LABELS.TYPE", label)).eval()
    head = model.prompter.class_head
    with torch.no_grad():
        head.bias[-1] = -10  # every query is a part
    inputs = make_inputs(label=label)
    outputs = model(inputs)
    for record, output in zip(inputs, outputs):
        height, width = record["height"], record["width"]
        instances = output["instances"]
        assert 0 < len(instances) <= 6 and instances.image_size == (height, width)
        assert instances.pred_masks.shape == (len(instances), height, width)
        assert instances.pred_masks.dtype == torch.bool
        assert instances.mask_logits.shape[1:] == (128, 128)
        assert output["sem_seg"].shape == (5, height, width)
        assert (instances.scores.diff() <= 0).all() and instances.pred_classes.max() < 4
        covered = instances.pred_masks.any(0)
        assert torch.equal(output["sem_seg"].argmax(0) != 4, covered)
        for mask, box in zip(instances.pred_masks, instances.pred_boxes.tensor.tolist()):
            if mask.any():
                y, x = mask.nonzero().unbind(1)
                assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_nothing_found_is_all_background():
    model = build_model(tiny_config()).eval()
    with torch.no_grad():
        model.prompter.class_head.bias[-1] = 100
    output = model(make_inputs()[:1])[0]
    assert len(output["instances"]) == 0 and output["instances"].pred_masks.shape == (0, 256, 170)
    assert (output["sem_seg"].argmax(0) == 4).all()


def _asked_of_objects(model, inputs):
    """The last of three inputs also once for the parts of one object."""
    model.set_vocabulary(PartVocabulary.from_names("abcd", ["animal", "animal", "animal", "car"]))
    return [*inputs, {**inputs[-1], "category_id": 0}]


def _leave_nothing_on(model, monkeypatch, index):
    """The prompter finds no part on image ``index`` of three, whether it sees it alone or with the others."""
    propose, seen = model.prompter.propose, []

    def propose_without(features):
        proposals, embedding = propose(features), features["image_embedding"]
        for i, image in enumerate(embedding):
            if any(torch.allclose(image, one, atol=1e-4) for one in seen) or (len(embedding) > 2 and i == index):
                seen.append(image)
                proposals.logits[i, :, -1] += 100
        return proposals

    monkeypatch.setattr(model.prompter, "propose", propose_without)


@torch.no_grad()
def test_a_result_does_not_depend_on_its_batch(prompter_name, monkeypatch):
    """Three images, nothing found on the second, and one asked for an object's parts only."""
    model = build_model(tiny_config("MODEL.PROMPTER.NAME", prompter_name)).eval()
    model.prompter.class_head.bias[-1] = -10
    inputs = _asked_of_objects(model, make_inputs(sizes=((512, 340), (200, 512), (400, 400))))
    _leave_nothing_on(model, monkeypatch, 1)
    together = model(inputs)
    assert [len(output["instances"]) > 0 for output in together[:3]] == [True, False, True]
    for record, output in zip(inputs, together):
        alone = model([record])[0]
        same = torch.isclose(alone["sem_seg"], output["sem_seg"], atol=1e-4, rtol=1e-4).all(0)
        # A mask that rounding moves across one half at a pixel changes that pixel's score by a jump.
        assert (~same).float().mean() < 1e-4
        if "category_id" in record:
            assert torch.equal(alone["part_classes"], output["part_classes"])
            continue
        for field in ("mask_logits", "scores", "pred_classes"):
            ours, theirs = output["instances"].get(field), alone["instances"].get(field)
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        assert (output["instances"].pred_masks ^ alone["instances"].pred_masks).sum() <= 20


@torch.no_grad()
def test_one_call_of_the_decoder_for_a_batch_and_only_for_kept_queries(prompter_name, monkeypatch):
    model = build_model(tiny_config("MODEL.PROMPTER.NAME", prompter_name)).eval()
    model.prompter.class_head.bias[-1] = -10
    calls, decode = [], model.backbone.decode

    def counted(features, prompts):
        calls.append([len(of_image) for of_image in prompts])
        return decode(features, prompts)

    monkeypatch.setattr(model.backbone, "decode", counted)
    inputs = make_inputs()
    outputs = model(inputs)
    assert calls == [[len(output["instances"]) for output in outputs]]
    assert max(calls[0]) <= 6 < model.prompter(torch.zeros(1, 256, 32, 32)).logits.shape[1]
    model.prompt_boxes(inputs, [torch.tensor([[10.0, 20.0, 90.0, 120.0]]).expand(m, -1) for m in (3, 0)])
    assert calls[1:] == [[3, 0]]


@torch.no_grad()
def test_prompting_a_batch_with_boxes_equals_prompting_each_image():
    model = build_model(tiny_config("MODEL.SAM.PADDING", "center")).eval()
    inputs = make_inputs(sizes=((512, 340), (200, 512), (400, 400)))
    corner = torch.rand(5, 2) * 20
    boxes = list(torch.cat([corner, corner + 80], dim=1).split([3, 0, 2]))
    together = model.prompt_boxes(inputs, boxes)
    for i, masks in enumerate(together):
        assert masks.shape == (len(boxes[i]), inputs[i]["height"], inputs[i]["width"])
        alone = model.prompt_boxes(inputs[i : i + 1], boxes[i : i + 1])[0]
        torch.testing.assert_close(masks, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("label", ["box", "point"])
def test_an_image_without_parts_trains(prompter_name, label):
    model = build_model(tiny_config("MODEL.PROMPTER.NAME", prompter_name, "WEAK_LABELS.TYPE", label)).train()
    losses = model(make_inputs(parts=0, label=label))
    assert losses[f"loss_{label}"].item() == 0 and losses["loss_class"].isfinite()
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_more_parts_than_queries_is_an_error():
    with pytest.raises(ValueError, match="NUM_QUERIES"):
        build_model(tiny_config()).train()(make_inputs(parts=9))


def test_centre_padding_moves_the_labels_with_the_image():
    inputs = make_inputs(sizes=((512, 100),))
    centre = build_model(tiny_config("MODEL.SAM.PADDING", "center"))
    square, frames = centre.preprocess_image(inputs)
    assert (frames[0].left, frames[0].top) == (206, 0) and square.shape == (1, 3, 512, 512)
    boxes = inputs[0]["instances"].gt_boxes.tensor
    target = centre.label(inputs, frames)[0]
    assert torch.equal(target.boxes, boxes + torch.tensor([206.0, 0, 206, 0]))


def test_labels_of_every_kind_reach_the_square():
    inputs = make_inputs(sizes=((512, 340),), label="mixed")
    model = build_model(tiny_config("MODEL.SAM.PADDING", "center"))
    (target,) = model.label(inputs, model.preprocess_image(inputs)[1])
    left = (512 - 340) // 2
    instances = inputs[0]["instances"]
    assert target.kinds.tolist() == [LabelKind.BOX, LabelKind.POINT, LabelKind.MASK]
    assert torch.equal(target.boxes[0], instances.gt_boxes.tensor[0] + torch.tensor([left, 0, left, 0]))
    # From pixel centres to the system of boxes, in which a point set at a box's middle reaches SAM as that middle.
    assert torch.equal(target.points[1], instances.gt_points[1] + torch.tensor([left + 0.5, 0.5]))
    assert target.tags.tolist() == [3]
    # The covered share of each cell of 4 x 4 pixels, so that all cells together are the mask's area.
    assert target.masks.shape == (3, 128, 128) and not target.masks[:2].any()
    assert target.masks[2].sum().item() * 16 == instances.gt_masks.tensor[2].sum().item()
    x = target.masks[2].any(0).nonzero().min().item()
    assert x == (int(instances.gt_masks.tensor[2].any(0).nonzero().min()) + left) // 4


@pytest.mark.parametrize(
    "label, kind, names",
    [
        ("box", "box", {"class", "box"}),
        ("point", "point", {"class", "point"}),
        ("mask", "mask", {"class", "box", "mask"}),
        ("mixed", "as_annotated", {"class", "box", "point", "mask", "presence"}),
    ],
)
def test_losses_by_kind_have_the_same_names_in_every_step(prompter_name, label, kind, names):
    model = build_model(tiny_config("MODEL.PROMPTER.NAME", prompter_name, "WEAK_LABELS.TYPE", kind)).train()
    if prompter_name == "DensePrompter" and kind == "as_annotated":
        names = names - {"point"}  # its cells propose boxes, which a point says nothing of
    losses = model(make_inputs(label=label))
    assert set(losses) == {f"loss_{name}" for name in names}
    assert all(loss.item() > 0 for loss in losses.values())
    # Nothing labelled at all: the same names, as several processes need them.
    empty = model(make_inputs(parts=0, label="mask" if kind == "mask" else "point" if kind == "point" else "box"))
    assert set(empty) == set(losses)


def test_a_box_and_the_point_in_its_middle_reach_the_segmenter_in_one_system():
    """As in the authors' code, where the point is the middle of the very box that SAM is given otherwise."""
    annotation = {"id": 1, "category_id": 0, "bbox": [10, 20, 30, 44], "bbox_mode": BoxMode.XYWH_ABS}
    x, y = part_point(annotation, 512, 512, "box_center", seed=0)
    instances = Instances((512, 512), gt_classes=torch.zeros(1).long(), gt_kinds=torch.tensor([LabelKind.POINT]))
    instances.gt_points = torch.tensor([[x, y]])
    model = build_model(tiny_config("WEAK_LABELS.TYPE", "point"))
    record = {"image": torch.zeros(3, 512, 512, dtype=torch.uint8), "instances": instances}
    (target,) = model.label([record], model.preprocess_image([record])[1])
    assert target.points.tolist() == [[25.0, 42.0]]
    # SAM adds the same half pixel to both.
    point = model.teach(target.points)[0, 0] - model.backbone.prompt_encoder.point_embeddings[1].weight[0]
    corner = model.teach(torch.tensor([[25.0, 42, 99, 99]]))[0, 0]
    torch.testing.assert_close(point, corner - model.backbone.prompt_encoder.point_embeddings[2].weight[0])


def test_teachers_do_not_depend_on_mixed_precision():
    model, boxes = build_model(tiny_config()), torch.tensor([[10.3, 20.7, 333.1, 400.9]])
    plain = model.teach(boxes)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.teach(boxes)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, plain)


def test_a_mixed_batch_equals_its_kinds_one_by_one():
    """The paper's prompter: token losses of a batch that mixes kinds, against those of each kind's labels alone."""
    torch.manual_seed(0)
    model = build_model(tiny_config("WEAK_LABELS.TYPE", "as_annotated")).train()
    inputs = make_inputs(label="mixed", sizes=((512, 340),))
    mixed = model(inputs)
    features, frames = model.embed(inputs)
    (target,) = model.label(inputs, frames)
    logits, tokens = model.prompter.predict(features)
    taught = model.prompter.teach(target)
    torch.testing.assert_close(taught[1], model.teach(target.points[1:2])[0])
    torch.testing.assert_close(taught[0], model.teach(target.boxes[:1])[0])
    ((query, part),) = model.prompter.matcher(logits, tokens, [target], [taught])
    smooth = torch.nn.functional.smooth_l1_loss(tokens[0, query], taught[part], reduction="none").mean((1, 2))
    of_part = dict(zip(part.tolist(), smooth))
    torch.testing.assert_close(mixed["loss_point"], 20 * of_part[1] / 3)
    torch.testing.assert_close(mixed["loss_box"], 20 * (of_part[0] + of_part[2]) / 3)


def test_a_mask_teaches_the_prompt_through_the_frozen_decoder(prompter_name):
    model = build_model(tiny_config("MODEL.PROMPTER.NAME", prompter_name, "WEAK_LABELS.TYPE", "mask")).train()
    model(make_inputs(label="mask"))["loss_mask"].backward()
    head = model.prompter.prompt_head
    weight = head.weight if prompter_name == "DensePrompter" else head[2].weight
    assert weight.grad.abs().max() > 0
    assert all(p.grad is None for p in model.backbone.parameters())


def test_a_picture_with_tags_alone_trains(prompter_name):
    model = build_model(tiny_config("MODEL.PROMPTER.NAME", prompter_name, "WEAK_LABELS.TYPE", "as_annotated")).train()
    (record,) = make_inputs(label="box", parts=0, sizes=((200, 512),))
    record["tags"] = torch.tensor([1, 2])
    losses = model([record])
    assert losses["loss_presence"].item() > 0 and losses["loss_box"].item() == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_an_image_larger_than_the_square_is_named():
    record = make_inputs(sizes=((600, 100),))[0]
    record["file_name"] = "large.jpg"
    with pytest.raises(ValueError, match=r"large.jpg: 100x600 does not fit the 512x512 square"):
        build_model(tiny_config()).eval()([record])


def test_prompting_with_true_boxes_equals_sams_own_predictor():
    """The oracle against segment_anything.SamPredictor on the same weights, image and box."""
    from segment_anything import SamPredictor

    model = build_model(tiny_config()).eval()
    record = make_inputs(sizes=((512, 384),))[0]
    record["height"], record["width"] = 512, 384
    predictor = SamPredictor(build_sam("vit_tiny"))
    predictor.set_image(record["image"].permute(1, 2, 0).numpy())
    box = torch.tensor([[10.0, 20.0, 90.0, 120.0]])
    theirs, _, _ = predictor.predict(box=box[0].numpy(), multimask_output=False, return_logits=True)
    ours = model.prompt_boxes([record], [box])[0]
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-4, rtol=1e-4)


def test_checkpoints_hold_no_second_sam_and_refuse_another(tmp_path, prompter_name):
    torch.manual_seed(1)
    model = build_model(tiny_config("MODEL.PROMPTER.NAME", prompter_name))
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    saved = torch.load(tmp_path / "model.pth", weights_only=False)["model"]
    assert {k for k in saved if not k.startswith("prompter.")} == {
        "encoder_sha256",
        "encoder_name",
        "backbone.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    }
    torch.manual_seed(2)
    other = build_model(tiny_config("MODEL.PROMPTER.NAME", prompter_name))
    DetectionCheckpointer(other).load(str(tmp_path / "model.pth"))
    for key, value in model.prompter.state_dict().items():
        assert torch.equal(value, other.prompter.state_dict()[key])
    with torch.no_grad():
        next(other.backbone.parameters()).add_(1)
    other._frozen_hash = None
    with pytest.raises(
        ValueError, match=r"trained on another SAM .* \(vit_tiny \w{12}\.\.\., here vit_tiny \w{12}\.\.\.\)"
    ):
        DetectionCheckpointer(other).load(str(tmp_path / "model.pth"))


def test_a_checkpoint_of_another_preprocessing_is_refused(tmp_path):
    DetectionCheckpointer(build_model(tiny_config()), str(tmp_path)).save("model")
    other = build_model(tiny_config("MODEL.SAM.PADDING", "center"))
    with pytest.raises(
        ValueError,
        match=r"trained on another SAM or semantic network, or on one that sees pictures otherwise .*MODEL.SAM.PADDING",
    ):
        DetectionCheckpointer(other).load(str(tmp_path / "model.pth"))


def test_checkpoints_of_the_first_format_load_or_are_refused(tmp_path):
    """Hash of the weights alone, SAM's modules by their old names, the dense prompter's fusion called merge."""
    model = build_model(tiny_config("MODEL.PROMPTER.NAME", "DensePrompter"))
    first = {key.replace("prompter.fuse.", "prompter.merge."): v for key, v in model.state_dict().items()}
    first["teacher" + FOURIER_MATRIX.removeprefix("backbone")] = first.pop(FOURIER_MATRIX)
    del first["encoder_sha256"], first["encoder_name"]
    digest = bytes.fromhex(model.backbone.weights_hash())
    first["frozen_sam_sha256"] = torch.tensor(list(digest), dtype=torch.uint8)
    torch.save({"model": first}, tmp_path / "first.pth")
    torch.manual_seed(5)
    other = build_model(tiny_config("MODEL.PROMPTER.NAME", "DensePrompter"))
    incompatible = other.load_state_dict(first, strict=False)
    assert not incompatible.missing_keys and not incompatible.unexpected_keys
    for key, value in model.prompter.state_dict().items():
        assert torch.equal(value, other.prompter.state_dict()[key])
    shipped = build_model(tiny_config("MODEL.PROMPTER.NAME", "DensePrompter", "MODEL.SAM.WEIGHTS", "shipped"))
    with pytest.raises(ValueError, match="trained on another SAM"):
        DetectionCheckpointer(shipped).load(str(tmp_path / "first.pth"))


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (None, "holds neither the frozen weights that it was trained on nor their hash, encoder_sha256"),
        (torch.zeros(31, dtype=torch.uint8), r"expected torch\.uint8 \(32,\), got torch\.uint8 \(31,\)"),
        (torch.zeros(32), r"expected torch\.uint8 \(32,\), got torch\.float32 \(32,\)"),
        ("00" * 32, "got str"),
    ],
)
def test_a_checkpoint_without_a_sound_hash_is_refused(saved, message):
    model = build_model(tiny_config("MODEL.PROMPTER.NAME", "DensePrompter"))
    state = {**model.state_dict(), "encoder_sha256": saved}
    if saved is None:
        del state["encoder_sha256"]
    with pytest.raises(ValueError, match=message):
        model.load_state_dict(state, strict=False)
    # One that holds all that is frozen brings it along.
    model.load_state_dict({**model.prompter.state_dict(prefix="prompter."), **model.frozen_state()}, strict=False)


def test_infinite_and_nan_scores_find_nothing(prompter_name):
    """A score that is no number is no part: the whole picture is background."""
    model = build_model(tiny_config("MODEL.PROMPTER.NAME", prompter_name)).eval()
    for value in (float("nan"), float("inf")):
        with torch.no_grad():
            model.prompter.class_head.bias.fill_(value)
        output = model(make_inputs()[:1])[0]
        assert len(output["instances"]) == 0
        assert output["sem_seg"].shape == (5, 256, 170) and (output["sem_seg"].argmax(0) == 4).all()


# ------------------------------------------------------------------ a semantic network beside SAM


SEMANTIC = ("MODEL.SEMANTIC.NAME", "timm/mobilenetv2_035")


def test_a_semantic_network_is_frozen_seen_and_left_out_of_checkpoints(prompter_name):
    cfg = tiny_config("MODEL.PROMPTER.NAME", prompter_name, *SEMANTIC)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    inputs = make_inputs()
    losses = model(inputs)
    sum(losses.values()).backward()
    assert model.prompter.semantic.project["semantic_32"].weight.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in model.semantic.parameters()) and not model.semantic.training
    # What it sees matters.
    with torch.no_grad():
        mean = model.semantic.network.pixel_mean
        model.semantic.network.pixel_mean = (1.0, 1.0, 1.0)
        assert float(sum(model(inputs).values())) != pytest.approx(float(sum(losses.values()).detach()), abs=1e-4)
        model.semantic.network.pixel_mean = mean
    state = model.state_dict()
    assert not any(key.startswith("semantic.") for key in state)
    build_model(cfg).load_state_dict(state)
    for other in (("MODEL.SEMANTIC.NAME", "timm/mobilenetv3_small_050"), ("MODEL.SEMANTIC.IMAGE_SIZE", 256)):
        with pytest.raises(ValueError, match=r"trained on another SAM or semantic network"):
            build_model(tiny_config("MODEL.PROMPTER.NAME", prompter_name, *SEMANTIC, *other)).load_state_dict(state)


def test_the_semantic_network_sees_the_picture_where_sam_sees_it():
    model = build_model(tiny_config(*SEMANTIC, "MODEL.SAM.PADDING", "center")).eval()
    record = make_inputs(sizes=((200, 512),))[0]
    frame = model.embed([record])[1][0]
    square = model._square(record, frame)
    assert torch.equal(frame.crop(square), record["image"].float())
    assert float(square[:, 0].mean()) == float(square[:, -1].mean()) == 127.5


def test_masks_are_named_by_what_is_inside_them(monkeypatch):
    head = ("MODEL.PROMPTER.NAME", "DensePrompter", "MODEL.DENSE_PROMPTER.PART_WEIGHT", 1.0)
    torch.manual_seed(0)
    inputs = make_inputs(sizes=((512, 340),))
    found = {}
    for share in (0.0, 1.0):
        torch.manual_seed(0)
        model = build_model(tiny_config(*head, "MODEL.INFERENCE.NAMING", share)).eval()
        # Every cell is class 2, whatever the proposals say.
        with torch.no_grad():
            model.prompter.part_head.weight.zero_()
            model.prompter.part_head.bias.copy_(torch.tensor([0.0, 0, 9, 0, 0]))
            model.prompter.class_head.bias[-1] = -9
        found[share] = model(inputs)[0]["instances"].pred_classes
    assert len(found[0.0]) and (found[1.0] == 2).all() and not (found[0.0] == 2).all()


def test_points_are_prompts_where_their_pixel_is():
    model = build_model(tiny_config()).eval()
    (record,) = make_inputs(sizes=((512, 340),))
    record["height"], record["width"] = 256, 170
    # The centre of pixel (10, 20) of the original picture: 10.5, 20.5, twice that in the square.
    (found,) = model.prompt_points([record], [torch.tensor([[10.0, 20.0]])])
    features, frames = model.embed([record])
    tokens = model.backbone.encode_prompts(points=torch.tensor([[21.0, 41.0]]))
    expected = model.backbone.decode(features, [tokens])[0].logits[0]
    assert torch.allclose(found, resize_masks(expected, frames[0], 256, 170), atol=1e-5)
