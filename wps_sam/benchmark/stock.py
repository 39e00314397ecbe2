"""What ours is measured against: segment_anything's own modules, called as their authors do, one image at a time;
of other SAMs transformers' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wps_sam.encoders.build_sam import SAM_ARCHS, build_sam
from wps_sam.encoders.hugging_face_networks import HUGGING_FACE_ARCHS, read_network
from wps_sam.models import WPSSAM

import torch
from segment_anything.modeling import Sam
from torch import Tensor


def stock_sam(arch: str, device: torch.device) -> Sam:
    """SAM ``arch`` as segment_anything makes it, with the seeded random weights of MODEL.SAM.WEIGHTS ""."""
    return build_sam(arch).to(device).requires_grad_(False)


def stock_encoder(arch: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Inputs [B, 3, S, S] to image embeddings, by segment_anything or, where it has no such SAM, by transformers."""
    if arch in SAM_ARCHS:
        return stock_sam(arch, device).image_encoder
    network, family = read_network(arch).to(device), HUGGING_FACE_ARCHS[arch].family
    return lambda images: family.look(network, images)["image_embedding"]


def put_stock_encoder(model: WPSSAM, sam: Sam) -> None:
    """From now on ``model`` sees through segment_anything's own image encoder."""
    model.backbone.image_encoder = sam.image_encoder


@torch.no_grad()
def part_maps(model: WPSSAM, sam: Sam, batched_inputs: list[dict[str, Any]]) -> Tensor:
    """Part maps int64 [B, H, W], all of one size: SAM's decoder and its resizing image by image, all masks at once.

    Args:
        model: whose prompter is asked, and whose MODEL.INFERENCE.MAX_PARTS surest queries are decoded.
        sam: as from :func:`stock_sam`, of the same weights as the model's.
        batched_inputs: as for ``model``.
    """
    features, frames = model.embed(batched_inputs)
    proposals = model.prompter.propose(features)
    maps = []
    for i, (record, frame) in enumerate(zip(batched_inputs, frames)):
        scores, classes = proposals.logits[i].softmax(-1).max(-1)
        kept = scores.masked_fill(classes == model.num_classes, -1).argsort(descending=True, stable=True)
        kept = kept[: model.thinning["max_parts"]]
        no_mask = sam.prompt_encoder(points=None, boxes=None, masks=None)[1]
        low_resolution, _ = sam.mask_decoder(
            image_embeddings=features["image_embedding"][i : i + 1],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=proposals.encode(i, kept),
            dense_prompt_embeddings=no_mask,
            multimask_output=False,
        )
        size, original = (frame.height, frame.width), (record["height"], record["width"])
        masks = sam.postprocess_masks(low_resolution, size, original)[:, 0].sigmoid()
        covering = masks * (masks >= 0.5) * scores[kept, None, None]
        part_map = masks.new_zeros(model.num_classes + 1, *original)
        for mask, category in zip(covering, classes[kept].tolist()):
            torch.maximum(part_map[category], mask, out=part_map[category])
        part_map[-1] = (part_map[:-1] == 0).all(0).to(part_map.dtype)
        maps.append(part_map.argmax(0))
    return torch.stack(maps)
