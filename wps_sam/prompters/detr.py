"""The paper's prompter (WPS-SAM, ECCV 2024, section on prompt learning)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from ..structures import Features, LabelKind, PartTargets, Proposals
from .losses import KINDS_OF_PLACE, LOSSES, class_loss, cross_entropy, place_loss, presence_loss, token_loss, weighted
from .matcher import HungarianMatcher
from .prompter import PROMPTER_REGISTRY, Decode, EncodePrompts, Prompter, decoded_mask_loss, one_query_a_mask
from .semantic_input import SemanticInput, Shape
from .text_classifier import TextClassifier, build_text_classifier
from .transformer import Transformer


@PROMPTER_REGISTRY.register()
class DETRPrompter(Prompter):
    """The paper's prompter: strided neck, transformer, N learned queries, token regression.

    At the paper's sizes and C = 40 it has 12,717,609 parameters.

    Args:
        num_classes: C; ``text_classifier`` in place of the linear class head.
        label_type: WEAK_LABELS.TYPE.
        num_queries, neck_strides, num_heads, ffn_dim, num_encoder_layers, num_decoder_layers: see :meth:`add_config`.
        embedding_size: side of the image embedding in cells; ``channels`` of it.
        semantic: shapes (D, h, w) by name of the features of a semantic network, which the neck sees beside it.
        dim: D, of the transformer and of a prompt token; ``tokens_per_prompt`` T.
        matcher: assigns queries to parts.
        class_weight, prompt_weight, mask_weight, presence_weight: of the losses.
        encode_prompts, decode: of the encoder.
    """

    CONFIG_NODE = "DETR_PROMPTER"

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        text_classifier: TextClassifier | None = None,
        label_type: str = "box",
        num_queries: int,
        embedding_size: int,
        semantic: Mapping[str, Shape] = {},
        channels: int = 256,
        dim: int = 256,
        tokens_per_prompt: int = 2,
        neck_strides: Sequence[int],
        num_heads: int,
        ffn_dim: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        matcher: HungarianMatcher,
        class_weight: float = 5.0,
        prompt_weight: float = 20.0,
        mask_weight: float = 1.0,
        presence_weight: float = 1.0,
        encode_prompts: EncodePrompts,
        decode: Decode,
    ) -> None:
        super().__init__()
        self.label_type = label_type
        self.tokens_per_prompt, self.dim = tokens_per_prompt, dim
        self.matcher = matcher
        self.weights = {
            "class": class_weight,
            "box": prompt_weight,
            "point": prompt_weight,
            "mask": mask_weight,
            "presence": presence_weight,
        }
        self.encode_prompts, self.decode = encode_prompts, decode
        self.semantic = SemanticInput(semantic, channels) if semantic else None
        channels *= 2 if semantic else 1
        neck: list[nn.Module] = []
        size = embedding_size
        for stride in neck_strides:
            neck += [nn.Conv2d(channels, dim, 3, stride, padding=1), LayerNorm2d(dim), nn.GELU()]
            channels, size = dim, -(-size // stride)
        self.neck = nn.Sequential(*neck)
        self.position = nn.Parameter(torch.zeros(1, dim, size, size))
        self.queries = nn.Embedding(num_queries, dim)
        self.transformer = Transformer(
            dim=dim,
            num_heads=num_heads,
            ffn_dim=ffn_dim,
            num_encoder_layers=num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
        )
        self.class_head = nn.Linear(dim, text_classifier.feature_dim if text_classifier else num_classes + 1)
        self.classifier = text_classifier or nn.Identity()
        width = tokens_per_prompt * dim
        self.prompt_head = nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width))

    @staticmethod
    def add_config(node: CfgNode) -> None:
        # N, the learned queries. Must be at least the largest number of parts of an image.
        node.NUM_QUERIES = 25
        # Strides of the neck, from the image embedding (64 cells a side at 1024 pixels) to the memory (16).
        node.NECK_STRIDES = [2, 2]
        # Depths, heads and feed-forward width of the transformer.
        node.NUM_ENCODER_LAYERS = 6
        node.NUM_DECODER_LAYERS = 6
        node.NUM_HEADS = 8
        node.FFN_DIM = 1024
        # Costs of the matching between queries and labelled parts (paper, section on training).
        node.MATCHER_CLASS_WEIGHT = 10.0
        node.MATCHER_PROMPT_WEIGHT = 1.0
        # Weights of the losses: classes; tokens of boxes and points (the paper's two).
        node.CLASS_WEIGHT = 5.0
        node.PROMPT_WEIGHT = 20.0
        # Of labels that are masks: SAM's mask for the prompt against the label. Of tags: the surest query of the class.
        node.MASK_WEIGHT = 1.0
        node.PRESENCE_WEIGHT = 1.0

    @classmethod
    def from_config(cls, cfg: CfgNode, encoder: Any, semantic: Mapping[str, Shape]) -> dict[str, Any]:
        node = cfg.MODEL.DETR_PROMPTER
        channels, embedding_size, _ = encoder.spec.features["image_embedding"]
        return {
            "num_classes": cfg.MODEL.PROMPTER.NUM_CLASSES,
            "text_classifier": build_text_classifier(cfg),
            "label_type": cfg.WEAK_LABELS.TYPE,
            "num_queries": node.NUM_QUERIES,
            "embedding_size": embedding_size,
            "semantic": semantic,
            "channels": channels,
            "dim": encoder.spec.prompt_dim,
            "tokens_per_prompt": (
                encoder.spec.point_tokens if cfg.WEAK_LABELS.TYPE == "point" else encoder.spec.box_tokens
            ),
            "neck_strides": node.NECK_STRIDES,
            "num_heads": node.NUM_HEADS,
            "ffn_dim": node.FFN_DIM,
            "num_encoder_layers": node.NUM_ENCODER_LAYERS,
            "num_decoder_layers": node.NUM_DECODER_LAYERS,
            "matcher": HungarianMatcher(
                class_weight=node.MATCHER_CLASS_WEIGHT, prompt_weight=node.MATCHER_PROMPT_WEIGHT
            ),
            "class_weight": node.CLASS_WEIGHT,
            "prompt_weight": node.PROMPT_WEIGHT,
            "mask_weight": node.MASK_WEIGHT,
            "presence_weight": node.PRESENCE_WEIGHT,
            "encode_prompts": encoder.encode_prompts,
            "decode": encoder.decode,
        }

    @classmethod
    def check_training_set(cls, cfg: CfgNode, records: Sequence[Mapping[str, Any]], num_parts: Sequence[int]) -> None:
        """Requires a query for every part of every training image."""
        most = max(range(len(records)), key=num_parts.__getitem__)
        if num_parts[most] > cfg.MODEL.DETR_PROMPTER.NUM_QUERIES:
            raise ValueError(
                f"MODEL.DETR_PROMPTER.NUM_QUERIES is {cfg.MODEL.DETR_PROMPTER.NUM_QUERIES}, but "
                f"{records[most]['file_name']} has {num_parts[most]} parts: set MODEL.DETR_PROMPTER.NUM_QUERIES "
                f"{num_parts[most]} or more"
            )

    def predict(self, features: Features) -> tuple[Tensor, Tensor]:
        """Class logits [B, N, C+1] and prompt tokens [B, N, T, D]."""
        seen = features["image_embedding"]
        if self.semantic is not None:
            seen = torch.cat([seen, self.semantic(features, seen.shape[-1])], dim=1)
        memory = self.neck(seen).flatten(2).transpose(1, 2)
        position = self.position.flatten(2).transpose(1, 2)
        hidden = self.transformer(memory, position, self.queries.weight)
        logits = self.classifier(self.class_head(hidden))
        return logits, self.prompt_head(hidden).unflatten(-1, (self.tokens_per_prompt, self.dim))

    def propose(self, features: Features) -> Proposals:
        logits, tokens = self.predict(features)
        return Proposals(logits, lambda image, queries: tokens[image, queries])

    def losses(self, features: Features, targets: Sequence[PartTargets]) -> dict[str, Tensor]:
        """The paper's two, by the kind of label; with masks and tags also theirs."""
        logits, tokens = self.predict(features)
        taught = [self.teach(target) for target in targets]
        matches = self.matcher(logits, tokens, targets, taught)
        losses = {"class": class_loss(cross_entropy, logits, targets, matches)}
        for name in LOSSES[self.label_type]:
            if name in KINDS_OF_PLACE:
                losses[name] = place_loss(KINDS_OF_PLACE[name], token_loss, tokens, taught, targets, matches)
            elif name == "mask":
                order = [query for query, _ in matches]
                asked = one_query_a_mask(matches, targets, order)
                prompts = [tokens[i, query] for i, (query, _) in enumerate(asked)]
                parts = [part for _, part in asked]
                losses[name] = decoded_mask_loss(self.decode, features, prompts, targets, parts)
            else:
                losses[name] = presence_loss(logits, targets)
        return weighted(losses, self.weights)

    @torch.no_grad()
    def teach(self, target: PartTargets) -> Tensor:
        """The encoder's own tokens [M, T, D] of an image's labels: what the prompter learns to say."""
        is_point = target.of_kind(LabelKind.POINT)
        if bool(is_point.all()) and len(target):
            return self._teach_points(target.points)
        # Of points alone there may be fewer tokens, where there is no label at all.
        taught = self.encode_prompts(boxes=target.boxes)[:, : self.tokens_per_prompt]
        if bool(is_point.any()):
            taught[is_point] = self._teach_points(target.points[is_point])
        return taught

    def _teach_points(self, points: Tensor) -> Tensor:
        """Of a point the last token is padding, of which it has more where boxes have more tokens (SAM 2)."""
        tokens = self.encode_prompts(points=points)
        return torch.cat([tokens, tokens[:, -1:].expand(-1, self.tokens_per_prompt - tokens.shape[1], -1)], dim=1)
