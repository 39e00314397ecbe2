"""Classes by name: query features against text embeddings of the part names."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from ..text_embeddings import RANDOM_DIM, TextEmbeddings, random_embeddings
from ..vocabulary import PartVocabulary, split_part_name, words_of

logger = logging.getLogger(__name__)

# Class names to unit vectors [C, E].
Lookup = Callable[[Sequence[str]], Tensor]

# CLIP's: the temperature it starts from, and the largest scale it lets itself learn (arXiv 2103.00020, section 2.5).
START_TEMPERATURE = 0.07
MAX_SCALE = 100.0


class TextClassifier(nn.Module):
    """Scores are scaled cosines between a query's feature and the text embedding of each class name.

    "No part" has no name: its vector is learned, and a bias for how rare parts are. The bias is measured from
    log C, so that asking for more names does not by itself make parts more likely.

    Args:
        lookup: class names to their unit vectors, float [C, dim].
        dim: E, the width of text embeddings. ``feature_dim`` is that of the features it takes.
        no_part_bias: where the bias starts.
    """

    text: Tensor
    bias: Tensor

    def __init__(self, lookup: Lookup, dim: int, no_part_bias: float = 0.0) -> None:
        super().__init__()
        self.dim = self.feature_dim = dim
        self.lookup = lookup
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / START_TEMPERATURE)))
        self.no_part = nn.Parameter(torch.randn(dim) * dim**-0.5)
        self.no_part_bias = nn.Parameter(torch.tensor(float(no_part_bias)))
        self.register_buffer("text", torch.empty(0, dim), persistent=False)
        self.register_buffer("bias", torch.empty(0), persistent=False)

    def set_names(self, names: Sequence[str], bias: Sequence[float] | None = None) -> None:
        """From now on scores are for these classes; ``bias`` [C] is added to them.

        Raises:
            ValueError: lists the names without an embedding.
        """
        self.text = self.lookup(names).to(self.no_part)
        self.bias = self.no_part.new_tensor([0.0] * len(names) if bias is None else bias)

    def set_vocabulary(self, vocabulary: PartVocabulary, unseen_bias: float = 0.0) -> None:
        """:meth:`set_names` of the classes; ``unseen_bias`` is added to those that training did not see."""
        self.set_names(vocabulary.names, [unseen_bias * (c in vocabulary.unseen) for c in range(len(vocabulary))])

    def forward(self, features: Tensor) -> Tensor:
        """Features [..., feature_dim] to logits [..., C+1], last = no part."""
        self.check_names()
        return self.with_no_part(self.cosines(features, self.text) + self.bias, features)

    def check_names(self) -> None:
        if not len(self.text):
            raise ValueError("the model has no class names yet: call set_vocabulary first")

    def cosines(self, features: Tensor, text: Tensor) -> Tensor:
        """Scaled cosines [..., K] of features [..., E] with unit vectors [K, E]."""
        return self.log_scale.exp().clamp(max=MAX_SCALE) * F.normalize(features, dim=-1) @ text.T

    def with_no_part(self, logits: Tensor, features: Tensor) -> Tensor:
        """Logits [..., K] of names, and behind them that of none of these [..., K+1]."""
        no_part = self.cosines(features, F.normalize(self.no_part, dim=0)[None])
        return torch.cat([logits, no_part + self.no_part_bias + math.log(logits.shape[-1])], dim=-1)


class ComposedTextClassifier(TextClassifier):
    """Objects and their parts are named apart: p(dog's ear) = p(dog) p(ear | dog).

    Half of a feature is compared with the names of objects and with the vector of "no part", the other half with the
    names of parts, of which those of one object compete among themselves. So an ear is the same word on every animal,
    and a place that training calls "no part" teaches nothing about the names: what it looks like stays open to those
    that training does not know. Names without an object are parts of a nameless one, whose vector is learned.
    PartCLIPSeg and PartCATSeg (arXiv 2406.11384, 2501.09688) score objects and parts apart; that the scores are factors
    of one probability is ours.
    """

    objects: Tensor
    object_bias: Tensor

    def __init__(self, lookup: Lookup, dim: int, no_part_bias: float = 0.0) -> None:
        super().__init__(lookup, dim, no_part_bias)
        self.feature_dim = 2 * dim
        self.nameless = nn.Parameter(torch.randn(dim) * dim**-0.5)
        self.register_buffer("objects", torch.empty(0, dim), persistent=False)
        self.register_buffer("object_bias", torch.empty(0), persistent=False)
        # Of each object the classes of its parts, and the place of its vector behind that of the nameless one; of each
        # class its place in all families.
        self.families: list[list[int]] = []
        self.places: list[int] = []
        self.order: list[int] = []

    def set_vocabulary(self, vocabulary: PartVocabulary, unseen_bias: float = 0.0) -> None:
        """As of any; the bias is added to parts that training did not see, and to objects of which it saw none.

        Raises:
            ValueError: lists the names of objects and parts without an embedding.
        """
        names = [split_part_name(name) for name in vocabulary.names]
        words = words_of(vocabulary.names)
        vectors = self.lookup(words).to(self.no_part)
        self.text = vectors[[words.index(part) for _, part in names]]
        owners = list(dict.fromkeys(owner for owner, _ in names))
        self.families = [[c for c, (of, _) in enumerate(names) if of == owner] for owner in owners]
        members = [c for family in self.families for c in family]
        self.order = sorted(range(len(members)), key=members.__getitem__)
        named = [owner for owner in owners if owner]
        self.objects = vectors[[words.index(owner) for owner in named]]
        self.places = [1 + named.index(owner) if owner else 0 for owner in owners]
        self.bias = self.no_part.new_tensor([unseen_bias * (c in vocabulary.unseen) for c in range(len(names))])
        self.object_bias = self.no_part.new_tensor(
            [unseen_bias * vocabulary.unseen.issuperset(family) for family in self.families]
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features [..., 2E] to log probabilities [..., C+1], last = no part."""
        self.check_names()
        of_object, of_part = features.split(self.dim, dim=-1)
        # The nameless one is always part of the graph: every process of a distributed run needs the same gradients.
        names = torch.cat([F.normalize(self.nameless, dim=0)[None], self.objects])[self.places]
        objects = self.with_no_part(self.cosines(of_object, names) + self.object_bias, of_object).log_softmax(-1)
        parts = self.cosines(of_part, self.text) + self.bias
        composed = [
            objects[..., of, None] + parts[..., family].log_softmax(-1) for of, family in enumerate(self.families)
        ]
        return torch.cat([torch.cat(composed, dim=-1)[..., self.order], objects[..., -1:]], dim=-1)


# MODEL.PROMPTER.CLASSIFIER to what it is.
TEXT_CLASSIFIERS = {"text": TextClassifier, "composed_text": ComposedTextClassifier}


def build_text_classifier(cfg: CfgNode, no_part_bias: float = 0.0) -> TextClassifier | None:
    """With the embeddings of MODEL.TEXT.EMBEDDINGS, or with random ones where that is empty; None where classes are
    numbers."""
    made = TEXT_CLASSIFIERS.get(cfg.MODEL.PROMPTER.CLASSIFIER)
    if made is None:
        return None
    if not cfg.MODEL.TEXT.EMBEDDINGS:
        logger.warning("MODEL.TEXT.EMBEDDINGS is empty: names have random vectors, which mean nothing")
        return made(partial(random_embeddings, dim=RANDOM_DIM), RANDOM_DIM, no_part_bias)
    embeddings = TextEmbeddings.read(cfg.MODEL.TEXT.EMBEDDINGS)
    return made(embeddings.lookup, embeddings.dim, no_part_bias)
