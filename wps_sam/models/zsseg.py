"""ZSSeg+, the two-stage baseline of OV-PARTS: masks proposed inside of one object, named by CLIP with learned prompts.

Axes in comments: B pictures, each of one object; K part classes; Q queries; R regions; h x w the picture as the network
sees it, H x W with its padding; S the side of CLIP's square input; E width of its joint embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.build_sam import RANDOM_WEIGHTS_SEED, read_state_dict
from ..encoders.clip import CLIP, PIXEL_MEAN, PIXEL_STD, build_clip
from ..encoders.prompt_bank import PromptBank
from ..vocabulary import PartVocabulary, object_of_part
from .frozen import FrozenWeights
from .mask_criterion import mask_set_loss
from .mask_labels import label_masks
from .mask_proposals import STRIDE, MaskProposals
from .region_classifier import (
    SCALE,
    class_scores,
    ensemble,
    fuse,
    hard_regions,
    masked_means,
    object_box,
    squeeze_masks,
)
from .resnet import build_resnet
from .zsseg_names import from_official

# Backbone: the size of the rest of the first stage, S, and the size of a random CLIP.
ARCHS = {
    "resnet50": ("published", 384, "vit_b_16"),
    "resnet101c": ("published", 384, "vit_b_16"),
    "tiny": ("tiny", 64, "tiny_wide"),
}
# Learned words start from a normal distribution of it.
PROMPT_DEVIATION = 0.02


@META_ARCH_REGISTRY.register()
class ZSSeg(FrozenWeights):
    """ZSSeg (arXiv 2112.14757) as OV-PARTS (arXiv 2310.05107) extends it to parts, "ZSSeg+".

    It is trained twice. "prompts": learned words around the names of object and part (CPTCoOp), and how much a region
    counts against its object, on CLIP's features of labelled regions. What OV-PARTS trained them with is not published;
    this uses nothing but what the second stage does. "proposals": a MaskFormer whose queries look inside of the
    object, with these prompts, frozen. At inference CLIP names the regions anew, and both scores are multiplied.

    Checkpoints hold all but CLIP, of which they hold the hash. Those of OV-PARTS' code load as they are.

    Args:
        clip: frozen.
        prompts: the bank of texts.
        fuse_weight: a number, how much a region counts against its object.
        conditional: CPTCoCoOp, whose learned words are moved by CLIP's feature of the object, where CLIP looks at it.
        proposals: the first stage; None while the prompts are trained.
        clip_size: S.
        own_classes: prompts are told apart among the object's own parts, else among all seen classes.
        weight: of the first stage for seen classes, and of the second for others.
        region_scale: by how much CLIP sees more than the object's box.
        backbone_multiplier: of the learning rate of the backbone.
        substring_names: of the reference's code: an object's parts are all whose name contains the object's.
        pixel_mean, pixel_std: of RGB in 0..255, for the backbone.
    """

    HASH_KEY = "frozen_clip_sha256"
    FROZEN_NAME = "CLIP"
    FROZEN_KEYS = "MODEL.ZSSEG.CLIP"

    pixel_mean: Tensor
    pixel_std: Tensor
    no_object: nn.Parameter | None
    texts: Tensor | None
    seen: Tensor | None

    @configurable
    def __init__(
        self,
        *,
        clip: CLIP,
        prompts: PromptBank,
        fuse_weight: Tensor,
        conditional: bool,
        proposals: MaskProposals | None,
        clip_size: int,
        own_classes: bool,
        weight: float,
        region_scale: float,
        backbone_multiplier: float,
        substring_names: bool,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        width = clip.model.config.projection_dim
        if conditional and width != clip.text_dim:
            raise ValueError(
                f"MODEL.ZSSEG.PROMPT_KIND is 'CPTCoCoOp', which adds image features to words, but those of this CLIP "
                f"have {width} and {clip.text_dim} numbers"
            )
        self.clip = clip
        self.prompts = prompts
        self.fuse_weight = nn.Parameter(fuse_weight)
        self.conditional = conditional
        self.proposals = proposals
        self.clip_size = clip_size
        self.own_classes = own_classes
        self.weight, self.region_scale = weight, region_scale
        self.backbone_multiplier = backbone_multiplier
        self.substring_names = substring_names
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        no_object = None
        if proposals is not None:
            self.prompts.requires_grad_(False)
            self.fuse_weight.requires_grad_(False)
            no_object = nn.Parameter(torch.randn(1, width) * clip.text_dim**-0.5)
        self.register_parameter("no_object", no_object)
        self.vocabulary: PartVocabulary | None = None
        # Buffers, so that they follow the model to its device.
        for name in ("texts", "seen"):
            self.register_buffer(name, None, persistent=False)
        self.watch_checkpoints()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.ZSSEG
        size, clip_size, random_size = ARCHS[node.ARCH]
        clip = build_clip(node.CLIP, random_size)
        pattern = "[{}]{{object}}[{}]{{part}}.".format(*node.PROMPT_LENGTHS)
        prompts = PromptBank(clip, [], pattern, deviation=PROMPT_DEVIATION, seed=RANDOM_WEIGHTS_SEED)
        fuse_weight = torch.zeros(())
        if node.PROMPTS:
            fuse_weight = read_prompts(node.PROMPTS, prompts)
        proposals = None
        if node.STAGE == "proposals":
            proposals = MaskProposals(
                build_resnet(node.ARCH, node.BACKBONE_WEIGHTS, "MODEL.ZSSEG.BACKBONE_WEIGHTS"),
                size=size,
                num_queries=node.NUM_QUERIES,
                embedding_dim=clip.model.config.projection_dim,
                attention="additive" if "additive_attention" in node.COMPAT else "inside",
            )
        return {
            "clip": clip,
            "prompts": prompts,
            "fuse_weight": fuse_weight,
            "conditional": node.PROMPT_KIND == "CPTCoCoOp",
            "proposals": proposals,
            "clip_size": clip_size,
            "own_classes": node.PROMPT_CLASSES == "object",
            "weight": node.ENSEMBLE_WEIGHT,
            "region_scale": node.REGION_SCALE,
            "backbone_multiplier": node.BACKBONE_MULTIPLIER,
            "substring_names": "substring_names" in cfg.TEST.OV_COMPAT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def train(self, mode: bool = True) -> ZSSeg:
        super().train(mode)
        # Steps of training move them.
        self.texts = None
        return self

    def optimizer_rules(self) -> dict[nn.Parameter, dict[str, float]]:
        """The factor on the learning rate of the backbone."""
        backbone = [] if self.proposals is None else self.proposals.backbone.parameters()
        return {parameter: {"lr": self.backbone_multiplier} for parameter in backbone}

    def set_vocabulary(self, vocabulary: PartVocabulary) -> None:
        """From now on these classes are trained or asked for."""
        self.prompts.set_names([split_name(name) for name in vocabulary.names])
        self.seen = torch.tensor([c not in vocabulary.unseen for c in range(len(vocabulary))], device=self.device)
        self.vocabulary = vocabulary
        self.texts = None

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, scores otherwise.

        Args:
            batched_inputs: per image a dict with "image", uint8 RGB [3, h, w]; "obj_sem_seg" int64 [h, w], the object
                of each pixel, else "ignore_label"; "category_id", the object that it is all about, all others being
                ignored; in training also "sem_seg" int64 [h, w] (classes 0..K-1, else "ignore_label"). At inference
                optionally "height" and "width", the size of the results (else h, w). Without "category_id", each object
                of "obj_sem_seg" is looked into.

        Returns:
            In training the losses of :func:`mask_set_loss`, or of prompts ``{"loss_prompts"}``. Otherwise per image
            {"sem_seg": float [k, H, W], "part_classes": int64 [k]}, of the object's own classes only; without
            "category_id" {"sem_seg": float [K+1, H, W]}, background last.

        Raises:
            ValueError: no vocabulary is set, there is no object, a label is none of the classes, or prompts alone
                are asked for masks.
        """
        if self.vocabulary is None:
            raise ValueError("the model has no class names yet: call set_vocabulary first")
        for record in batched_inputs:
            if "obj_sem_seg" not in record or (self.training and "category_id" not in record):
                raise ValueError(
                    f"{record.get('file_name', 'image')}: ZSSeg looks inside of given objects: set "
                    "INPUT.DATASET_MAPPER_NAME part_masks and INPUT.OBJECT_MAPS_AT_TEST True, and take data sets of "
                    "one object a record (..._obj_condition); whole pictures are tested with TEST.OBJECT_PREDICTIONS"
                )
        if self.proposals is None and not self.training:
            raise ValueError("MODEL.ZSSEG.STAGE is 'prompts': these make no masks; train 'proposals' with them")
        if self.training:
            return self.prompt_losses(batched_inputs) if self.proposals is None else self.mask_losses(batched_inputs)
        with torch.no_grad():
            return [self.object_inference(r) if "category_id" in r else self.inference(r) for r in batched_inputs]

    # -- the first stage

    def mask_losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """How far the proposals of all decoder layers are from the object's labelled parts."""
        images = _batch([self.normalised(record["image"]) for record in batched_inputs])
        objects = _batch([self.object_of(record)[None].float() for record in batched_inputs])
        masks, classes = label_masks(batched_inputs, len(self.prompts.rows), images.shape[-2:], self.device)
        found = self.proposals(images, objects)  # type: ignore[misc]
        return mask_set_loss(self.class_logits(found.features), found.masks, masks, classes)

    def class_logits(self, features: Tensor) -> Tensor:
        """Features [..., E] of unit length to logits [..., K+1], the last of no object."""
        assert self.no_object is not None
        return SCALE * features @ torch.cat([self.encode_names(), F.normalize(self.no_object, dim=-1)]).T

    @torch.no_grad()
    def encode_names(self) -> Tensor:
        """Texts of all classes, with words that do not move: float [K, E]; kept until something can change."""
        if self.texts is None:
            self.texts = self.prompts()
        return self.texts

    def propose(self, record: dict[str, Any], of_object: Tensor) -> Tensor:
        """Scores float [K, h, w] of a picture whose object is bool [h, w]."""
        height, width = of_object.shape
        images = _batch([self.normalised(record["image"])])
        found = self.proposals(images, _batch([of_object[None].float()]))  # type: ignore[misc]
        masks = F.interpolate(found.masks[-1], images.shape[-2:], mode="bilinear", align_corners=False)
        return class_scores(self.class_logits(found.features[-1, 0]), masks[0, :, :height, :width].sigmoid())

    def normalised(self, image: Tensor) -> Tensor:
        """uint8 [3, h, w] to what the backbone takes."""
        return (image.to(self.device).float() - self.pixel_mean) / self.pixel_std

    def object_of(self, record: dict[str, Any]) -> Tensor:
        """Where the record's only object is, bool [h, w]."""
        return record["obj_sem_seg"].to(self.device) != record["ignore_label"]

    # -- CLIP

    def prompt_losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The cross-entropy of labelled regions, the mean over those of the batch, among classes that are seen."""
        sees = []
        for record in batched_inputs:
            of_object = self.object_of(record)
            (masks,), (labels,) = label_masks([record], len(self.prompts.rows), of_object.shape, self.device)
            if len(labels):
                sees.append((record, of_object, masks > 0, labels))
        if not sees:
            # Several processes wait for the gradient of everything that learns.
            return {"loss_prompts": 0 * (self.prompts.contexts.sum() + self.fuse_weight)}
        looks = self.look([(record["image"], of_object, masks) for record, of_object, masks, _ in sees])
        wanted = [self.competing(record["category_id"]) for record, *_ in sees]
        texts = self.texts_for(wanted, torch.stack([of_object for _, of_object in looks]))
        logits, targets = [], []
        for (parts, of_object), own, texts_of_own, (*_, labels) in zip(looks, wanted, texts, sees):
            logits.append(SCALE * fuse(parts, of_object, self.fuse_weight) @ texts_of_own.T)
            targets.append(labels.new_tensor([own.index(c) for c in labels.tolist()]))
        losses = [F.cross_entropy(found, target, reduction="sum") for found, target in zip(logits, targets)]
        return {"loss_prompts": torch.stack(losses).sum() / sum(map(len, targets))}

    def competing(self, object_id: int) -> list[int]:
        """The classes that a region of the object is told from."""
        assert self.vocabulary is not None
        return self.vocabulary.parts_of(object_id) if self.own_classes else list(range(len(self.vocabulary)))

    def texts_for(self, wanted: Sequence[Sequence[int]], of_objects: Tensor) -> list[Tensor]:
        """Of each of B objects, whose features are [B, E], the texts of the classes that are wanted, [k, E]."""
        if not self.conditional:
            needed = sorted({c for classes in wanted for c in classes})
            features = self.prompts(needed)
            return [features[[needed.index(c) for c in classes]] for classes in wanted]
        counts = of_objects.new_tensor([len(classes) for classes in wanted], dtype=torch.int64)
        flat = [c for classes in wanted for c in classes]
        return list(self.prompts(flat, of_objects.repeat_interleave(counts, 0)).split(counts.tolist()))

    def look(self, objects: Sequence[tuple[Tensor, Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """What CLIP sees in regions of objects, and in the objects.

        Args:
            objects: of each a picture uint8 [3, h, w], its mask bool [h, w], not empty, and regions bool [R, h, w].

        Returns:
            Of each the features of its regions, float [R, E], and its own, [E]: means of unit vectors.
        """
        size = (self.clip_size, self.clip_size)
        mean, std = (self.pixel_mean.new_tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
        boxes = [object_box(of_object, self.region_scale) for _, of_object, _ in objects]
        squares = []
        for (image, _, _), (x0, y0, x1, y1) in zip(objects, boxes):
            piece = (image[:, y0:y1, x0:x1].to(self.device).float() / 255 - mean) / std
            squares.append(F.interpolate(piece[None], size, mode="bilinear", align_corners=False))
        dense = self.clip.dense_features(torch.cat(squares)).permute(0, 3, 1, 2)
        looks = []
        for (_, of_object, regions), box, features in zip(objects, boxes, dense):
            masks = squeeze_masks(torch.cat([regions, of_object[None]]), box, self.clip_size)
            *parts, whole = masked_means(features, masks)
            looks.append((torch.stack(parts), whole))
        return looks

    def name_regions(self, record: dict[str, Any], of_object: Tensor, own: Sequence[int], scores: Tensor) -> Tensor:
        """Which of the k classes ``own`` each pixel's region is by CLIP, float [k, h, w].

        Regions are those of the best ``scores`` [K, h, w]. Pixels of one that does not meet the object have 0.
        """
        if not own or not of_object.any():
            return scores.new_zeros(len(own), *scores.shape[1:])
        regions = hard_regions(scores, of_object)
        ((parts, whole),) = self.look([(record["image"], of_object, regions)])
        texts = self.texts_for([own], whole[None])[0] if self.conditional else self.encode_names()[list(own)]
        probabilities = (SCALE * fuse(parts, whole, self.fuse_weight) @ texts.T).softmax(-1)
        return torch.einsum("rk,rhw->khw", probabilities, regions.float())

    # -- both

    def segment(self, record: dict[str, Any], of_object: Tensor, own: Sequence[int]) -> Tensor:
        """Scores float [k, h, w] of the classes ``own`` in one object's mask, bool [h, w]; those of others are 0."""
        first = self.propose(record, of_object)
        second = self.name_regions(record, of_object, own, first)
        chosen = list(own)
        assert self.seen is not None
        return ensemble(first[chosen], second, self.seen[chosen], self.weight)

    def object_inference(self, record: dict[str, Any]) -> dict[str, Any]:
        """Scores of one object's own classes at the size of the results."""
        assert self.vocabulary is not None
        own = self._own(record["category_id"])
        scores = self.segment(record, self.object_of(record), own)
        classes = torch.tensor(own, dtype=torch.int64, device=self.device)
        return {"sem_seg": _resized(scores, record), "part_classes": classes}

    def inference(self, record: dict[str, Any]) -> dict[str, Any]:
        """Scores of a picture with several objects: of each pixel those of its object; background where it has none."""
        assert self.vocabulary is not None
        objects = record["obj_sem_seg"].to(self.device)
        scores = torch.zeros(len(self.vocabulary) + 1, *objects.shape, device=self.device)
        scores[-1] = 1
        for object_id in objects.unique().tolist():
            if object_id == record["ignore_label"]:
                continue
            here, own = objects == object_id, self._own(object_id)
            if own:
                scores[own] = torch.where(here, self.segment(record, here, own), scores[own])
                scores[-1, here] = 0
        return {"sem_seg": _resized(scores, record)}

    def _own(self, object_id: int) -> list[int]:
        assert self.vocabulary is not None
        vocabulary = self.vocabulary
        return vocabulary.parts_named_like(object_id) if self.substring_names else vocabulary.parts_of(object_id)

    # -- checkpoints

    def compute_frozen_hash(self) -> str:
        return self.clip.fingerprint()

    def frozen_state(self) -> Mapping[str, Tensor]:
        return {f"clip.{name}": value for name, value in self.clip.state_dict().items()}

    def check_frozen(self, state_dict: dict[str, Any], prefix: str) -> None:
        if not prefix:
            renamed = from_official(state_dict)
            state_dict.clear()
            state_dict.update(renamed)
        super().check_frozen(state_dict, prefix)
        # What is loaded may change them.
        self.texts = None


