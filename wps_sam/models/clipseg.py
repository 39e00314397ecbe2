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
from ..encoders.frozen import hash_tensors
from ..vocabulary import PartVocabulary
from .frozen import FrozenWeights

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


def mask_loss(logits: Tensor, labels: Tensor, background_weight: float) -> Tensor:
    """Every class against its own mask: binary cross-entropy, the mean over images, channels and pixels.

    Args:
        logits: float [B, K+1, s, s], background last.
        labels: int64 [B, s, s], 0..K.
        background_weight: factor of the last channel's terms; the mean still counts each of them as one.
    """
    targets = torch.zeros_like(logits).scatter_(1, labels[:, None], 1.0)
    weight = logits.new_ones(logits.shape[1], 1, 1)
    weight[-1] = background_weight
    return F.binary_cross_entropy_with_logits(logits, targets, weight=weight)


@META_ARCH_REGISTRY.register()
class CLIPSeg(FrozenWeights):
    """CLIPSeg (arXiv 2112.10003), fine-tuned on part masks as in OV-PARTS (arXiv 2310.05107).

    A light decoder reads three layers of CLIP's image encoder and, for each class name, paints the mask that the
    name's CLIP embedding asks for. The background has an embedding too: a random one, which is never trained.

    The visual adapter is there only if it is trained: so with nothing to train this is the downloaded model,
    untouched. Checkpoints hold what is trained, the background embedding, and a hash of all that is frozen.

    Args:
        clipseg: transformers' CLIPSegForImageSegmentation.
        tokenizer: its tokenizer.
        image_size: S, to which pictures are squeezed; their shape is not kept.
        trained: of "adapter", "text_embeddings" (of tokens and positions), "film", "decoder" (all the rest of it).
        background_weight: see :func:`mask_loss`.
        pixel_mean, pixel_std: of RGB in 0..255.
    """

    HASH_KEY = "frozen_clipseg_sha256"
    FROZEN_NAME = "CLIPSeg, or other parts of it were trained"
    FROZEN_KEYS = "MODEL.CLIPSEG.WEIGHTS, MODEL.CLIPSEG.ARCH and MODEL.CLIPSEG.TRAIN"

    pixel_mean: Tensor
    pixel_std: Tensor
    background_embedding: Tensor
    token_ids: Tensor
    token_mask: Tensor
    prompts: Tensor | None

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
        super().__init__()
        self.clipseg = clipseg
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.trained = tuple(trained)
        self.background_weight = background_weight
        self.adapter = (
            VisualAdapter(clipseg.config.vision_config.hidden_size) if "adapter" in trained else nn.Identity()
        )
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)
        dim = clipseg.config.projection_dim
        with torch.random.fork_rng(devices=[]):
            # The same in every process, and in every evaluation of the downloaded model.
            torch.manual_seed(RANDOM_WEIGHTS_SEED)
            self.register_buffer("background_embedding", torch.randn(dim) * dim**-0.5)
        self.vocabulary: PartVocabulary | None = None
        # Buffers, so that they follow the model to its device.
        for name in ("token_ids", "token_mask", "prompts"):
            self.register_buffer(name, None, persistent=False)
        self.clipseg.requires_grad_(False)
        for module in self._trained_modules():
            module.requires_grad_(True)
        self.watch_checkpoints()

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

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def _trained_modules(self) -> list[nn.Module]:
        decoder = self.clipseg.decoder
        modules: dict[str, list[nn.Module]] = {
            "adapter": [self.adapter],
            "text_embeddings": [self.clipseg.clip.text_model.embeddings],
            "film": [decoder.film_mul, decoder.film_add],
            "decoder": [decoder.reduces, decoder.layers, decoder.transposed_convolution],
        }
        return [module for part in self.trained for module in modules[part]]

    def train(self, mode: bool = True) -> CLIPSeg:
        """What is frozen stays in eval mode."""
        super().train(False)
        self.training = mode
        for module in self._trained_modules():
            module.train(mode)
        # Steps of training move them.
        self.prompts = None
        return self

    def set_vocabulary(self, vocabulary: PartVocabulary) -> None:
        """From now on these classes are trained or asked for; a text is the class name without ``'s``."""
        texts = [name.replace("'s", "") for name in vocabulary.names]
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=NUM_TOKENS, truncation=True, return_tensors="pt"
        )
        self.vocabulary = vocabulary
        self.token_ids = tokens["input_ids"].to(self.device)
        self.token_mask = tokens["attention_mask"].to(self.device)
        self.prompts = None

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """The loss in training, scores otherwise.

        Args:
            batched_inputs: per image a dict with "image", uint8 RGB [3, h, w]; in training "sem_seg" int64 [h, w]
                (classes 0..K-1, else "ignore_label") and "ignore_label"; at inference optionally "height" and
                "width", the size of the results (else h, w), and "category_id", the object that it is all about.

        Returns:
            In training ``{"loss_mask"}``. Otherwise per image {"sem_seg": float [K+1, H, W]}, probabilities with the
            background last; or, of an input with a category_id, {"sem_seg": float [k, H, W], "part_classes": int64
            [k]}: of this object's own classes only.

        Raises:
            ValueError: no vocabulary is set, or a label is none of its classes.
        """
        if self.vocabulary is None:
            raise ValueError("the model has no class names yet: call set_vocabulary first")
        activations = self.encode_images(self.preprocess_image(batched_inputs))
        prompts = self.encode_names()
        if self.training:
            logits = self.decode(activations, prompts)
            labels = self.label(batched_inputs, logits.shape[-1])
            return {"loss_mask": mask_loss(logits, labels, self.background_weight)}
        return [
            self.semantic_inference([a[i : i + 1] for a in activations], prompts, record, self.vocabulary)
            for i, record in enumerate(batched_inputs)
        ]

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

    def label(self, batched_inputs: list[dict[str, Any]], size: int) -> Tensor:
        """The part maps as int64 [B, s, s] for logits of side s. What is ignored elsewhere is background here."""
        num_classes = len(self.token_ids)
        labels = []
        for record in batched_inputs:
            part_map, ignored = record["sem_seg"], record["sem_seg"] == record["ignore_label"]
            wrong = part_map[~ignored & ((part_map < 0) | (part_map >= num_classes))]
            if len(wrong):
                raise ValueError(
                    f"{record.get('file_name', 'sem_seg')}: class {int(wrong[0])}; expected 0..{num_classes - 1}, "
                    f"the classes of the vocabulary, or {record['ignore_label']} (ignore)"
                )
            filled = part_map.masked_fill(ignored, num_classes)[None, None].to(self.device)
            # "nearest" would take the pixel to the upper left of the place that the logit is for.
            labels.append(F.interpolate(filled.float(), (size, size), mode="nearest-exact")[:, 0].long())
        return torch.cat(labels)

    @torch.no_grad()
    def semantic_inference(
        self, activations: list[Tensor], prompts: Tensor, record: dict[str, Any], vocabulary: PartVocabulary
    ) -> dict[str, Any]:
        """Scores of one picture, whose activations are L x [1, P, D], at the size of its results."""
        output: dict[str, Any] = {}
        if "category_id" in record:
            own = torch.tensor(vocabulary.parts_of(record["category_id"]), dtype=torch.int64, device=self.device)
            output["part_classes"] = own
            prompts = prompts[own]
        height = record.get("height", record["image"].shape[1])
        width = record.get("width", record["image"].shape[2])
        if len(prompts):
            chunks = [self.decode(activations, chunk) for chunk in prompts.split(CLASSES_PER_CHUNK)]
            logits = F.interpolate(torch.cat(chunks, dim=1), (height, width), mode="bilinear")
            output["sem_seg"] = logits[0].sigmoid()
        else:
            output["sem_seg"] = prompts.new_zeros(0, height, width)
        return output

    def compute_frozen_hash(self) -> str:
        return hash_tensors(self.frozen_state().items())

    def frozen_state(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.named_parameters() if not p.requires_grad}

    def check_frozen(self, state_dict: dict[str, Any], prefix: str) -> None:
        super().check_frozen(state_dict, prefix)
        # What is loaded may change them.
        self.prompts = None
