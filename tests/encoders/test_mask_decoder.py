"""The batched mask decoder against segment_anything's own, one image a call."""

from wps_sam.encoders import mask_decoder
from wps_sam.encoders.build_sam import PATCH_SIZE, build_sam, get_arch
from wps_sam.encoders.mask_decoder import predict_masks

import pytest
import torch

CELLS = get_arch("vit_tiny").image_size // PATCH_SIZE
PIXELS = 4 * CELLS


@pytest.fixture(scope="module")
def sam():
    """vit_tiny with random weights, biases and norms too: at their start many of them do nothing."""
    sam = build_sam("vit_tiny", components=("prompt_encoder", "mask_decoder"))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (*sam.mask_decoder.parameters(), *sam.prompt_encoder.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=g) * 0.05)
    return sam.requires_grad_(False)


def prompts_of(counts, seed=0):
    g = torch.Generator().manual_seed(seed)
    embedding = torch.randn(len(counts), 256, CELLS, CELLS, generator=g)
    return embedding, [torch.randn(count, 2, 256, generator=g) for count in counts]


def stock_masks(sam, image_embedding, tokens, multimask=False):
    """segment_anything's decoder for the prompts [K, 2, 256] of one image: masks and expected IoU."""
    return sam.mask_decoder(
        image_embeddings=image_embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=tokens,
        dense_prompt_embeddings=sam.prompt_encoder(points=None, boxes=None, masks=None)[1],
        multimask_output=multimask,
    )


def our_predictions(sam, image_embedding, tokens, multimask=False):
    no_mask = sam.prompt_encoder(points=None, boxes=None, masks=None)[1]
    position = sam.prompt_encoder.get_dense_pe()
    return predict_masks(sam.mask_decoder, image_embedding, tokens, no_mask, position, multimask)


def our_masks(sam, image_embedding, tokens):
    predictions = our_predictions(sam, image_embedding, tokens)
    assert all(of_image.iou is None and of_image.logits.shape[1] == 1 for of_image in predictions)
    return [of_image.logits[:, 0] for of_image in predictions]


@pytest.mark.parametrize("at_once", [1, 3, 64])
@pytest.mark.parametrize("counts", [(3,), (2, 0, 4), (0, 1), (1, 3, 0, 0, 1)], ids=str)
def test_equals_segment_anythings_decoder_image_by_image(sam, counts, at_once, monkeypatch):
    monkeypatch.setattr(mask_decoder, "PROMPTS_AT_ONCE_ON_CPU", at_once)
    embedding, tokens = prompts_of(counts)
    ours = our_masks(sam, embedding, tokens)
    assert [tuple(masks.shape) for masks in ours] == [(count, PIXELS, PIXELS) for count in counts]
    for i, count in enumerate(counts):
        if count:
            stock = stock_masks(sam, embedding[i : i + 1], tokens[i])[0][:, 0]
            assert stock.std() > 0.1, "masks that are flat would be equal whatever the decoder does"
            torch.testing.assert_close(ours[i], stock, atol=1e-4, rtol=1e-4)


def test_no_prompt_at_all(sam):
    embedding, tokens = prompts_of((0, 0))
    assert [tuple(masks.shape) for masks in our_masks(sam, embedding, tokens)] == [(0, PIXELS, PIXELS)] * 2


def test_prompts_for_another_number_of_images_are_refused(sam):
    embedding, tokens = prompts_of((1, 1))
    with pytest.raises(ValueError, match="2 images, but prompts for 1"):
        our_masks(sam, embedding, tokens[:1])


def test_gradients_reach_the_prompts_as_through_segment_anything_and_no_weight(sam):
    embedding, tokens = prompts_of((2, 0, 1))
    ours, stock = ([t.clone().requires_grad_() for t in tokens] for _ in range(2))
    torch.cat(our_masks(sam, embedding, ours)).square().mean().backward()
    masks = [stock_masks(sam, embedding[i : i + 1], stock[i])[0][:, 0] for i in (0, 2)]
    torch.cat(masks).square().mean().backward()
    for i in (0, 2):
        assert ours[i].grad.abs().max() > 0
        torch.testing.assert_close(ours[i].grad, stock[i].grad, atol=1e-6, rtol=1e-3)
    assert all(parameter.grad is None for parameter in sam.mask_decoder.parameters())


def test_masks_of_one_image_do_not_keep_those_of_the_batch_alive(sam):
    embedding, tokens = prompts_of((1, 3))
    small, large = our_masks(sam, embedding, tokens)
    assert small.untyped_storage().nbytes() == 4 * PIXELS**2
    assert large.untyped_storage().nbytes() == 3 * 4 * PIXELS**2


@pytest.mark.parametrize("at_once", [1, 64])
def test_three_masks_and_their_quality_equal_segment_anythings(sam, at_once, monkeypatch):
    monkeypatch.setattr(mask_decoder, "PROMPTS_AT_ONCE_ON_CPU", at_once)
    embedding, tokens = prompts_of((2, 0, 3))
    ours = our_predictions(sam, embedding, tokens, multimask=True)
    assert [tuple(p.logits.shape) for p in ours] == [(count, 3, PIXELS, PIXELS) for count in (2, 0, 3)]
    assert ours[1].iou.shape == (0, 3)
    for i in (0, 2):
        masks, iou = stock_masks(sam, embedding[i : i + 1], tokens[i], multimask=True)
        torch.testing.assert_close(ours[i].logits, masks, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours[i].iou, iou, atol=1e-4, rtol=1e-4)
        # The single mask in their place, an easy mistake, is another.
        assert (ours[i].logits[:, 0] - stock_masks(sam, embedding[i : i + 1], tokens[i])[0][:, 0]).abs().max() > 0.1


def test_no_prompt_at_all_has_three_masks_of_none(sam):
    embedding, tokens = prompts_of((0,))
    (nothing,) = our_predictions(sam, embedding, tokens, multimask=True)
    assert nothing.logits.shape == (0, 3, PIXELS, PIXELS) and nothing.iou.shape == (0, 3)


def test_one_mask_a_prompt_unless_asked_otherwise(sam):
    embedding, tokens = prompts_of((2,))
    no_mask = sam.prompt_encoder(points=None, boxes=None, masks=None)[1]
    (found,) = predict_masks(sam.mask_decoder, embedding, tokens, no_mask, sam.prompt_encoder.get_dense_pe())
    assert found.logits.shape == (2, 1, PIXELS, PIXELS) and found.iou is None
