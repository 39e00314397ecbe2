"""Learned words: contexts that are the embeddings of real words encode those words, and nothing else learns."""

from __future__ import annotations

from wps_sam.encoders.clip import random_clip
from wps_sam.encoders.prompt_bank import FixedTexts, PromptBank, token_row

import pytest
import torch


@pytest.fixture(scope="module")
def clip():
    found = random_clip()
    found.double()
    return found


def words(clip, ids):
    return clip.model.text_model.embeddings.token_embedding.weight[ids].detach()


@pytest.mark.parametrize(
    ("pattern", "phrase"),
    [
        ("[5]{name}.", "hello dog."),
        ("{name}[5].", "dog hello."),
        ("a photo of [5]<.>", "a photo of hello"),
        ("[5]{name} part.", "hello dog part."),
    ],
)
def test_contexts_that_are_words_encode_those_words(clip, pattern, phrase):
    bank = PromptBank(clip, ["dog", "cat"], pattern)
    with torch.no_grad():
        bank.contexts.copy_(words(clip, clip.tokens_of("hello"))[None])
    expected = clip.tokens_of(phrase)
    if "<.>" in pattern:
        # The entry without an end of word: not the "." of a sentence.
        stop = clip.tokenizer.get_vocab()["."]
        assert stop != clip.tokens_of(".")[0]
        expected = [*expected, stop]
        assert not torch.allclose(bank()[0], clip.text_features([clip.tokens_of(phrase + ".")])[0], atol=1e-6)
    assert torch.allclose(bank()[0], clip.text_features([expected])[0], atol=1e-12)


def test_slots_are_where_the_patterns_say(clip):
    dog, stop = clip.tokens_of("dog"), clip.tokens_of(".")
    assert token_row(clip, "[3]{name}.", {"name": "dog"}) == [-1, -1, -1, *dog, *stop]
    assert token_row(clip, "{name}[3].", {"name": "dog"}) == [*dog, -1, -1, -1, *stop]
    assert token_row(clip, "[3]{name}.", {"name": ""}) == [-1, -1, -1, *stop]
    around = token_row(clip, "a photo of [30]<.>", {"name": ""})
    # Without the start: SemPLeS's end of text is at K + 5.
    assert len(around) + 1 == len(clip.tokens_of("a photo of")) + 30 + 2 and around[-31:-1] == [-1] * 30
    both = token_row(clip, "[2]{object}[1]{part}.", {"object": "dog", "part": "ear"})
    assert both == [-1, -1, *dog, -1, *clip.tokens_of("ear"), *stop]


def test_a_text_is_its_state_at_the_end_whatever_follows(clip):
    """The end is found by its place, not by the largest token, which a number of a learned word could be."""
    row = clip.tokens_of("dog")
    ids = torch.zeros(2, 77, dtype=torch.int64)
    ids[:, : len(row) + 2] = torch.tensor([clip.tokenizer.bos_token_id, *row, clip.tokenizer.eos_token_id])
    ids[1, len(row) + 2 :] = 7
    states = clip.model.text_model(input_ids=ids).last_hidden_state
    features = torch.nn.functional.normalize(clip.model.text_projection(states), dim=-1)
    end = len(row) + 1
    assert torch.allclose(features[:, end], clip.text_features([row]).expand(2, -1), atol=1e-12)
    assert not torch.allclose(features[:, end + 1], clip.text_features([row]).expand(2, -1), atol=1e-3)


def test_only_contexts_learn_and_the_hook_is_gone(clip):
    bank = PromptBank(clip, ["dog", "cat", ""], "[4]{name}.", shared=False)
    assert [name for name, _ in bank.named_parameters()] == ["contexts"] and bank.contexts.shape == (3, 4, 48)
    before = clip.text_features([clip.tokens_of("a dog")])
    bank()[0].sum().backward()
    assert bank.contexts.grad[0].abs().sum() > 0 and not bank.contexts.grad[1:].any()
    assert all(p.grad is None for p in clip.parameters())
    assert torch.equal(clip.text_features([clip.tokens_of("a dog")]), before)
    shared = PromptBank(clip, ["dog", "cat"], "[4]{name}.")
    assert shared.contexts.shape == (1, 4, 48) and not torch.allclose(shared()[0], shared()[1])


def test_the_start_is_seeded_and_of_the_size_that_was_asked(clip):
    one, two = (PromptBank(clip, ["a"], "[64].", seed=s).contexts for s in (0, 1))
    assert torch.equal(one, PromptBank(clip, ["a"], "[64].").contexts) and not torch.equal(one, two)
    assert one.std().item() == pytest.approx(0.015, rel=0.05)
    uniform = PromptBank(clip, ["a"], "[64].", deviation=0).contexts
    assert 0 <= uniform.min() < 0.01 and 0.99 < uniform.max() < 1


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a {name}.", "expected learned words"),
        ("[3]{object}.", r"expected one of \{name\}, got \{object\}"),
        ("[3]<nonsense>", "'nonsense' is no entry"),
        ("[3]{name.", "not understood from '{name.' on"),
    ],
)
def test_patterns_that_mean_nothing_are_refused(clip, pattern, message):
    with pytest.raises(ValueError, match=message):
        PromptBank(clip, ["dog"], pattern)


def test_fixed_texts_are_encoded_once(clip):
    texts = FixedTexts(clip, ["a dog.", "a cat."])
    assert torch.equal(texts(), clip.text_features([clip.tokens_of("a dog."), clip.tokens_of("a cat.")]))
    assert not list(texts.parameters())
