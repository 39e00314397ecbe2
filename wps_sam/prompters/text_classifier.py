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
        dim: E, the width of text embeddings; features must have it too.
        no_part_bias: where the bias starts.
    """

    text: Tensor
    bias: Tensor

    def __init__(self, lookup: Lookup, dim: int, no_part_bias: float = 0.0) -> None:
        super().__init__()
        self.dim = dim
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

    def forward(self, features: Tensor) -> Tensor:
        """Features [..., E] to logits [..., C+1], last = no part."""
        if not len(self.text):
            raise ValueError("the model has no class names yet: call set_vocabulary first")
        names = torch.cat([self.text, F.normalize(self.no_part, dim=0)[None]])
        logits = self.log_scale.exp().clamp(max=MAX_SCALE) * F.normalize(features, dim=-1) @ names.T
        no_part = logits[..., -1:] + self.no_part_bias + math.log(len(self.text))
        return torch.cat([logits[..., :-1] + self.bias, no_part], dim=-1)


def build_text_classifier(cfg: CfgNode, no_part_bias: float = 0.0) -> TextClassifier:
    """With the embeddings of MODEL.TEXT.EMBEDDINGS, or with random ones where that is empty."""
    if not cfg.MODEL.TEXT.EMBEDDINGS:
        logger.warning("MODEL.TEXT.EMBEDDINGS is empty: names have random vectors, which mean nothing")
        return TextClassifier(partial(random_embeddings, dim=RANDOM_DIM), RANDOM_DIM, no_part_bias)
    embeddings = TextEmbeddings.read(cfg.MODEL.TEXT.EMBEDDINGS)
    return TextClassifier(embeddings.lookup, embeddings.dim, no_part_bias)
