"""Text embeddings: what is computed, against numbers by hand and texts encoded one at a time; the file; random ones."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from wps_sam import text_embeddings
from wps_sam.text_embeddings import (
    RANDOM_DIM,
    TextEmbeddings,
    embed_names,
    masked_mean,
    mean_direction,
    random_embeddings,
)

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_encoders import write_bert, write_clip
from torch.nn import functional as F

NAMES = ("dog's ear", "chest of drawers's leg", "boat")
TEMPLATES = ("a photo of a {}.", "the {}")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_clip(tmp_path_factory.mktemp("tiny_clip"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_bert(tmp_path_factory.mktemp("tiny_bert"))


@pytest.fixture
def three() -> TextEmbeddings:
    return TextEmbeddings(NAMES, random_embeddings(NAMES, 5), "an encoder", TEMPLATES)


# ---------------------------------------------------------------- random embeddings


def test_random_embedding_is_the_same_everywhere() -> None:
    """SHAKE-256 of "dog's ear" begins with 25 a9 a1 29 bb fa 06 cb: as little-endian 16-bit integers -22235, 10657,
    -1349, -13562. Twice each plus one, over the root of the sum of squares; equal to the last bit."""
    odd = [-44469, 21315, -2697, -27123]
    length = (44469**2 + 21315**2 + 2697**2 + 27123**2) ** 0.5
    got = random_embeddings(["dog's ear"], 4)[0].tolist()
    assert got == torch.tensor([v / length for v in odd], dtype=torch.float64).float().tolist()
    assert got == [-0.7892279624938965, 0.37829485535621643, -0.04786587879061699, -0.48137420415878296]


def test_random_embedding_depends_on_its_name_alone() -> None:
    alone = torch.cat([random_embeddings([name]) for name in NAMES])
    assert torch.equal(random_embeddings(NAMES), alone)
    assert torch.equal(random_embeddings(NAMES[::-1]), alone.flip(0))
    assert alone.shape == (3, RANDOM_DIM) and alone.dtype == torch.float32
    torch.testing.assert_close(alone.norm(dim=1), torch.ones(3))


def test_random_embeddings_look_all_ways() -> None:
    """Cosines of 300 names: 0 on average, with the spread of random directions, 1 / sqrt(dim)."""
    vectors = random_embeddings([f"part {i}" for i in range(300)], 64)
    cosines = (vectors @ vectors.T)[~torch.eye(300, dtype=torch.bool)]
    assert abs(cosines.mean()) < 0.005
    assert cosines.std() == pytest.approx(64**-0.5, rel=0.03)
    assert abs(vectors.mean()) < 0.005


def test_random_embeddings_refuse_no_room() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        random_embeddings(NAMES, 0)


# ---------------------------------------------------------------- the mean over templates and over tokens


def test_mean_direction_by_hand() -> None:
    """Texts (3, 0) and (0, 1): unit vectors (1, 0) and (0, 1), mean (1/2, 1/2), of unit length (0.7071, 0.7071)."""
    features = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[0.0, 2.0], [0.0, 5.0]]])
    expected = torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0]])
    torch.testing.assert_close(mean_direction(features), expected)
    # Wrong: the mean of the features, (1.5, 0.5), points to (0.9487, 0.3162), where the longer text wants it.
    raw = F.normalize(features.mean(1), dim=-1)
    torch.testing.assert_close(raw[0], torch.tensor([0.9, 0.1]).sqrt())
    assert not torch.allclose(raw, expected, atol=0.1)
    # Wrong: the mean of unit vectors is none itself.
    assert not torch.allclose(F.normalize(features, dim=-1).mean(1), expected, atol=0.1)


def test_masked_mean_by_hand() -> None:
    """Two tokens and padding: ((1, 0) + (3, 2)) / 2; with the padding it would be (34.67, 34)."""
    tokens = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [100.0, 100.0]]])
    expected = torch.tensor([[2.0, 1.0]])
    assert torch.equal(masked_mean(tokens, torch.tensor([[1, 1, 0]])), expected)
    assert not torch.allclose(tokens.mean(1), expected)


# ---------------------------------------------------------------- encoders


def clip_by_hand(folder: str, text: str, position: int | None = None) -> torch.Tensor:
    """A text alone, without padding: the projected state at ``position``, which is by default that of end-of-text."""
    from transformers import CLIPModel, CLIPTokenizer

    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    tokens = tokenizer(text)["input_ids"]
    assert tokens[-1] == tokenizer.eos_token_id and tokens.count(tokens[-1]) == 1
    with torch.no_grad():
        states = model.text_model(torch.tensor([tokens])).last_hidden_state[0]
        return model.text_projection(states[-1 if position is None else position])


def bert_by_hand(folder: str, text: str) -> torch.Tensor:
    from transformers import BertModel, BertTokenizer

    model, tokenizer = BertModel.from_pretrained(folder).eval(), BertTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)


def template_mean_by_hand(encode: Any, folder: str, name: str, **options: Any) -> torch.Tensor:
    units = [F.normalize(encode(folder, text, **options), dim=0) for text in (f"a photo of a {name}.", f"the {name}")]
    total = units[0] + units[1]
    return total / total.norm()


def test_clip_embeddings_are_those_of_each_text_alone(clip: str) -> None:
    """Read at end-of-text, whatever padding other texts cause; "'s" stays in the name."""
    got = embed_names(NAMES, clip, TEMPLATES)
    expected = torch.stack([template_mean_by_hand(clip_by_hand, clip, name) for name in NAMES])
    torch.testing.assert_close(got.vectors, expected, rtol=0, atol=1e-5)
    assert (got.names, got.dim, got.templates) == (NAMES, 8, TEMPLATES)
    # Wrong: another token's state.
    before = torch.stack([template_mean_by_hand(clip_by_hand, clip, name, position=-2) for name in NAMES])
    assert not torch.allclose(before, expected, atol=1e-2)
    # Wrong: without "'s", as CLIPSeg is asked.
    without = template_mean_by_hand(clip_by_hand, clip, "dog ear")
    assert not torch.allclose(without, expected[0], atol=1e-2)


def test_clip_with_the_published_config(clip: str, tmp_path: Path) -> None:
    """OpenAI's own configs give 2 as end-of-text, which their tokenizer does not: then it is the highest token."""
    shutil.copytree(clip, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    got = embed_names(NAMES, str(tmp_path / "old"), TEMPLATES).vectors
    torch.testing.assert_close(got, embed_names(NAMES, clip, TEMPLATES).vectors)


def test_plain_encoder_embeddings_are_those_of_each_text_alone(bert: str) -> None:
    got = embed_names(NAMES, bert, TEMPLATES)
    expected = torch.stack([template_mean_by_hand(bert_by_hand, bert, name) for name in NAMES])
    torch.testing.assert_close(got.vectors, expected, rtol=0, atol=1e-5)
    assert got.dim == 16


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batches_make_no_difference(clip: str, monkeypatch: pytest.MonkeyPatch, batch_size: int) -> None:
    whole = embed_names(NAMES, clip, TEMPLATES)
    monkeypatch.setattr(text_embeddings, "_BATCH_SIZE", batch_size)
    torch.testing.assert_close(embed_names(NAMES, clip, TEMPLATES).vectors, whole.vectors, rtol=0, atol=1e-5)


def test_a_folder_is_remembered_by_its_name(clip: str) -> None:
    assert embed_names(NAMES, clip, TEMPLATES).encoder == Path(clip).name


def test_only_the_place_of_the_name_is_filled(bert: str) -> None:
    """Braces of another kind are text, in a template and in a name."""
    got = embed_names(["{}", "{x}"], bert, ["a {} {x}"])
    expected = torch.stack([bert_by_hand(bert, "a {} {x}"), bert_by_hand(bert, "a {x} {x}")])
    torch.testing.assert_close(got.vectors, F.normalize(expected, dim=-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ((), TEMPLATES, "at least one"),
        (("boat", " "), TEMPLATES, r"none of them empty, got \['boat', ' '\]"),
        (("boat", "car", "boat"), TEMPLATES, r"more than once: \['boat'\]"),
        (NAMES, (), r"MODEL\.TEXT\.TEMPLATES: expected at least one.*got \[\]"),
        (NAMES, ("a {}", "a photo"), r"MODEL\.TEXT\.TEMPLATES: .*one \{\} where.*got \['a photo'\]"),
        (NAMES, ("{} of {}",), r"got \['\{\} of \{\}'\]"),
        (NAMES, ("{}" + " and so on" * 9,), r"MODEL\.TEXT\.TEMPLATES: \"dog's ear and.* tokens, but .* reads 40"),
    ],
)
def test_what_can_not_be_embedded_is_refused(bert: str, names: Any, templates: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        embed_names(names, bert, templates)


def test_the_longest_text_that_fits(clip: str) -> None:
    """40 tokens, two of them start and end: 38 letters pass and 39 do not."""
    embed_names(["x" * 38], clip, ["{}"])
    with pytest.raises(ValueError, match="has 41 tokens, but .* reads 40; shorten"):
        embed_names(["x" * 39], clip, ["{}"])


def without_tokenizer(folder: Path) -> None:
    for path in [*folder.glob("*token*"), *folder.glob("vocab*")]:
        path.unlink()


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    key = next(key for key in weights if "token_embedding" in key or "word_embeddings" in key)
    save_file({k: v for k, v in weights.items() if k != key}, folder / "model.safetensors", {"format": "pt"})


def with_other(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


@pytest.mark.parametrize("write", [write_clip, write_bert])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "expected a CLIP or a plain text encoder"),
        (lambda folder: (folder / "model.safetensors").unlink(), "expected a CLIP or a plain text encoder"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "expected a CLIP or a plain text"),
        (without_tokenizer, "its tokenizer is missing or another's"),
        (without_a_weight, "its weights lack .*embedding"),
        (with_other(model_type="clip_text_model"), r"it is a clip_text_model"),
        (with_other(model_type="gpt2"), r"it is a gpt2"),
        (with_other(model_type="bart", is_encoder_decoder=True), r"it is a bart"),
        (with_other(model_type="siglip"), r"it is a siglip"),
    ],
)
def test_unfit_encoder_is_refused(write: Any, change: Any, message: str, tmp_path: Path) -> None:
    encoder = write(tmp_path / "encoder")
    change(tmp_path / "encoder")
    with pytest.raises(ValueError, match=r"(?s)MODEL\.TEXT\.ENCODER is '.*encoder'; .*" + message):
        embed_names(NAMES, encoder, TEMPLATES)


