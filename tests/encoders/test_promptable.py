"""The teacher: SAM's own tokens, two for every part."""

import math

from wps_sam.encoders.sam import build_sam, get_arch
from wps_sam.encoders.teacher import PromptTeacher

import pytest
import torch


@pytest.fixture(scope="module")
def teacher():
    return PromptTeacher(build_sam("vit_tiny", components=("prompt_encoder",)).prompt_encoder)


def _fourier(teacher, x, y):
    """SAM's position code of a pixel centre, written out."""
    size = get_arch("vit_tiny").image_size
    unit = 2 * torch.tensor([(x + 0.5) / size, (y + 0.5) / size]) - 1
    angle = 2 * math.pi * (unit @ teacher.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
    return torch.cat([angle.sin(), angle.cos()])


def test_box_gives_its_two_corners(teacher):
    tokens = teacher(torch.tensor([[10.0, 20.0, 110.0, 220.0]]))
    assert tokens.shape == (1, 2, 256)
    embeddings = teacher.prompt_encoder.point_embeddings
    for i, (x, y) in enumerate([(10, 20), (110, 220)]):
        expected = _fourier(teacher, x, y) + embeddings[2 + i].weight[0]
        torch.testing.assert_close(tokens[0, i], expected, atol=1e-4, rtol=1e-4)
    # Adding the half pixel twice, the classic mistake, is another token.
    wrong = _fourier(teacher, 10.5, 20.5) + embeddings[2].weight[0]
    assert (tokens[0, 0] - wrong).abs().max() > 1e-3


def test_point_gives_itself_and_the_padding_token(teacher):
    tokens = teacher(torch.tensor([[10.0, 20.0], [30.0, 40.0]]))
    assert tokens.shape == (2, 2, 256)
    expected = _fourier(teacher, 30, 40) + teacher.prompt_encoder.point_embeddings[1].weight[0]
    torch.testing.assert_close(tokens[1, 0], expected, atol=1e-4, rtol=1e-4)
    for i in range(2):
        assert torch.equal(tokens[i, 1], teacher.prompt_encoder.not_a_point_embed.weight[0])


def test_no_parts_and_bad_shapes(teacher):
    assert teacher(torch.zeros(0, 4)).shape == (0, 2, 256)
    assert teacher(torch.zeros(0, 2)).shape == (0, 2, 256)
    with pytest.raises(ValueError, match=r"boxes \[M, 4\] xyxy or points \[M, 2\]"):
        teacher(torch.zeros(3, 5))


def test_teaching_has_no_gradient_but_encoding_has(teacher):
    boxes = torch.tensor([[10.0, 20.0, 110.0, 220.0]], requires_grad=True)
    assert not teacher(boxes).requires_grad
    teacher.encode(boxes).sum().backward()
    assert boxes.grad.abs().min() > 0
    assert all(p.grad is None for p in teacher.parameters())
