"""ResNets that give the maps of their stages, with the names of torchvision's weights and of Detectron2's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d


@dataclass(frozen=True)
class ResNetArch:
    """Blocks of the stages res2, res3 and res4, and by how much it is narrower than published ones."""

    blocks: tuple[int, int, int]
    divisor: int = 1


ARCHS = {"resnet101_res4": ResNetArch((3, 4, 23)), "tiny_res4": ResNetArch((1, 1, 1), divisor=8)}


class ResNet(resnet.ResNet):
    """torchvision's ResNet (arXiv 1512.03385) with frozen normalisations, up to res4.

    Its stride is in the 3x3 convolutions, as in Detectron2's weights that come from torchvision.
    """

    def __init__(self, arch: ResNetArch) -> None:
        self._arch = arch
        super().__init__(resnet.Bottleneck, [*arch.blocks, 1], norm_layer=FrozenBatchNorm2d)
        # The maps' channels, at strides 4, 8 and 16.
        self.channels = [4 * planes // arch.divisor for planes in (64, 128, 256)]
        del self.layer4, self.avgpool, self.fc

    def _make_layer(
        self, block: type, planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        return super()._make_layer(block, planes // self._arch.divisor, blocks, stride, dilate)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images [B, 3, H, W] to the maps of its stages, each [B, channels, H / stride, W / stride]."""
        hidden = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3):
            hidden = layer(hidden)
            maps.append(hidden)
        return maps


def from_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ResNet's state dict with our names, which are torchvision's, of those that Detectron2's have."""
    return {_renamed(name): value for name, value in state.items()}


def _renamed(name: str) -> str:
    name = re.sub(r"^res(\d)\.", lambda stage: f"layer{int(stage[1]) - 1}.", name.removeprefix("stem."))
    name = name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
    return re.sub(r"conv(\d)\.norm\.", r"bn\1.", name)
