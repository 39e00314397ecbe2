"""ResNets (arXiv 1512.03385) as Detectron2's models hold them: frozen batch norms, features of the stages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torchvision
from torch import Tensor
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d


class ResNet(torchvision.models.ResNet):
    """torchvision's ResNet of bottlenecks up to res4, its batch norms frozen.

    Args:
        depths: bottlenecks of res2, res3 and res4; ResNet-101: 3, 4, 23.
        width: of the first bottleneck's inner convolution; 64 as published. The stages' outputs have 256, 512 and 1024
            channels whatever it is.
    """

    DIMS = (256, 512, 1024)

    def __init__(self, depths: Sequence[int], width: int = 64) -> None:
        super().__init__(Bottleneck, [*depths, 1], norm_layer=FrozenBatchNorm2d, width_per_group=width)
        del self.layer4, self.avgpool, self.fc

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised images [B, 3, H, W] to res2, res3 and res4, float [B, 256, H/4, W/4] and so on."""
        res2 = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        res3 = self.layer2(res2)
        return res2, res3, self.layer3(res3)


def from_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of Detectron2's ResNet as one of torchvision's."""
    return {_torchvision_name(name): value for name, value in state.items()}


def _torchvision_name(name: str) -> str:
    name = re.sub(r"^stem\.", "", name)
    name = re.sub(r"^res(\d)\.", lambda stage: f"layer{int(stage[1]) - 1}.", name)
    name = re.sub(r"shortcut\.norm\.", "downsample.1.", name)
    name = re.sub(r"shortcut\.", "downsample.0.", name)
    return re.sub(r"conv(\d)\.norm\.", r"bn\1.", name)
