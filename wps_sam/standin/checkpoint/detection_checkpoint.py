"""``DetectionCheckpointer``: fvcore's ``Checkpointer`` that reads no code and knows .safetensors."""

from __future__ import annotations

import pickle
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer
from safetensors.torch import load_file

from ..utils import comm
from ..utils.file_io import PathManager


class DetectionCheckpointer(Checkpointer):
    """Saves on the main process only; loads .pth and .safetensors, on every process."""

    def __init__(
        self, model: Any, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ) -> None:
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Returns ``{"model": state dict, ...}``; a bare state dict is wrapped.

        Raises:
            ValueError: the file is not a checkpoint, or a pickle that would run code.
        """
        if filename.endswith(".safetensors"):
            return {"model": load_file(filename)}
        try:
            with PathManager.open(filename, "rb") as f:
                loaded = torch.load(f, map_location=torch.device("cpu"), weights_only=True)
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            # weights_only refuses a pickle that names anything but tensors and plain containers.
            raise ValueError(
                f"{filename}: not a checkpoint of tensors and plain values that can be read without running code "
                f"({str(error).splitlines()[0]})"
            ) from error
        if not isinstance(loaded, dict):
            raise ValueError(f"{filename}: expected a checkpoint dict, got {type(loaded).__name__}")
        return loaded if "model" in loaded else {"model": loaded}
