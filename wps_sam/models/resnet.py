"""ResNets that give the maps of their stages, with the names of torchvision's weights and of Detectron2's."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d

from ..encoders.build_sam import RANDOM_WEIGHTS_SEED, read_state_dict

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResNetArch:
    """Blocks of the stages from res2 on, to res4 or res5; by how much it is narrower than published ones; whether the
    stem is three 3x3 convolutions in place of a 7x7 one; dilations of the blocks of res5."""

    blocks: tuple[int, ...]
    divisor: int = 1
    deep_stem: bool = False
    res5_dilations: tuple[int, ...] = ()


ARCHS = {
    "resnet101_res4": ResNetArch((3, 4, 23)),
    "tiny_res4": ResNetArch((1, 1, 1), divisor=8),
    "resnet50": ResNetArch((3, 4, 6, 3)),
    # Detectron2's DeepLab ResNet, "R-103": multi grid at stride 32.
    "resnet101c": ResNetArch((3, 4, 23, 3), deep_stem=True, res5_dilations=(1, 2, 4)),
    "tiny": ResNetArch((1, 1, 1, 1), divisor=8),
}


class DeepStem(nn.Module):
    """Three 3x3 convolutions, the first with stride 2: 3 to 64, 64 and 128 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False), FrozenBatchNorm2d(64)
        self.conv2, self.bn2 = nn.Conv2d(64, 64, 3, 1, 1, bias=False), FrozenBatchNorm2d(64)
        self.conv3, self.bn3 = nn.Conv2d(64, 128, 3, 1, 1, bias=False), FrozenBatchNorm2d(128)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.bn1(self.conv1(images)).relu()
        hidden = self.bn2(self.conv2(hidden)).relu()
        return self.bn3(self.conv3(hidden))


class ResNet(resnet.ResNet):
    """torchvision's ResNet (arXiv 1512.03385) with frozen normalisations, without its classifier.

    Its stride is in the 3x3 convolutions, as in Detectron2's weights that come from torchvision.
    """

    def __init__(self, arch: ResNetArch) -> None:
        self._arch = arch
        # torchvision knows no network of fewer stages.
        super().__init__(resnet.Bottleneck, [*arch.blocks, 1][:4], norm_layer=FrozenBatchNorm2d)
        # The maps' channels, from res2 on, at strides 4, 8, 16 and 32.
        self.channels = [4 * planes // arch.divisor for planes in (64, 128, 256, 512)[: len(arch.blocks)]]
        del self.avgpool, self.fc
        if len(arch.blocks) < 4:
            del self.layer4
        if arch.deep_stem:
            self.conv1, self.bn1 = DeepStem(), nn.Identity()
        for k, dilation in enumerate(arch.res5_dilations):
            block = self.layer4[k]
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)

    def _make_layer(
        self, block: type, planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        if planes == 64 and self._arch.deep_stem:
            self.inplanes = 128
        return super()._make_layer(block, planes // self._arch.divisor, blocks, stride, dilate)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images [B, 3, H, W] to the maps of its stages, each [B, channels, H / stride, W / stride]."""
        hidden = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = []
        for k in range(len(self.channels)):
            hidden = getattr(self, f"layer{k + 1}")(hidden)
            maps.append(hidden)
        return maps


def build_resnet(arch: str, weights: str = "", key: str = "weights") -> ResNet:
    """A ResNet of :data:`ARCHS`.

    Args:
        weights: a .pth or .safetensors with names of torchvision or Detectron2; "" for random ones from a fixed seed.
        key: of the configuration, for messages.

    Raises:
        ValueError: the file is missing, or holds other weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        network = ResNet(ARCHS[arch])
    if not weights:
        logger.warning("%s is empty: the backbone starts from random weights", key)
        return network
    state = from_detectron2(read_state_dict(weights))
    state = {k: v for k, v in state.items() if not k.startswith("fc.") and not k.endswith("num_batches_tracked")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{key} {weights}: no {arch}: {error}") from error
    return network


def from_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet's state dict with our names, which are torchvision's, of those that Detectron2's have; others stay."""
    deep = "conv1." if "stem.conv2.weight" in state else ""
    return {_renamed(name, deep) if name.startswith(("stem.", "res")) else name: value for name, value in state.items()}


def _renamed(name: str, stem: str) -> str:
    place, _, rest = name.partition(".")
    place = "" if place == "stem" else f"layer{int(place[3:]) - 1}."
    rest = rest.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
    return place + (stem if not place else "") + re.sub(r"conv(\d)\.norm\.", r"bn\1.", rest)