# ---------------------------------------------------------------- the file


def test_who_makes_embeddings_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[text\]'"):
        embed_names(["dog's ear"], "some/encoder", ["{}"])


def test_file_comes_back_without_transformers(
    three: TextEmbeddings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    path = tmp_path / "deep" / "names.safetensors"
    three.write(path)
    read = TextEmbeddings.read(path)
    assert (read.names, read.encoder, read.templates) == (NAMES, "an encoder", TEMPLATES)
    assert torch.equal(read.vectors, three.vectors) and read.dim == 5
    assert [p.name for p in path.parent.glob("[!.]*")] == ["names.safetensors"]


def test_same_embeddings_same_bytes(three: TextEmbeddings, tmp_path: Path) -> None:
    path = tmp_path / "names.safetensors"
    contents = set()
    for _ in range(8):
        three.write(path)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_lookup_follows_the_names(three: TextEmbeddings) -> None:
    got = three.lookup(["boat", "dog's ear", "boat"])
    assert torch.equal(got, three.vectors[[2, 0, 2]])


def test_lookup_names_what_is_missing_and_how_to_make_it(three: TextEmbeddings, tmp_path: Path) -> None:
    three.write(tmp_path / "names.safetensors")
    read = TextEmbeddings.read(tmp_path / "names.safetensors")
    message = r"names\.safetensors: 2 of 3 names .*\['cat', 'Boat'\].*python tools/embed_names\.py --config-file"
    with pytest.raises(ValueError, match=message):
        read.lookup(["cat", "boat", "Boat"])


ABOUT = {"names": ["a", "b"], "encoder": "e", "templates": ["{}"]}


@pytest.mark.parametrize(
    ("vectors", "about", "message"),
    [
        (torch.eye(2), None, "KeyError"),
        (torch.eye(2), {"names": ["a", "b"]}, "KeyError: 'templates'"),
        (torch.eye(3), ABOUT, r"expected float32 \[2, E\], a row a name, got torch\.float32 \[3, 3\]"),
        (torch.eye(2).half(), ABOUT, r"got torch\.float16"),
        (torch.tensor([[1.0, 0.0], [0.6, 0.7]]), ABOUT, r"of length 1, got \(name, length\) \[\('b', 0\.922\)\]"),
        (torch.full((2, 2), torch.nan), ABOUT, r"of length 1, got .*nan"),
        (torch.eye(2), {**ABOUT, "names": ["a", "a"]}, r"more than once: \['a'\]"),
    ],
)
def test_other_files_are_refused(vectors: torch.Tensor, about: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "names.safetensors"
    save_file({"embeddings": vectors}, path, about and {"text_embeddings": json.dumps(about)})
    with pytest.raises(ValueError, match=r"MODEL\.TEXT\.EMBEDDINGS .*names\.safetensors: .*" + message):
        TextEmbeddings.read(path)


@pytest.mark.parametrize("content", [None, b"", b"no tensors"])
def test_missing_and_damaged_files_are_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "names.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"names\.safetensors: expected .* `python tools/embed_names\.py"):
        TextEmbeddings.read(path)


def test_the_file_has_one_kind_of_name(three: TextEmbeddings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"names\.pth: expected a name that ends in \.safetensors"):
        three.write(tmp_path / "names.pth")
