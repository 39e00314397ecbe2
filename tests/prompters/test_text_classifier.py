"""Classes by name: cosines with text embeddings, vocabularies that change, parts of one object told apart."""

import math
from dataclasses import replace

from wps_sam.prompters.text_classifier import TextClassifier
from wps_sam.text_embeddings import TextEmbeddings, random_embeddings
from wps_sam.vocabulary import PartVocabulary

import pytest
import torch
from detectron2.modeling import build_model
from tiny_wps_sam import make_inputs, tiny_config
from torch.nn import functional as F

SEEN = PartVocabulary.from_names(["dog's ear", "dog's tail", "car's door", "car's wheel"])
ALL = PartVocabulary.from_names([*SEEN.names, "cat's ear", "cat's tail", "cat's leg"])
TEXT = ("MODEL.PROMPTER.CLASSIFIER", "text")


@pytest.fixture(params=["DETRPrompter", "DensePrompter"])
def model(request):
    torch.manual_seed(0)
    made = build_model(tiny_config("MODEL.PROMPTER.NAME", request.param, *TEXT))
    made.set_vocabulary(SEEN)
    return made


def axes(names):
    """A unit vector of three numbers a name, in the order they are asked for."""
    return torch.eye(3)[: len(names)]


def test_scores_by_hand():
    classifier = TextClassifier(axes, 3, no_part_bias=0.5)
    classifier.set_names(["a", "b"])
    with torch.no_grad():
        classifier.log_scale.fill_(math.log(10))
        classifier.no_part.copy_(torch.tensor([0.0, 0.0, 7.0]))
    # The feature (3, 4, 0) has the length 5: cosines 3/5, 4/5 and 0. "No part": 10 * 0 + 0.5 + log 2.
    logits = classifier(torch.tensor([[3.0, 4.0, 0.0]]))
    assert logits[0].tolist() == pytest.approx([6.0, 8.0, 0.5 + math.log(2)], abs=1e-5)
    # The length of a feature says nothing, that of the learned vector neither.
    assert torch.allclose(classifier(torch.tensor([[30.0, 40.0, 0.0]])), logits)
    unnormalised = 10 * torch.tensor([3.0, 4.0, 0.0]) @ axes(["a", "b"]).T
    assert not torch.allclose(unnormalised, logits[0, :2])


def test_more_names_do_not_make_parts_likelier():
    torch.manual_seed(0)
    features = torch.randn(500, 512)
    classifier = TextClassifier(random_embeddings, 512)
    shares = []
    for count in (10, 1000):
        classifier.set_names([f"part {i}" for i in range(count)])
        shares.append(classifier(features).softmax(-1)[:, :-1].sum(-1).mean().item())
    # Without log C they would be 0.92 and 1.00.
    assert shares[0] == pytest.approx(shares[1], abs=0.05)
    assert 0.3 < shares[1] < 0.7


def test_the_scale_is_limited():
    classifier = TextClassifier(axes, 3)
    classifier.set_names(["a"])
    with torch.no_grad():
        classifier.log_scale.fill_(50.0)
    assert classifier(torch.tensor([[1.0, 0, 0]]))[0, 0].item() == pytest.approx(100.0)


def test_without_names_there_are_no_scores():
    with pytest.raises(ValueError, match="set_vocabulary"):
        TextClassifier(axes, 3)(torch.ones(1, 3))


def test_names_without_embedding_are_listed(tmp_path):
    path = tmp_path / "names.safetensors"
    TextEmbeddings(SEEN.names, random_embeddings(SEEN.names, 8), "none", ("{}",)).write(path)
    made = build_model(tiny_config(*TEXT, "MODEL.TEXT.EMBEDDINGS", str(path)))
    made.set_vocabulary(SEEN)
    assert made.prompter.class_head.out_features == 8
    with pytest.raises(ValueError, match="cat's ear"):
        made.set_vocabulary(ALL)


def test_trains_on_seen_names_and_answers_for_all(model):
    inputs = make_inputs()
    losses = model.train()(inputs)
    sum(losses.values()).backward()
    classifier = model.prompter.classifier
    assert classifier.no_part.grad.any() and classifier.log_scale.grad and classifier.no_part_bias.grad
    model.eval().set_vocabulary(ALL)
    outputs = model(inputs)
    assert outputs[0]["sem_seg"].shape[0] == len(ALL) + 1
    model.set_vocabulary(SEEN)
    assert model(inputs)[0]["sem_seg"].shape[0] == len(SEEN) + 1


