"""A frozen CLIP, opened where methods of image-level supervision need it: its last block, attention, learned words.

Axes: N images, K texts, C classes, P = h * w patches, L = 1 + P tokens (the class token first), D width, E width of the
joint embedding.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .build_sam import RANDOM_WEIGHTS_SEED
from .frozen import FrozenModule, hash_tensors

logger = logging.getLogger(__name__)

# Mean and deviation of RGB in 0..1 that CLIP was trained with.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
# CLIP's own length of a text, to which rows of tokens are padded with 0.
NUM_TOKENS = 77
BYTE_TOKENS = 514  # 256 bytes inside of words, 256 at their ends, start and end of text
# What attends to what: queries to keys as CLIP does, or each to itself (ExCEL, arXiv 2503.20826).
ATTENTION_KINDS = ("qk", "qq", "kk", "vv")
# What differs from the defaults of transformers' CLIPConfig.
SIZES: dict[str, dict[str, Any]] = {
    "vit_b_16": {"vision_config": {"patch_size": 16}},
    "tiny": {
        "text_config": {
            "vocab_size": BYTE_TOKENS,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        # Trained at less than it is asked with, as the published ones: position embeddings are interpolated.
        "vision_config": {
            "image_size": 32,
            "patch_size": 16,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
        "projection_dim": 32,
    },
}
# As the published ones: features of pictures are as wide as words, to which some methods add them.
SIZES["tiny_wide"] = {**SIZES["tiny"], "projection_dim": SIZES["tiny"]["text_config"]["hidden_size"]}
# Texts of a batch.
_TEXTS_AT_A_TIME = 256
# The sentences of CLIP's classifier for ImageNet (arXiv 2103.00020, section 3.1.4), in the order of its authors.
IMAGENET_TEMPLATES = tuple(
    text.strip()
    for text in """
