"""What every prompter is: features of a frozen encoder in, proposals out; with its own keys, matching and losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor, nn

from ..structures import Features, LabelKind, PartTargets, Proposals
from ..vocabulary import PartVocabulary
from .losses import mask_loss
from .matcher import Matches
from .text_classifier import TextClassifier

PROMPTER_REGISTRY = Registry("PROMPTER")
PROMPTER_REGISTRY.__doc__ = """
Prompters, chosen by ``MODEL.PROMPTER.NAME`` and called as ``prompter_class(cfg, encoder, semantic)`` with the frozen
:class:`wps_sam.encoders.PromptableEncoder` and the shapes (D, h, w) by name of a semantic network's features, which may
be none. One registered by somebody else before the configuration is made works like ours.
"""

# Of PromptableEncoder.
EncodePrompts = Callable[..., Tensor]
Decode = Callable[..., Any]


class Prompter(nn.Module):
    """Base class. A prompter learns which parts there are and how to ask a segmenter for each.

    Its keys are the node ``MODEL.<CONFIG_NODE>``, declared by :meth:`add_config`; values that differ from the
    defaults there are refused when another prompter is chosen. ``CHOICES`` lists the allowed values of keys that have
    few. With ``PROPOSES_BOXES`` its proposals can be thinned by MODEL.INFERENCE.NMS_THRESHOLD.
    """

    CONFIG_NODE: ClassVar[str]
    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    PROPOSES_BOXES: ClassVar[bool] = False

    # Where MODEL.PROMPTER.CLASSIFIER is not "linear", a TextClassifier.
    classifier: nn.Module

    @staticmethod
    def add_config(node: CfgNode) -> None:
        """Puts the prompter's keys with their defaults into ``node``."""

    @classmethod
    def needs_image(cls, cfg: CfgNode) -> bool:
        """Whether it looks at the normalised picture itself ("image" of the features) beside what the encoder saw."""
        return False

    @classmethod
    def needs_part_maps(cls, cfg: CfgNode) -> bool:
        """Whether its losses ask for the ``part_map`` of its targets."""
        return False

    @classmethod
    def check_training_set(cls, cfg: CfgNode, records: Sequence[Mapping[str, Any]], num_parts: Sequence[int]) -> None:
        """Raises ValueError where the data asks for more than ``cfg`` gives; ``num_parts`` of each record."""

    def propose(self, features: Features) -> Proposals:
        """Proposals for B images."""
        raise NotImplementedError

    def losses(self, features: Features, targets: Sequence[PartTargets]) -> dict[str, Tensor]:
        """Weighted scalars by name, ``loss_...``; the same names in every step of a run."""
        raise NotImplementedError

    def forward(self, features: Features | Tensor) -> Proposals:
        """As :meth:`propose`; an image embedding [B, 256, h, w] alone will do."""
        return self.propose({"image_embedding": features} if isinstance(features, Tensor) else features)

    def set_vocabulary(self, vocabulary: PartVocabulary, unseen_bias: float = 0.0) -> None:
        """From now on the classes are these, if told by name; ``unseen_bias`` is added to those not trained on.

        Raises:
            ValueError: names without a text embedding.
        """
        classifier = getattr(self, "classifier", None)
        if isinstance(classifier, TextClassifier):
            classifier.set_vocabulary(vocabulary, unseen_bias)

    @property
    def takes_names(self) -> bool:
        """Whether classes are told by name, so that others than those of the training can be asked for."""
        return isinstance(getattr(self, "classifier", None), TextClassifier)


def decoded_mask_loss(
    decode: Decode,
    features: Features,
    tokens: Sequence[Tensor],
    targets: Sequence[PartTargets],
    parts: Sequence[Tensor],
) -> Tensor:
    """:func:`mask_loss` of what the segmenter cuts out for prompts [K_i, T, D] of each image's parts int64 [K_i]."""
    truth = [
        of_image.new_zeros(0, 1, 1) if target.masks is None else target.masks[part]
        for of_image, target, part in zip(tokens, targets, parts)
    ]
    logits = [of_image.logits[:, 0] for of_image in decode(features, tokens)]
    # An image without masks still hangs on its prompts, which are none.
    logits = [of_image if len(part) else token.sum() for of_image, token, part in zip(logits, tokens, parts)]
    return mask_loss(logits, truth)


def one_query_a_mask(matches: Matches, targets: Sequence[PartTargets], order: Sequence[Tensor]) -> Matches:
    """Of the matches those of parts labelled by a mask, one query each: the first by ``order`` [K] of each image."""
    chosen = []
    for (query, part), target, rank in zip(matches, targets, order):
        is_mask = target.of_kind(LabelKind.MASK)[part]
        query, part, rank = query[is_mask], part[is_mask], rank[is_mask]
        by_rank = rank.argsort(stable=True)
        query, part = query[by_rank], part[by_rank]
        first = torch.stack([(part == p).nonzero()[0, 0] for p in part.unique()]) if len(part) else part
        chosen.append((query[first], part[first]))
    return chosen
