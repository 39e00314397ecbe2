"""What the frozen encoders make of one picture, as numbers: the guard of the versions by which caches are known.

Where such a test fails because features are to be others from now on, raise VERSION of the encoder's module and put the
new numbers here; caches and checkpoints of the old ones are refused then. If they were not meant to change, they did.
"""

from __future__ import annotations

from wps_sam.encoders import SAMEncoder, build_sam, hugging_face, sam, semantic
from wps_sam.encoders.semantic import build_semantic_encoder
from wps_sam.prompt_evaluation import load_encoder

import numpy as np
import pytest
import torch

# VERSION, and the features at four places.
SAM = (1, [0.40403, 0.63500, -0.13159, -0.19883])
SEMANTIC = (1, [0.37434, -0.89411, 0.82502, -0.67020])


# Of the tiny encoders, filled with numbers that follow from nothing but shapes and names: VERSION; at two places the
# sum of all features, and at two the embedding; and the logits at four places of the mask of a box.
FAMILIES = {
    "mobile_test": (1, [-1.28251, 0.85697, 0.93333, 0.01344], [0.0061, 0.0086, -0.0013, -0.0927]),
    "hq_test": (1, [0.86204, -1.91181, 0.20633, -0.67867], [0.0169, -0.1038, 0.1403, 0.1371]),
    "sam2_test": (1, [4.10794, 3.11074, 0.26179, -0.41769], [9.5648, -10.3152, -23.1651, -23.1447]),
    "edgetam_test": (1, [1.18048, -1.14589, -0.04854, -0.66716], [-5.3105, -5.3320, -5.3133, -5.3078]),
    "sam3_test": (1, [-0.30000, -0.09826, -0.07547, 0.15429], [4.1157, 4.1236, 4.1086, 4.1057]),
}


def resized(encoder):
    """RGB uint8 [3, h, w], made of 60 x 80 pixels by the encoder's own resize: ramps, and a disc."""
    y, x = np.mgrid[:60, :80]
    disc = 200 * ((x - 30) ** 2 + (y - 25) ** 2 < 300)
    small = np.stack([3 * x, 4 * y, disc], axis=-1).astype(np.uint8)
    return torch.from_numpy(encoder.spec.resize.get_transform(small).apply_image(small).transpose(2, 0, 1).copy())


@pytest.fixture(scope="module")
def picture():
    """[3, 384, 512], see :func:`resized`."""
    return resized(SAMEncoder.from_sam(build_sam("vit_tiny", components=())))


@torch.no_grad()
def fill(encoder):
    """Waves in every weight, about as large as training leaves them."""
    for number, (name, tensor) in enumerate(sorted(encoder.state_dict().items())):
        if tensor.is_floating_point():
            wave = torch.sin(0.7 * torch.arange(tensor.numel()) + number).view(tensor.shape)
            if tensor.dim() > 1:
                tensor.copy_(wave * (2 / tensor[0].numel()) ** 0.5)
            else:
                tensor.copy_(0.1 * wave + name.endswith(("weight", "running_var")))


def test_sam(picture):
    encoder = SAMEncoder.from_sam(build_sam("vit_tiny", "shipped"))
    features = encoder.encode(encoder.preprocess(picture)[0][None])["image_embedding"]
    assert (sam.VERSION, features[0, [0, 70, 140, 210], [4, 9, 14, 19], [25, 18, 11, 4]].tolist()) == (
        SAM[0],
        pytest.approx(SAM[1], abs=1e-3),
    )


@pytest.mark.parametrize("arch", FAMILIES)
def test_families(arch, tiny_encoders):
    """Also of a version of transformers in which a network has become another one."""
    encoder = load_encoder(arch, tiny_encoders[arch])
    fill(encoder)
    features = encoder.encode(encoder.preprocess(resized(encoder))[0][None])
    (found,) = encoder.decode(features, [encoder.encode_prompts(boxes=torch.tensor([[9.0, 5.0, 40.0, 33.0]]))])
    module = sam if isinstance(encoder, SAMEncoder) else hugging_face
    seen = torch.stack([f[0, [0, -1], [0, 1], [2, 3]] for f in features.values()]).sum(0).tolist()
    seen += features["image_embedding"][0, [70, 140], [1, 2], [3, 0]].tolist()
    logits = found.logits[0, 0, [1, 5, 9, 13], [2, 11, 6, 8]].tolist()
    version, expected, expected_logits = FAMILIES[arch]
    assert (module.VERSION, seen, logits) == (
        version,
        pytest.approx(expected, abs=1e-3),
        pytest.approx(expected_logits, abs=1e-4, rel=1e-4),
    )


def test_semantic_network(picture):
    encoder = build_semantic_encoder("timm", "shipped", 0, 512)
    square = torch.nn.functional.pad(picture, (0, 0, 0, 512 - picture.shape[1]))
    features = encoder(square[None])["semantic_16"]
    assert (semantic.VERSION, features[0, [0, 7, 14, 21], [4, 9, 14, 19], [25, 18, 11, 4]].tolist()) == (
        SEMANTIC[0],
        pytest.approx(SEMANTIC[1], abs=1e-3),
    )