def read_prompts(path: str, prompts: PromptBank) -> Tensor:
    """Takes learned words out of a checkpoint, of ours or of OV-PARTS' code, and returns the weight of regions in it.

    Raises:
        ValueError: names the file, and what it lacks or has in another size.
    """
    state = from_official(read_state_dict(path))
    expected = {"prompts.contexts": tuple(prompts.contexts.shape), "fuse_weight": ()}
    for name, shape in expected.items():
        found = tuple(state[name].shape) if name in state else None
        if found != shape:
            raise ValueError(f"MODEL.ZSSEG.PROMPTS {path}: {name}: expected numbers {shape}, got {found or 'none'}")
    with torch.no_grad():
        prompts.contexts.copy_(state["prompts.contexts"])
    return state["fuse_weight"].float()


def split_name(name: str) -> dict[str, str]:
    """ "chest of drawers's leg" to object and part; a name without object is all object."""
    owner = object_of_part(name)
    return {"object": owner, "part": name[len(owner) :].removeprefix("'s ")}


def _batch(pictures: list[Tensor]) -> Tensor:
    """Of one size, zeros at the right and below, a multiple of the backbone's stride."""
    return ImageList.from_tensors(pictures, STRIDE).tensor


def _resized(scores: Tensor, record: dict[str, Any]) -> Tensor:
    height, width = record["image"].shape[-2:]
    size = (record.get("height", height), record.get("width", width))
    if not len(scores):
        return scores.new_zeros(0, *size)
    return F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