a bad photo of a {}. | a photo of many {}. | a sculpture of a {}. | a photo of the hard to see {}.
a low resolution photo of the {}. | a rendering of a {}. | graffiti of a {}. | a bad photo of the {}.
a cropped photo of the {}. | a tattoo of a {}. | the embroidered {}. | a photo of a hard to see {}.
a bright photo of a {}. | a photo of a clean {}. | a photo of a dirty {}. | a dark photo of the {}.
a drawing of a {}. | a photo of my {}. | the plastic {}. | a photo of the cool {}. | a close-up photo of a {}.
a black and white photo of the {}. | a painting of the {}. | a painting of a {}. | a pixelated photo of the {}.
a sculpture of the {}. | a bright photo of the {}. | a cropped photo of a {}. | a plastic {}.
a photo of the dirty {}. | a jpeg corrupted photo of a {}. | a blurry photo of the {}. | a photo of the {}.
a good photo of the {}. | a rendering of the {}. | a {} in a video game. | a photo of one {}. | a doodle of a {}.
a close-up photo of the {}. | a photo of a {}. | the origami {}. | the {} in a video game. | a sketch of a {}.
a doodle of the {}. | a origami {}. | a low resolution photo of a {}. | the toy {}. | a rendition of the {}.
a photo of the clean {}. | a photo of a large {}. | a rendition of a {}. | a photo of a nice {}.
a photo of a weird {}. | a blurry photo of a {}. | a cartoon {}. | art of a {}. | a sketch of the {}.
a embroidered {}. | a pixelated photo of a {}. | itap of the {}. | a jpeg corrupted photo of the {}.
a good photo of a {}. | a plushie {}. | a photo of the nice {}. | a photo of the small {}. | a photo of the weird {}.
the cartoon {}. | art of the {}. | a drawing of the {}. | a photo of the large {}. | a black and white photo of a {}.
the plushie {}. | a dark photo of a {}. | itap of a {}. | graffiti of the {}. | a toy {}. | itap of my {}.
a photo of a cool {}. | a photo of a small {}. | a tattoo of the {}.
""".replace("\n", "|").split("|")
    if text.strip()
)


@dataclass(frozen=True, eq=False)
class ImageView:
    """What a frozen network saw in N images.

    ``grid`` (h, w) of the patches; ``activations`` [N, L, D], a leaf that takes gradients, where class activation maps
    are read; ``prefix``: how many of its tokens come before the patches; ``features`` [N, E] of unit length, a function
    of the activations; ``affinity`` [N, P, P]: how much a patch looks at another; None if it was not asked for.
    """

    grid: tuple[int, int]
    activations: Tensor
    prefix: int
    features: Tensor
    affinity: Tensor | None = None


class CLIP(FrozenModule, nn.Module):
    """OpenAI's CLIP (arXiv 2103.00020), of transformers, with features as CLIP-ES and FMA-WSSS read them.

    Args:
        model: transformers' CLIPModel.
        tokenizer: of the same.
        attention_layers: the last ones whose attention is averaged (FMA-WSSS, section 3.3: 8).
    """

    def __init__(self, model: Any, tokenizer: Any, attention_layers: int = 8) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.attention_layers = attention_layers
        self.freeze()

    @property
    def patch_size(self) -> int:
        return self.model.config.vision_config.patch_size

    @property
    def text_dim(self) -> int:
        """Width of a word, and of a learned one."""
        return self.model.config.text_config.hidden_size

    @property
    def scale(self) -> Tensor:
        """By which CLIP multiplies cosines to get logits."""
        return self.model.logit_scale.exp()

    def fingerprint(self) -> str:
        """SHA-256 of all weights."""
        return hash_tensors(sorted(self.model.state_dict().items()))

    # -- pictures

    def look(self, images: Tensor, affinity: str = "") -> ImageView:
        """Normalised images [N, 3, H, W], sides multiples of the patch; gradients reach the last block only.

        The activations are the normalised input of the last block (CLIP-ES, arXiv 2212.09506, section 3.2), and the
        feature of an image is the mean of its patches', without the class token.

        Args:
            affinity: of :data:`ATTENTION_KINDS`, whose attention, averaged over heads and the last
                ``attention_layers`` layers, becomes ``affinity``; "" for none.

        Raises:
            ValueError: a side is no multiple of the patch size.
        """
        grid = self._grid_of(images)
        vision = self.model.vision_model
        *others, last = vision.encoder.layers
        maps: list[Tensor] = []
        with torch.no_grad():
            tokens = vision.pre_layrnorm(self._embed(images))
            for layer in others:
                normed = layer.layer_norm1(tokens)
                if affinity:
                    maps.append(_weights(layer.self_attn, normed, affinity).mean(1))
                tokens = tokens + attend(layer.self_attn, normed)
                tokens = tokens + layer.mlp(layer.layer_norm2(tokens))
            normed = last.layer_norm1(tokens)
            if affinity:
                maps.append(_weights(last.self_attn, normed, affinity).mean(1))
                maps = [torch.stack(maps[-self.attention_layers :]).mean(0)[:, 1:, 1:]]
        activations = normed.detach().requires_grad_()
        with torch.enable_grad():
            tokens = tokens + attend(last.self_attn, activations)
            tokens = tokens + last.mlp(last.layer_norm2(tokens))
            patches = vision.post_layernorm(tokens)[:, 1:].mean(1)
            features = F.normalize(self.model.visual_projection(patches), dim=-1)
        return ImageView(grid, activations, 1, features, maps[0] if affinity else None)

    def pooled(self, images: Tensor) -> Tensor:
        """Normalised squares [N, 3, S, S] of CLIP's own size to its own image features [N, E], of unit length."""
        tokens = self.model.vision_model(images).pooler_output
        return F.normalize(self.model.visual_projection(tokens), dim=-1)

    @torch.no_grad()
    def dense_features(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W], sides multiples of the patch, to features [N, h, w, E] of unit length.

        A cell's own value takes the place of attention in the last block, so that it stays in the joint space and is
        of its place (MaskCLIP, arXiv 2112.01071, section 3.1); positions are resized bicubically, as in CAT-Seg.

        Raises:
            ValueError: a side is no multiple of the patch size.
        """
        grid = self._grid_of(images)
        vision = self.model.vision_model
        tokens = vision.pre_layrnorm(self._embed(images, "bicubic"))
        *others, last = vision.encoder.layers
        for layer in others:
            tokens = tokens + attend(layer.self_attn, layer.layer_norm1(tokens))
            tokens = tokens + layer.mlp(layer.layer_norm2(tokens))
        patches = tokens[:, 1:]
        patches = patches + last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(patches)))
        patches = patches + last.mlp(last.layer_norm2(patches))
        features = self.model.visual_projection(vision.post_layernorm(patches))
        return F.normalize(features, dim=-1).unflatten(1, grid)

    def _grid_of(self, images: Tensor) -> tuple[int, int]:
        """(h, w) of the patches of images [N, 3, H, W]."""
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"expected sides that are multiples of {self.patch_size} pixels, got {width}x{height}")
        return height // self.patch_size, width // self.patch_size

    def _embed(self, images: Tensor, mode: str = "bilinear") -> Tensor:
        """Tokens [N, L, D] of the patches and the class, positions resized by ``mode`` of interpolate."""
        embeddings = self.model.vision_model.embeddings
        patches = embeddings.patch_embedding(images)
        positions = embeddings.position_embedding.weight
        side = math.isqrt(len(positions) - 1)
        grid = positions[1:].T.unflatten(1, (side, side))[None]
        if tuple(patches.shape[-2:]) != (side, side):
            grid = F.interpolate(grid, patches.shape[-2:], mode=mode, align_corners=False)
        first = (embeddings.class_embedding + positions[0]).expand(len(images), 1, -1)
        return torch.cat([first, (patches + grid).flatten(2).transpose(1, 2)], dim=1)

    # -- texts

    def tokens_of(self, text: str) -> list[int]:
        """The tokens of a text, without start and end."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    @torch.no_grad()
    def name_features(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Features [K, T, E] of unit length of each name in each of T templates, whose ``{}`` it takes.

        Raises:
            ValueError: a text is longer than CLIP reads.
        """
        rows = [self.tokens_of(template.replace("{}", name)) for name in names for template in templates]
        batches = [rows[i : i + _TEXTS_AT_A_TIME] for i in range(0, len(rows), _TEXTS_AT_A_TIME)]
        return torch.cat([self.text_features(batch) for batch in batches]).unflatten(0, (-1, len(templates)))

    def text_features(self, rows: Sequence[Sequence[int]], contexts: Tensor | None = None) -> Tensor:
        """Rows of tokens to features [K, E] of unit length; gradients flow to the contexts.

        Args:
            rows: token ids without start and end; a negative one stands for a learned word.
            contexts: [K, M, text_dim], the learned words of each row in their order.

        Raises:
            ValueError: a row is longer than CLIP reads.
        """
        limit = self.model.config.text_config.max_position_embeddings
        longest = max(map(len, rows)) + 2
        if longest > limit:
            raise ValueError(f"expected texts of at most {limit - 2} tokens, got one of {longest - 2}")
        # Nothing after a text's end has a say in it, so there is no padding to CLIP's own length.
        ids = torch.zeros(len(rows), longest, dtype=torch.int64, device=self.scale.device)
        for k, row in enumerate(rows):
            ids[k, : len(row) + 2] = ids.new_tensor([self.tokenizer.bos_token_id, *row, self.tokenizer.eos_token_id])
        learned = ids < 0
        ends = ids.new_tensor([len(row) + 1 for row in rows])
        hook = None
        if contexts is not None:
            # transformers' text model takes no embeddings, only ids.
            def replace(module: nn.Module, given: Any, words: Tensor) -> Tensor:
                return words.masked_scatter(learned[..., None], contexts.to(words.dtype))

            hook = self.model.text_model.embeddings.token_embedding.register_forward_hook(replace)
        try:
            states = self.model.text_model(input_ids=ids.clamp(min=0)).last_hidden_state
        finally:
            if hook is not None:
                hook.remove()
        of_ends = states[torch.arange(len(rows), device=ids.device), ends]
        return F.normalize(self.model.text_projection(of_ends), dim=-1)


def attend(attention: Any, tokens: Tensor) -> Tensor:
    """Self-attention [N, L, D] by plain operations: the library's fast ones have no second derivative on a CPU."""
    value = _heads(attention.v_proj(tokens), attention.num_heads)
    return attention.out_proj((_weights(attention, tokens, "qk") @ value).transpose(1, 2).flatten(2))


def _weights(attention: Any, tokens: Tensor, kind: str) -> Tensor:
    """Attention after softmax, [N, heads, L, L]; ``kind`` of ATTENTION_KINDS."""
    projections = {"q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj}
    asking, asked = (_heads(projections[letter](tokens), attention.num_heads) for letter in kind)
    return (asking @ asked.transpose(-1, -2) * attention.scale).softmax(-1)


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """[N, L, H * d] to [N, H, L, d]."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


# ------------------------------------------------------------------ reading


def build_clip(weights: str = "", size: str = "tiny") -> CLIP:
    """A CLIP in eval mode.

    Args:
        weights: a name on Hugging Face, or a folder with model and tokenizer, such as openai/clip-vit-base-patch16;
            "" for random weights from a fixed seed, whose tokens are the bytes of a text.
        size: a key of :data:`SIZES`, of random weights; not used with ``weights``.

    Raises:
        ImportError: transformers is not installed.
        ValueError: ``weights`` is missing, incomplete, or no CLIP.
    """
    transformers = import_transformers("CLIP")
    if not weights:
        logger.warning(
            "no weights of CLIP are given: it is random, and what it says of pictures and words means nothing"
        )
        return random_clip(size)
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(weights)
        model, report = transformers.CLIPModel.from_pretrained(weights, dtype=torch.float32, output_loading_info=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{weights}: no CLIP could be read: {error}") from error
    if report["missing_keys"]:
        # transformers would go on with random numbers in their place.
        raise ValueError(f"{weights}: no CLIP, or only a piece of one: lacks {sorted(report['missing_keys'])[:5]}")
    check_tokenizer(tokenizer, model.config.text_config.vocab_size, weights)
    return CLIP(model.eval(), tokenizer)


def random_clip(size: str = "tiny") -> CLIP:
    """A CLIP with random weights from a fixed seed; ``size`` of :data:`SIZES`."""
    transformers = import_transformers("CLIP")
    tokenizer = byte_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = SIZES[size]
    config = transformers.CLIPConfig(**{**sizes, "text_config": {**sizes.get("text_config", {}), **ends}})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        model = transformers.CLIPModel(config)
    return CLIP(model.eval(), tokenizer)


def byte_tokenizer() -> Any:
    """A CLIPTokenizer whose BYTE_TOKENS tokens are the bytes of a text."""
    transformers = import_transformers("CLIP")
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    # "</w>" marks the end of a word, as in CLIP's own vocabulary.
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])


def check_tokenizer(tokenizer: Any, vocabulary: int, source: str) -> None:
    """ValueError naming ``source`` unless the tokenizer is one for ``vocabulary`` tokens: without its files,
    transformers makes one that knows no letter."""
    if not BYTE_TOKENS <= len(tokenizer) <= vocabulary:
        raise ValueError(
            f"{source}: the tokenizer is missing or another model's: it has {len(tokenizer)} tokens, expected "
            f"{vocabulary}"
        )


def import_transformers(what: str) -> Any:
    """Hugging Face's transformers; its import takes seconds, so it waits until ``what`` needs it.

    Raises:
        ImportError: it is not installed; names what needs it.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"{what} needs Hugging Face's transformers: pip install '.[text]' in the clone") from error
    return transformers
