"""A tiny encoder of each family, its weights on disk."""

from pathlib import Path

from wps_sam.encoders import hugging_face_networks as networks
from wps_sam.encoders.hugging_face_networks import EDGETAM, HQ, SAM2, SAM3, Arch

import torch

PYRAMID = [[16, 16], [8, 8], [4, 4]]
DECODER = {"mlp_dim": 32}
TRUNK = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 8,
    "image_size": [64, 64],
    "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads": 1,
    "num_attention_heads_per_stage": [1, 2, 4, 8],
    "blocks_per_stage": [1, 1, 2, 1],
    "global_attention_blocks": [3],
    "window_size_per_stage": [4, 2, 2, 2],
    "window_positional_embedding_background_size": [2, 2],
}
TIMM = {**networks._REPVIT, "architecture": "test_convnext"}
VIT3 = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "pretrain_image_size": 28,
    "window_size": 2,
    "global_attn_indexes": [1],
    "model_type": "sam3_vit_model",
}
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "global_attn_indexes": [1]}
# Each of its family's shape, four cells wide.
TINY = {
    "hq_test": Arch(
        HQ,
        {
            "vision_config": {**VIT, "image_size": 64, "window_size": 3},
            "prompt_encoder_config": {"image_size": 64},
            "mask_decoder_config": {**DECODER, "vit_dim": 32},
        },
    ),
    "sam2_test": Arch(
        SAM2,
        {
            "vision_config": {
                "backbone_config": TRUNK,
                "backbone_channel_list": [64, 32, 16, 8],
                "backbone_feature_sizes": PYRAMID,
            },
            "prompt_encoder_config": {"image_size": 64},
            "mask_decoder_config": DECODER,
        },
    ),
    "edgetam_test": Arch(
        EDGETAM,
        {
            "vision_config": {
                "backbone_config": TIMM,
                "backbone_channel_list": [64, 48, 32, 24],
                "backbone_feature_sizes": PYRAMID,
            },
            "prompt_encoder_config": {"image_size": 64},
            "mask_decoder_config": DECODER,
        },
    ),
    "sam3_test": Arch(
        SAM3,
        {
            "vision_config": {"backbone_config": VIT3, "backbone_feature_sizes": PYRAMID},
            "prompt_encoder_config": {"image_size": 56},
            "mask_decoder_config": DECODER,
        },
    ),
}


def write_weights(arch: str, folder: Path) -> None:
    """A folder of Hugging Face's, no weight of which is as it was initialised: many would be 0.

    The same weights whatever ran before: transformers initialises by the global generator.
    """
    import transformers

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = getattr(transformers, TINY[arch].family.model)(networks.config_of(arch))
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        network.save_pretrained(folder)