def test_a_checkpoint_holds_no_names(model):
    state = model.state_dict()
    assert not [key for key in state if key.endswith("classifier.text")]
    other = build_model(tiny_config("MODEL.PROMPTER.NAME", type(model.prompter).__name__, *TEXT))
    other.set_vocabulary(ALL)
    other.load_state_dict(state)
    other.set_vocabulary(SEEN)
    inputs = make_inputs()
    with torch.no_grad():
        assert torch.equal(model.eval()(inputs)[0]["sem_seg"], other.eval()(inputs)[0]["sem_seg"])


def test_a_query_that_points_at_an_unseen_name_gets_it(model):
    """What zero-shot rests on: the nearest name wins, whether or not it was there in training."""
    model.eval().set_vocabulary(ALL)
    wanted = random_embeddings(ALL.names)[5]
    head = model.prompter.class_head
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(wanted)
    assert (model(make_inputs())[0]["instances"].pred_classes == 5).all()


def test_object_conditioned_output(model):
    model.eval().set_vocabulary(ALL)
    inputs = make_inputs()
    inputs[0]["category_id"] = 2  # the cat
    with torch.no_grad():
        conditioned, free = model(inputs)
    height, width = inputs[0]["height"], inputs[0]["width"]
    assert conditioned["part_classes"].tolist() == [4, 5, 6]
    assert conditioned["sem_seg"].shape == (3, height, width)
    assert "part_classes" not in free and free["sem_seg"].shape[0] == len(ALL) + 1
    # Every pixel has a score: none is background.
    assert (conditioned["sem_seg"].max(0).values > 0).all()


def test_only_the_objects_own_classes_compete(model):
    """The other classes' scores change nothing."""
    model.eval().set_vocabulary(ALL)
    inputs = make_inputs()[:1]
    inputs[0]["category_id"] = 0
    with torch.no_grad():
        among_all = model(inputs)[0]
        model.set_vocabulary(PartVocabulary.from_names(ALL.names[:2]))
        alone = model(inputs)[0]
    # log C moves "no part", and so every score alike; who wins must stay.
    assert torch.equal(among_all["sem_seg"].argmax(0), alone["sem_seg"].argmax(0))


def test_an_object_without_parts_or_an_unknown_one_is_named(model):
    model.eval().set_vocabulary(replace(SEEN, object_names=("dog", "car", "boat")))
    inputs = make_inputs()[:1]
    for category_id, message in ((2, "boat"), (3, "expected 0..2")):
        with pytest.raises(ValueError, match=message):
            model([{**inputs[0], "category_id": category_id}])


def test_a_model_of_numbered_classes_has_only_its_own():
    made = build_model(tiny_config()).eval()
    inputs = make_inputs()[:1]
    inputs[0]["category_id"] = 1
    with pytest.raises(ValueError, match="set_vocabulary"):
        made(inputs)
    made.set_vocabulary(SEEN)
    assert made(inputs)[0]["part_classes"].tolist() == [2, 3]
    with pytest.raises(ValueError, match="CLASSIFIER text"):
        made.set_vocabulary(ALL)


def test_cosines_agree_with_torch():
    torch.manual_seed(0)
    features, names = torch.randn(5, 512), ["wheel", "door", "roof"]
    classifier = TextClassifier(random_embeddings, 512)
    classifier.set_names(names)
    expected = F.cosine_similarity(features[:, None], random_embeddings(names)[None], dim=-1) / 0.07
    assert torch.allclose(classifier(features)[:, :-1], expected, atol=1e-4)


def test_a_bias_helps_the_names_that_training_did_not_show(model):
    """Calibrated stacking: the same amount for each of them, nothing for the others."""
    torch.manual_seed(0)
    helped = build_model(
        tiny_config("MODEL.PROMPTER.NAME", type(model.prompter).__name__, *TEXT, "MODEL.INFERENCE.UNSEEN_BIAS", 3.0)
    )
    inputs = make_inputs()
    logits = []
    for one in (model, helped):
        one.eval().set_vocabulary(ALL.after_training_on(SEEN.names))
        with torch.no_grad():
            logits.append(one.prompter(one.embed(inputs)[0]).logits)
    gained = (logits[1] - logits[0]).flatten(0, 1)
    assert torch.allclose(gained, torch.tensor([0.0] * 4 + [3.0] * 3 + [0.0]).expand_as(gained), atol=1e-4)
