"""What ours is measured against: segment_anything's own modules, called as their authors do, one image at a time;
of MobileSAM timm's, and of other SAMs transformers'."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

from wps_sam.encoders.build_sam import SAM_ARCHS, MobileSamArch, build_sam
from wps_sam.encoders.hugging_face_networks import HQ, HUGGING_FACE_ARCHS, read_network
from wps_sam.encoders.tiny_vit import TinyViT
from wps_sam.models import WPSSAM

import torch
from segment_anything.modeling import Sam
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn

STOCK = "segment_anything"


def stock_sam(arch: str, device: torch.device) -> Sam:
    """SAM ``arch`` as segment_anything makes it, with the seeded random weights of MODEL.SAM.WEIGHTS ""."""
    return build_sam(arch).to(device).requires_grad_(False)


def library(arch: str) -> str:
    """Who has a SAM ``arch`` of its own."""
    if arch in HUGGING_FACE_ARCHS:
        return "transformers"
    return "timm" if isinstance(SAM_ARCHS[arch], MobileSamArch) else STOCK


def stock_encoder(arch: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Inputs [B, 3, S, S] to image embeddings, by the library's own module, with the weights of ours."""
    if arch in HUGGING_FACE_ARCHS:
        network, family = read_network(arch).to(device), HUGGING_FACE_ARCHS[arch].family

        def look(images: Tensor) -> Tensor:
            seen = network.get_image_embeddings(images)
            if family is HQ:
                embedding, of_global_blocks = seen
                seen = embedding, of_global_blocks[0]
            return family.look(network, seen)["image_embedding"]

        return look
    encoder = stock_sam(arch, device).image_encoder
    return timm_mobile_sam(encoder) if isinstance(encoder, TinyViT) else encoder


def timm_mobile_sam(encoder: TinyViT) -> nn.Module:
    """timm's TinyViT of the weights, sizes and mode of ``encoder``, without the last halving, and with its neck."""
    stages: Any = encoder.layers
    first, *others = (stage["blocks"] for stage in stages)
    network: Any = TinyVit(
        embed_dims=(first[0].conv3.c.out_channels, *(blocks[0].local_conv.c.out_channels for blocks in others)),
        depths=(len(first), *map(len, others)),
        num_heads=(1, *(blocks[0].attn.heads for blocks in others)),
        window_sizes=(1, *(blocks[0].attn.window for blocks in others)),
        drop_path_rate=0.0,
    )
    network.stages[-1].downsample.conv2.conv.stride = (1, 1)
    renamed = {_timm_name(key): value.clone() for key, value in encoder.state_dict().items() if "neck." not in key}
    network.load_state_dict(renamed)
    network.head = nn.Identity()
    return nn.Sequential(network, copy.deepcopy(encoder.neck)).to(encoder.head.weight.device).train(encoder.training)


def _timm_name(key: str) -> str:
    """A tensor's name in timm: what leads from one stage to the next belongs to the second there."""
    key = re.sub(r"layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) + 1}.downsample", key)
    key = re.sub(r"seq\.(\d)", lambda found: f"conv{int(found[1]) // 2 + 1}", key)
    key = re.sub(r"^head\.", "head.fc.", key)
    return key.replace("layers.", "stages.").replace(".c.", ".conv.").replace("norm_head.", "head.norm.")


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
