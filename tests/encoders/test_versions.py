"""What the frozen encoders make of one picture, as numbers: the guard of the versions by which caches are known.

Where such a test fails because features are to be others from now on, raise VERSION of the encoder's module and put the
new numbers here; caches and checkpoints of the old ones are refused then. If they were not meant to change, they did.
"""

from __future__ import annotations

from wps_sam.encoders import SAMEncoder, build_sam, sam, semantic
from wps_sam.encoders.semantic import build_semantic_encoder

import numpy as np
import pytest
import torch

# VERSION, and the features at four places.
SAM = (1, [0.40403, 0.63500, -0.13159, -0.19883])
SEMANTIC = (1, [0.37434, -0.89411, 0.82502, -0.67020])


@pytest.fixture(scope="module")
def picture():
    """RGB uint8 [3, 384, 512], made larger by the encoder's own resize from 60 x 80: ramps, and a disc."""
    y, x = np.mgrid[:60, :80]
    disc = 200 * ((x - 30) ** 2 + (y - 25) ** 2 < 300)
    small = np.stack([3 * x, 4 * y, disc], axis=-1).astype(np.uint8)
    resize = SAMEncoder.from_sam(build_sam("vit_tiny", components=())).spec.resize
    return torch.from_numpy(resize.get_transform(small).apply_image(small).transpose(2, 0, 1).copy())


def test_sam(picture):
    encoder = SAMEncoder.from_sam(build_sam("vit_tiny", "shipped"))
    features = encoder.encode(encoder.preprocess(picture)[0][None])["image_embedding"]
    assert (sam.VERSION, features[0, [0, 70, 140, 210], [4, 9, 14, 19], [25, 18, 11, 4]].tolist()) == (
        SAM[0],
        pytest.approx(SAM[1], abs=1e-3),
    )


def test_semantic_network(picture):
    encoder = build_semantic_encoder("timm", "shipped", 0, 512)
    square = torch.nn.functional.pad(picture, (0, 0, 0, 512 - picture.shape[1]))
    features = encoder(square[None])["semantic_16"]
    assert (semantic.VERSION, features[0, [0, 7, 14, 21], [4, 9, 14, 19], [25, 18, 11, 4]].tolist()) == (
        SEMANTIC[0],
        pytest.approx(SEMANTIC[1], abs=1e-3),
    )
