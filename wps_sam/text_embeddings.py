"""Text embeddings of part names: what a class is for a model that is asked for names instead of numbers.

They are made once, by tools/embed_names.py, and read from a file that needs no text encoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from .outputs import write_output

# As wide as those of the usual CLIP, so that a model does not change its size when meaning takes the place of chance.
RANDOM_DIM = 512

_COMMAND = "python tools/embed_names.py --config-file FILE"
_METADATA_KEY = "text_embeddings"
# Texts that go through an encoder at once. Part of what a file's last bits depend on.
_BATCH_SIZE = 256


@dataclass(frozen=True, eq=False)
class TextEmbeddings:
    """The text embedding of each of K names.

    ``names``, all different, as the data sets spell them; ``vectors`` float32 [K, E], each of unit length;
    ``encoder`` and ``templates`` say how they were made; ``source`` is the file they come from, for messages.

    Raises:
        ValueError: a name is empty or there twice, or ``vectors`` is not as said.
    """

    names: tuple[str, ...]
    vectors: Tensor
    encoder: str
    templates: tuple[str, ...]
    source: str = "text embeddings"

    def __post_init__(self) -> None:
        _check_names(self.names)
        shape, dtype = tuple(self.vectors.shape), self.vectors.dtype
        if len(shape) != 2 or shape[0] != len(self.names) or dtype != torch.float32:
            raise ValueError(f"expected float32 [{len(self.names)}, E], a row a name, got {dtype} {list(shape)}")
        lengths = self.vectors.norm(dim=1)
        wrong = [(n, round(v, 4)) for n, v in zip(self.names, lengths.tolist()) if not abs(v - 1) < 1e-3]
        if wrong:
            raise ValueError(f"expected vectors of length 1, got (name, length) {wrong[:5]}")

    @property
    def dim(self) -> int:
        """E, the width of the vectors."""
        return self.vectors.shape[1]

    @classmethod
    def read(cls, path: str | Path) -> TextEmbeddings:
        """Reads what :meth:`write` has written.

        Raises:
            ValueError: the file is missing, damaged, or no file of text embeddings; names it.
        """
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})[_METADATA_KEY])
                vectors = file.get_tensor("embeddings")
            names, templates = tuple(about["names"]), tuple(about["templates"])
            return cls(names, vectors, about["encoder"], templates, source=str(path))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ValueError(
                f"MODEL.TEXT.EMBEDDINGS {path}: expected a .safetensors file of text embeddings, "
                f"as `{_COMMAND}` makes it ({type(error).__name__}: {error})"
            ) from error

    def write(self, path: str | Path) -> None:
        """Writes a .safetensors at once or not at all: tensor "embeddings" [K, E], the rest as JSON in its metadata.

        Raises:
            ValueError: ``path`` does not end in .safetensors, or is a file that this project did not make.
        """
        if Path(path).suffix != ".safetensors":
            raise ValueError(f"MODEL.TEXT.EMBEDDINGS {path}: expected a name that ends in .safetensors")
        about = {"names": self.names, "encoder": self.encoder, "templates": self.templates}
        # One entry: the library writes several in an order that changes from run to run.
        data = save({"embeddings": self.vectors.contiguous()}, {_METADATA_KEY: json.dumps(about)})
        write_output(path, data)

    def lookup(self, names: Sequence[str]) -> Tensor:
        """The vectors of ``names``, float32 [C, E], in their order.

        Raises:
            ValueError: lists the names that are not there, and the command that makes them.
        """
        rows = {name: row for row, name in enumerate(self.names)}
        missing = [name for name in names if name not in rows]
        if missing:
            raise ValueError(
                f"{self.source}: {len(missing)} of {len(names)} names have no embedding: {missing[:10]}; "
                f"make a file with all of them: {_COMMAND}"
            )
        return self.vectors[[rows[name] for name in names]]


def random_embeddings(names: Sequence[str], dim: int = RANDOM_DIM) -> Tensor:
    """A random direction a name, float32 [C, dim] of unit length: for tests, where meaning does not matter.

    A name's vector depends on that name and ``dim`` alone, and is the same to the last bit on every machine and with
    every version: it comes from a hash, and the arithmetic before the one rounding is in whole numbers.

    Raises:
        ValueError: a name is empty or there twice, or ``dim`` is below 1.
    """
    _check_names(names)
    if dim < 1:
        raise ValueError(f"random text embeddings: expected a dim of at least 1, got {dim}")
    vectors = np.empty((len(names), dim), np.float32)
    for vector, name in zip(vectors, names):
        stream = np.frombuffer(hashlib.shake_256(name.encode()).digest(2 * dim), "<i2").astype(np.int64)
        # Odd numbers, so that the mean is 0 and no vector is.
        numbers = 2 * stream + 1
        vector[:] = numbers / np.sqrt((numbers**2).sum())
    return torch.from_numpy(vectors)


def embed_names(names: Sequence[str], encoder: str, templates: Sequence[str]) -> TextEmbeddings:
    """The text embeddings of ``names``: of each, the mean direction of its texts, one a template.

    Args:
        names: as the data sets spell them; "'s" stays, as in CAT-Seg ("a photo of a dog's ear.").
        encoder: name at Hugging Face, or folder, of a CLIP (its projected text features, read at the end-of-text
            token) or of a plain text encoder such as BERT and its kin (the mean over the tokens of its last layer).
        templates: texts with one ``{}`` each, where the name goes.

    Raises:
        ValueError: a name is empty or there twice, a template is unfit, ``encoder`` is no such encoder or not whole,
            or a text is longer than it can read.
    """
    _check_names(names)
    _check_templates(templates)
    texts = [template.replace("{}", name) for name in names for template in templates]
    encode = _TextEncoder(encoder)
    features = torch.cat([encode(texts[i : i + _BATCH_SIZE]) for i in range(0, len(texts), _BATCH_SIZE)])
    # Of a folder its name alone: where it lies says nothing, and would make the file differ between machines.
    label = Path(encoder).resolve().name if Path(encoder).is_dir() else encoder
    vectors = mean_direction(features.unflatten(0, (len(names), len(templates))))
    return TextEmbeddings(tuple(names), vectors, label, tuple(templates))


def mean_direction(features: Tensor) -> Tensor:
    """Features [K, T, E] of T texts each to unit vectors [K, E]: the mean of the texts' unit vectors, made unit again.

    Each text counts alike: in a mean of the features themselves the longest would decide. From CLIP's zero-shot
    classifier (arXiv 2103.00020, section 3.1.4).
    """
    return F.normalize(F.normalize(features, dim=-1).mean(1), dim=-1)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """The mean of token features [N, L, E] over the tokens where ``mask`` [N, L] is 1, so without padding: [N, E]."""
    weights = mask[..., None].to(tokens)
    return (tokens * weights).sum(1) / weights.sum(1)


class _TextEncoder:
    """Texts to features, float32 [N, E]; see :func:`embed_names` for the kinds of encoder and the errors."""

    def __init__(self, source: str) -> None:
        # Here and not above: only who makes embeddings needs transformers, and importing it takes seconds.
        try:
            from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, AutoModel, AutoTokenizer
        except ImportError as error:
            raise ImportError(
                "MODEL.TEXT.ENCODER needs Hugging Face's transformers: pip install '.[text]' in the clone"
            ) from error

        self.source = source
        expected = "expected a CLIP or a plain text encoder (BERT and its kin): a name at Hugging Face, or a folder"
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            self.is_clip = config.model_type == "clip"
            if not self.is_clip and (config.is_encoder_decoder or type(config) not in MODEL_FOR_MASKED_LM_MAPPING):
                raise ValueError(f"it is a {config.model_type}")
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            model, loading = AutoModel.from_pretrained(source, output_loading_info=True, trust_remote_code=False)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"MODEL.TEXT.ENCODER is {source!r}; {expected} ({error})") from error
        # A plain encoder's pooler is not used; anything else missing would be random, without a word.
        missing = sorted(key for key in loading["missing_keys"] if not key.startswith("pooler."))
        if missing:
            raise ValueError(f"MODEL.TEXT.ENCODER is {source!r}; its weights lack {missing[:5]}")
        text_config = config.get_text_config()
        # Without its files a tokenizer comes as one of special tokens only, again without a word.
        num_special, num_tokens = len(set(self.tokenizer.all_special_ids)), len(self.tokenizer)
        if not num_special < num_tokens <= text_config.vocab_size:
            raise ValueError(
                f"MODEL.TEXT.ENCODER is {source!r}; its tokenizer is missing or another's: it has {num_tokens} tokens, "
                f"{num_special} of them special, and the encoder {text_config.vocab_size}"
            )
        self.model = model.float().eval()
        self.limit = min(self.tokenizer.model_max_length, text_config.max_position_embeddings)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        inputs = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        for text, length in zip(texts, inputs["attention_mask"].sum(1).tolist()):
            if length > self.limit:
                raise ValueError(
                    f"MODEL.TEXT.TEMPLATES: {text!r:.120} has {length} tokens, but {self.source} reads {self.limit}; "
                    "shorten the template or the name"
                )
        if self.is_clip:
            return self.model.get_text_features(**inputs).pooler_output
        return masked_mean(self.model(**inputs).last_hidden_state, inputs["attention_mask"])


def _check_templates(templates: Sequence[str]) -> None:
    unfit = [template for template in templates if template.count("{}") != 1]
    if unfit or not templates:
        raise ValueError(
            "MODEL.TEXT.TEMPLATES: expected at least one, each with one {} where the name goes, such as "
            f"'a photo of a {{}}.'; got {unfit or list(templates)}"
        )


def _check_names(names: Sequence[str]) -> None:
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"names to embed: expected at least one and none of them empty, got {list(names)!r:.120}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"names to embed: expected different names, these come more than once: {twice}")
