"""A rival: a network that says of every pixel which part it is, and asks no segmenter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from detectron2.config import CfgNode, configurable
from torch import Tensor
from torch.nn import functional as F

from ..structures import Features, PartTargets, Proposals
from .part_head import part_map_loss
from .prompter import PROMPTER_REGISTRY, EncodePrompts, Prompter
from .semantic_input import Shape


@PROMPTER_REGISTRY.register()
class PixelClassifier(Prompter):
    """A segmentation network of segmentation_models_pytorch, from scratch, on the picture alone.

    It proposes nothing: its part map is read with MODEL.INFERENCE.MERGE part_map. Taught with WEAK_LABELS.TYPE mask it
    is what a user of full masks would train.

    Args:
        num_classes: C.
        arch, encoder, image_size, balance: see :meth:`add_config`.
        encode_prompts: of the encoder, asked for none.
    """

    CONFIG_NODE = "PIXEL_CLASSIFIER"
    CHOICES: ClassVar = {"ARCH": ("unet", "deeplabv3plus")}

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        arch: str,
        encoder: str,
        image_size: int,
        balance: float,
        encode_prompts: EncodePrompts,
    ) -> None:
        super().__init__()
        try:
            # Here and not above: nothing but this rival needs it.
            import segmentation_models_pytorch as smp
        except ImportError as error:
            raise ImportError(
                "PixelClassifier needs segmentation_models_pytorch: pip install '.[rivals]' in the clone"
            ) from error
        self.encode_prompts = encode_prompts
        self.num_classes = num_classes
        self.image_size = image_size
        self.balance = balance
        self.network = smp.create_model(arch, encoder, encoder_weights=None, classes=num_classes + 1)

    @staticmethod
    def add_config(node: CfgNode) -> None:
        # unet | deeplabv3plus, and an encoder by its name there.
        node.ARCH = "unet"
        node.ENCODER = "mobilenet_v2"
        # Side in pixels at which it sees the square, a multiple of 32.
        node.IMAGE_SIZE = 256
        # How far rare classes are favoured: 0 every pixel counts alike, 1 every class.
        node.BALANCE = 0.5

    @classmethod
    def from_config(cls, cfg: CfgNode, encoder: Any, semantic: Mapping[str, Shape]) -> dict[str, Any]:
        node = cfg.MODEL.PIXEL_CLASSIFIER
        return {
            "num_classes": cfg.MODEL.PROMPTER.NUM_CLASSES,
            "arch": node.ARCH,
            "encoder": node.ENCODER,
            "image_size": node.IMAGE_SIZE,
            "balance": node.BALANCE,
            "encode_prompts": encoder.encode_prompts,
        }

    @classmethod
    def needs_image(cls, cfg: CfgNode) -> bool:
        return True

    @classmethod
    def needs_part_maps(cls, cfg: CfgNode) -> bool:
        return True

    def part_map(self, features: Features) -> Tensor:
        """Logits [B, C+1, s, s] of the square's cells, background last."""
        size = (self.image_size, self.image_size)
        return self.network(
            F.interpolate(features["image"], size, mode="bilinear", align_corners=False, antialias=True)
        )

    def losses(self, features: Features, targets: Sequence[PartTargets]) -> dict[str, Tensor]:
        return {"loss_part": part_map_loss(self.part_map(features), targets, self.balance)}

    def propose(self, features: Features) -> Proposals:
        part_map = self.part_map(features)
        nothing = part_map.new_zeros(len(part_map), 0, self.num_classes + 1)
        return Proposals(
            nothing, lambda image, queries: self.encode_prompts(boxes=nothing[image, :, :4]), part_map=part_map
        )
