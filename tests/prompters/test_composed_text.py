"""Objects and parts named apart: the composition by hand, and what a given object makes of "no part"."""

import math
from dataclasses import replace

from wps_sam.inference.naming import within_object
from wps_sam.prompters.text_classifier import ComposedTextClassifier
from wps_sam.vocabulary import PartVocabulary, split_part_name, words_of

import pytest
import torch
from detectron2.modeling import build_model
from tiny_wps_sam import make_inputs, tiny_config
from torch.nn import functional as F

# The families are interleaved on purpose.
NAMES = ["dog's ear", "car's door", "dog's tail", "cat's ear", "roof"]
VOCABULARY = PartVocabulary.from_names(NAMES)
COMPOSED = ("MODEL.PROMPTER.CLASSIFIER", "composed_text")


def axes(words):
    """A unit vector of eight numbers a word, always the same."""
    known = ["dog", "ear", "car", "door", "tail", "cat", "roof"]
    return torch.eye(8)[[known.index(word) for word in words]]


def classifier(unseen=(), bias=0.0):
    made = ComposedTextClassifier(axes, 8, no_part_bias=0.5)
    made.set_vocabulary(VOCABULARY.with_unseen(unseen), bias)
    with torch.no_grad():
        made.log_scale.fill_(math.log(2))
        made.no_part.copy_(3 * torch.eye(8)[7])
        made.nameless.copy_(5 * torch.eye(8)[7])
    return made


def test_names_fall_apart():
    assert split_part_name("chest of drawers's left leg") == ("chest of drawers", "left leg")
    assert split_part_name("roof") == ("", "roof")
    assert words_of(NAMES) == ["dog", "ear", "car", "door", "tail", "cat", "roof"]


def test_the_composition_by_hand():
    """Feature (dog 3, cat 4 | ear 3, tail 4): cosines 3/5 and 4/5, others 0; the scale is 2."""
    feature = torch.cat([3 * axes(["dog"]) + 4 * axes(["cat"]), 3 * axes(["ear"]) + 4 * axes(["tail"])], dim=1)
    found = classifier()(feature)[0]
    # Objects dog 1.2, car 0, cat 1.6, nameless 0, and none of the four: 0 + 0.5 + log 4.
    objects = torch.tensor([1.2, 0.0, 1.6, 0.0, 0.5 + math.log(4)]).softmax(0)
    ear = math.exp(1.2) / (math.exp(1.2) + math.exp(1.6))
    by_hand = [objects[0] * ear, objects[1], objects[0] * (1 - ear), objects[2], objects[3], objects[4]]
    assert found.exp().tolist() == pytest.approx([float(p) for p in by_hand], abs=1e-6)
    assert found.exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    # Were the parts of all objects to compete with one another, it would be another: the cat's only part would not
    # have all that is the cat's.
    parts = torch.tensor([1.2, 0.0, 1.6, 1.2, 0.0]).softmax(0)
    assert float(objects[2] * parts[3]) != pytest.approx(float(by_hand[3]), abs=0.05)


def test_no_part_teaches_nothing_about_the_names_of_parts():
    torch.manual_seed(0)
    features = torch.randn(6, 16, requires_grad=True)
    F.cross_entropy(classifier()(features), torch.full((6,), len(NAMES))).backward()
    assert features.grad[:, :8].abs().max() > 1e-3 and features.grad[:, 8:].abs().max() < 1e-7
    features.grad = None
    F.cross_entropy(classifier()(features), torch.zeros(6, dtype=torch.int64)).backward()
    assert features.grad[:, 8:].abs().max() > 1e-3


def test_the_bias_goes_to_parts_unseen_among_seen_ones_and_to_objects_unseen_as_a_whole():
    torch.manual_seed(0)
    features = torch.randn(7, 16)
    plain, helped = classifier()(features), classifier(unseen=(2, 3), bias=1.5)(features)
    # The dog's tail against the dog's ear, and the cat, of which nothing is seen, against the car.
    for one, other in ((2, 0), (3, 1)):
        gained = (helped[:, one] - helped[:, other]) - (plain[:, one] - plain[:, other])
        assert torch.allclose(gained, torch.full((7,), 1.5), atol=1e-5)


def test_within_a_given_object_no_part_goes_to_the_parts_that_were_not_shown():
    of_pixels = torch.tensor([0.3, 0.02, 0.1, 0.06, 0.52]).view(5, 1, 1)
    # Of the object's classes 0, 1 and 3 the last two are unseen: shares 1/4 and 3/4 of 0.52.
    found = within_object(of_pixels, [0, 1, 3], {1, 3})
    assert found.flatten().tolist() == pytest.approx([0.3, 0.02 + 0.13, 0.06 + 0.39])
    # With all seen they stay, and class 0 would be the answer: the rest of the mass decides.
    seen = within_object(of_pixels, [0, 1, 3], ())
    assert seen.flatten().tolist() == pytest.approx([0.3, 0.02, 0.06])
    assert (int(found.argmax()), int(seen.argmax())) == (2, 0)
    # Classes of other objects take no share; nothing is written into what came in.
    assert of_pixels.flatten().tolist() == pytest.approx([0.3, 0.02, 0.1, 0.06, 0.52])
    assert not within_object(torch.zeros(5, 1, 1), [0, 1], {1}).isnan().any()


@pytest.mark.parametrize("prompter", ["DETRPrompter", "DensePrompter"])
def test_trains_and_answers_by_name(prompter):
    torch.manual_seed(0)
    model = build_model(tiny_config("MODEL.PROMPTER.NAME", prompter, *COMPOSED))
    model.set_vocabulary(PartVocabulary.from_names(["hair", "skin", "dog's ear", "dog's tail"]))
    inputs = make_inputs()
    sum(model.train()(inputs).values()).backward()
    learned = model.prompter.classifier
    assert learned.no_part.grad.any() and learned.nameless.grad.any() and learned.log_scale.grad
    model.eval().set_vocabulary(VOCABULARY)
    assert model(inputs)[0]["sem_seg"].shape[0] == len(NAMES) + 1


def test_a_given_objects_pixels_are_those_of_the_whole_picture_within_it():
    """With MERGE part_map: its own classes of the full answer, where all are seen."""
    torch.manual_seed(0)
    dense = ("MODEL.PROMPTER.NAME", "DensePrompter", "MODEL.DENSE_PROMPTER.PART_WEIGHT", 1.0)
    model = build_model(tiny_config(*dense, *COMPOSED, "MODEL.INFERENCE.MERGE", "part_map")).eval()
    model.set_vocabulary(VOCABULARY)
    inputs = make_inputs()[:1]
    with torch.no_grad():
        free = model(inputs)[0]["sem_seg"]
        given = model([{**inputs[0], "category_id": 0}])[0]
        assert given["part_classes"].tolist() == [0, 2]
        assert torch.allclose(given["sem_seg"], free[[0, 2]], atol=1e-6)
        # The tail unseen: "no part" speaks for it.
        model.set_vocabulary(replace(VOCABULARY, unseen=frozenset({2})))
        hidden = model([{**inputs[0], "category_id": 0}])[0]["sem_seg"]
    assert torch.allclose(hidden, torch.stack([free[0], free[2] + free[-1]]), atol=1e-5)
