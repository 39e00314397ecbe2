"""Pictures and part maps as models of the MaskFormer family take them: one size a batch, one mask a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def label_masks(
    batched_inputs: Sequence[dict[str, Any]], num_labels: int, size: torch.Size, device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Of each picture's "sem_seg" a mask float [n, H, W] for each label that occurs, and int64 [n], which.

    Args:
        num_labels: they are 0..num_labels - 1, and the record's "ignore_label".
        size: H and W of the batch; masks are 0 where it is padded.

    Raises:
        ValueError: names the picture and the label that is none of them.
    """
    masks, classes = [], []
    for record in batched_inputs:
        labels = record["sem_seg"].to(device)
        present = labels.unique()
        present = present[present != record["ignore_label"]]
        if len(present) and int(present.max()) >= num_labels:
            raise ValueError(f"{record['file_name']}: label {int(present.max())}, expected 0..{num_labels - 1}")
        padding = (0, size[1] - labels.shape[1], 0, size[0] - labels.shape[0])
        masks.append(F.pad((labels == present[:, None, None]).float(), padding))
        classes.append(present)
    return masks, classes
