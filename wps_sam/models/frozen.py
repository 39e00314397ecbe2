"""Models that stand on frozen weights: checkpoints hold what was trained, and a hash of the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class FrozenWeights(nn.Module):
    """Mixin for a model part of which is never trained.

    Its checkpoints leave the frozen weights out and hold, under ``HASH_KEY``, the hash of what they were trained on. A
    checkpoint of others is refused before anything is loaded. Call :meth:`watch_checkpoints` in the constructor.
    """

    HASH_KEY: ClassVar[str]
    # How the message calls what is frozen, and what to set.
    FROZEN_NAME: ClassVar[str]
    FROZEN_KEYS: ClassVar[str]
    # Where checkpoints hold what people call the frozen network, if the model knows that.
    NAME_KEY: ClassVar[str] = ""
    encoder_name: str = ""

    @abstractmethod
    def frozen_state(self) -> Mapping[str, Tensor]:
        """The entries of the state dict that checkpoints leave out."""

    @abstractmethod
    def compute_frozen_hash(self) -> str:
        """SHA-256 of all that is frozen, in hex."""

    def watch_checkpoints(self) -> None:
        """From now on the state dict is as the class says."""
        self._frozen_hash: str | None = None
        self._register_state_dict_hook(_replace_frozen)
        self._register_load_state_dict_pre_hook(self._check_and_fill_frozen)

    def frozen_hash(self) -> str:
        """:meth:`compute_frozen_hash`, once."""
        if self._frozen_hash is None:
            self._frozen_hash = self.compute_frozen_hash()
        return self._frozen_hash

    def check_frozen(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Takes the hash out of a checkpoint's ``state_dict``; ValueError if there is none, or not this model's."""
        saved = state_dict.pop(prefix + self.HASH_KEY, None)
        trained_on = name_of(state_dict.pop(prefix + self.NAME_KEY, None) if self.NAME_KEY else None)
        if saved is not None:
            self.compare_frozen(hash_of(saved), self.frozen_hash(), trained_on)
            return
        frozen = self.frozen_state()
        # What shares no name with the model is told by what it lacks.
        of_this_model = any(prefix + name in state_dict for name, _ in self.named_parameters() if name not in frozen)
        if of_this_model and any(prefix + key not in state_dict for key in frozen):
            raise ValueError(
                f"this checkpoint holds neither the frozen weights that it was trained on nor their hash, "
                f"{self.HASH_KEY}: it was not written by this project, or changed since"
            )

    def compare_frozen(self, saved: str, own: str, saved_name: str = "") -> None:
        """ValueError that names both if they differ."""
        if saved != own:
            was, now = (
                f"{name} {digest[:12]}...".strip() for name, digest in ((saved_name, saved), (self.encoder_name, own))
            )
            raise ValueError(
                f"this checkpoint was trained on another {self.FROZEN_NAME} ({was}, here {now}): "
                f"set {self.FROZEN_KEYS} as they were"
            )

    def _check_and_fill_frozen(self, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        self.check_frozen(state_dict, prefix)
        for key, value in self.frozen_state().items():
            state_dict.setdefault(prefix + key, value)
        # A file that does hold frozen weights changes them.
        self._frozen_hash = None


def name_of(saved: Any) -> str:
    """The name that a checkpoint says; "" where it says none that can be read, as it only makes a message clearer."""
    readable = isinstance(saved, Tensor) and saved.dtype == torch.uint8 and saved.dim() == 1
    return bytes(saved.tolist()).decode(errors="replace") if readable else ""


def hash_of(saved: Any) -> str:
    """The hash in hex of its bytes uint8 [32], as checkpoints hold it; ValueError if it is of another form."""
    if not isinstance(saved, Tensor) or saved.dtype != torch.uint8 or saved.shape != (32,):
        what = f"{saved.dtype} {tuple(saved.shape)}" if isinstance(saved, Tensor) else type(saved).__name__
        raise ValueError(f"this checkpoint's hash of frozen weights is damaged: expected torch.uint8 (32,), got {what}")
    return bytes(saved.tolist()).hex()


def _replace_frozen(module: FrozenWeights, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    for key in module.frozen_state():
        state_dict.pop(prefix + key, None)
    digest = torch.tensor(list(bytes.fromhex(module.frozen_hash())), dtype=torch.uint8)
    state_dict[prefix + module.HASH_KEY] = digest
    if module.NAME_KEY and module.encoder_name:
        state_dict[prefix + module.NAME_KEY] = torch.tensor(list(module.encoder_name.encode()), dtype=torch.uint8)
