"""CLIPSeg, the one-stage baseline of OV-PARTS: every class name is a prompt with a mask of its own.

Axes in comments: B images, K part classes, L tapped layers, P tokens of a picture (its patches, and CLIP's class
token), D width of CLIP's image encoder, E width of its joint embedding, S side of the square network input in
pixels, s side of the logits (S for the published weights).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.build_sam import RANDOM_WEIGHTS_SEED
from ..encoders.clip import BYTE_TOKENS, NUM_TOKENS, byte_tokenizer, check_tokenizer, import_transformers
from ..vocabulary import PartVocabulary
from .named_masks import NamedMasks

logger = logging.getLogger(__name__)

# Classes decoded at a time at inference: bounds the memory, whatever the vocabulary.
CLASSES_PER_CHUNK = 32

ARCHS: dict[str, tuple[int, dict[str, Any]]] = {
    # Image side S, and what differs from the defaults of transformers' CLIPSegConfig.
    "rd64": (352, {"vision_config": {"patch_size": 16}}),
    "tiny": (
        64,
        {
            "text_config": {
                "vocab_size": BYTE_TOKENS,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
            },
            "vision_config": {
                # As in the published weights, less than S: position embeddings are interpolated.
                "image_size": 32,
                "patch_size": 16,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
            },
            "projection_dim": 64,
            "extract_layers": [1, 2, 3],
            "reduce_dim": 32,
            "decoder_intermediate_size": 128,
        },
    ),
}


def build_clipseg(arch: str, weights: str = "") -> tuple[Any, Any, int]:
    """transformers' CLIPSegForImageSegmentation in eval mode, its tokenizer, and the side S of its input in pixels.

    Args:
        arch: a key of ``ARCHS``, the size of random weights; not used with ``weights``.
        weights: a name on Hugging Face, or a folder with model, tokenizer and image processor. "" for random
            weights from a fixed seed, whose tokens are the bytes of a name.

    Raises:
        ImportError: transformers is not installed.
        ValueError: ``weights`` is missing, incomplete, or no CLIPSeg.
    """
    transformers = import_transformers("MODEL.META_ARCHITECTURE CLIPSeg")
    if weights:
        return _read_clipseg(transformers, weights)
    logger.warning("MODEL.CLIPSEG.WEIGHTS is empty: CLIPSeg has random weights")
    return _random_clipseg(transformers, arch)


def _read_clipseg(transformers: Any, weights: str) -> tuple[Any, Any, int]:
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(weights)
        processor = transformers.ViTImageProcessor.from_pretrained(weights)
        model, report = transformers.CLIPSegForImageSegmentation.from_pretrained(
            weights, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(f"MODEL.CLIPSEG.WEIGHTS {weights!r}: no CLIPSeg could be read: {error}") from error
    if report["missing_keys"]:
        # transformers would go on with random numbers in their place.
        raise ValueError(f"MODEL.CLIPSEG.WEIGHTS {weights!r}: lacks {sorted(report['missing_keys'])}")
    check_tokenizer(tokenizer, model.config.text_config.vocab_size, f"MODEL.CLIPSEG.WEIGHTS {weights!r}")
    return model.eval(), tokenizer, processor.size["height"]


def _random_clipseg(transformers: Any, arch: str) -> tuple[Any, Any, int]:
    tokenizer = byte_tokenizer()
    image_size, sizes = ARCHS[arch]
    # The end of a text is where its meaning is read out.
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = transformers.CLIPSegConfig(
        **{**sizes, "text_config": {**sizes.get("text_config", {}), **ends}}, use_complex_transposed_convolution=True
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        model = transformers.CLIPSegForImageSegmentation(config)
        for module in model.decoder.modules():
            # transformers draws most of these from a unit normal: logits of some hundreds, from which nothing learns.
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                module.reset_parameters()
    return model.eval(), tokenizer, image_size


class VisualAdapter(nn.Module):
    """Bends CLIP's activations a little towards parts; one for all tapped layers (OV-PARTS, "VA")."""

    REDUCTION = 4
    RATIO = 0.2

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bottleneck = nn.Sequential(
            nn.Linear(width, width // self.REDUCTION, bias=False),
            nn.ReLU(),
            nn.Linear(width // self.REDUCTION, width, bias=False),
            nn.ReLU(),
        )

    def forward(self, activation: Tensor) -> Tensor:
        """Float [..., D] to the same shape."""
        return self.RATIO * self.bottleneck(activation) + (1 - self.RATIO) * activation


@META_ARCH_REGISTRY.register()
class CLIPSeg(NamedMasks):
    """CLIPSeg (arXiv 2112.10003), fine-tuned on part masks as in OV-PARTS (arXiv 2310.05107).

    A light decoder reads three layers of CLIP's image encoder and, for each class name, paints the mask that the
    name's CLIP embedding asks for.

    The visual adapter is there only if it is trained: so with nothing to train this is the downloaded model,
    untouched.

    Args:
        clipseg: transformers' CLIPSegForImageSegmentation.
        tokenizer: its tokenizer.
        image_size: S, to which pictures are squeezed; their shape is not kept.
        trained: of "adapter", "text_embeddings" (of tokens and positions), "film", "decoder" (all the rest of it).
        background_weight: see :func:`~wps_sam.models.named_masks.mask_loss`.
        pixel_mean, pixel_std: of RGB in 0..255.
    """

    HASH_KEY = "frozen_clipseg_sha256"
    FROZEN_NAME = "CLIPSeg, or other parts of it were trained"
    FROZEN_KEYS = "MODEL.CLIPSEG.WEIGHTS, MODEL.CLIPSEG.ARCH and MODEL.CLIPSEG.TRAIN"

    pixel_mean: Tensor
    pixel_std: Tensor
    token_ids: Tensor
    token_mask: Tensor

    @configurable
    def __init__(
        self,
        *,
        clipseg: Any,
        tokenizer: Any,
        image_size: int,
        trained: Sequence[str],
        background_weight: float,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__(clipseg.config.projection_dim, trained, background_weight)
        self.clipseg = clipseg
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.adapter = (
            VisualAdapter(clipseg.config.vision_config.hidden_size) if "adapter" in trained else nn.Identity()
        )
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)
        # Buffers, so that they follow the model to its device.
        for name in ("token_ids", "token_mask"):
            self.register_buffer(name, None, persistent=False)
        self.freeze_the_rest()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        clipseg, tokenizer, image_size = build_clipseg(cfg.MODEL.CLIPSEG.ARCH, cfg.MODEL.CLIPSEG.WEIGHTS)
        return {
            "clipseg": clipseg,
            "tokenizer": tokenizer,
            "image_size": image_size,
            "trained": cfg.MODEL.CLIPSEG.TRAIN,
            "background_weight": cfg.MODEL.CLIPSEG.BACKGROUND_WEIGHT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def trained_modules(self) -> list[nn.Module]:
        decoder = self.clipseg.decoder
        modules: dict[str, list[nn.Module]] = {
            "adapter": [self.adapter],
            "text_embeddings": [self.clipseg.clip.text_model.embeddings],
            "film": [decoder.film_mul, decoder.film_add],
            "decoder": [decoder.reduces, decoder.layers, decoder.transposed_convolution],
        }
        return [module for part in self.trained for module in modules[part]]

    def set_vocabulary(self, vocabulary: PartVocabulary) -> None:
        """From now on these classes are trained or asked for; a text is the class name without ``'s``."""
        texts = [name.replace("'s", "") for name in vocabulary.names]
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=NUM_TOKENS, truncation=True, return_tensors="pt"
        )
        super().set_vocabulary(vocabulary)
        self.token_ids = tokens["input_ids"].to(self.device)
        self.token_mask = tokens["attention_mask"].to(self.device)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """Squeezes and normalises, as CLIPSeg's image processor does: float [B, 3, S, S]."""
        size = (self.image_size, self.image_size)
        squares = [
            F.interpolate(record["image"].to(self.device).float()[None], size, mode="bilinear", antialias=True)
            for record in batched_inputs
        ]
        return (torch.cat(squares) - self.pixel_mean) / self.pixel_std

    def encode_images(self, images: Tensor) -> list[Tensor]:
        """Pictures [B, 3, S, S] to the L tapped activations, each float [B, P, D], adapted."""
        with torch.no_grad():
            hidden = self.clipseg.clip.vision_model(images, output_hidden_states=True).hidden_states
        # The first hidden state is the embedded picture, before any layer.
        return [self.adapter(hidden[i + 1]) for i in self.clipseg.extract_layers]

    def encode_names(self) -> Tensor:
        """Embeddings of the classes and, last, the background: float [K+1, E]; kept until something can change."""
        if self.prompts is not None:
            return self.prompts
        tuned = self.training and "text_embeddings" in self.trained
        with torch.set_grad_enabled(tuned):
            names = self.clipseg.clip.get_text_features(self.token_ids, attention_mask=self.token_mask)
        prompts = torch.cat([names.pooler_output, self.background_embedding[None]])
        if not tuned:
            self.prompts = prompts
        return prompts

    def decode(self, activations: list[Tensor], prompts: Tensor) -> Tensor:
        """Activations L x [B, P, D] and embeddings [K, E] to logits [B, K, s, s]: each picture with each class."""
        num_images, num_prompts = len(activations[0]), len(prompts)
        repeated = [activation.repeat_interleave(num_prompts, dim=0) for activation in activations]
        logits = self.clipseg.decoder(repeated, prompts.repeat(num_images, 1)).logits
        return logits.view(num_images, num_prompts, *logits.shape[-2:])

    def scores(self, features: list[Tensor], prompts: Tensor, classes: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Probabilities [k, H, W]; classes do not see each other, so only those that are asked for are decoded."""
        asked = prompts if classes is None else prompts[classes]
        chunks = [self.decode(features, chunk) for chunk in asked.split(CLASSES_PER_CHUNK)]
        return F.interpolate(torch.cat(chunks, dim=1), size, mode="bilinear")[0].sigmoid()
