"""Texts of CLIP with learned words among their own: a row a class, a feature each.

FMA-WSSS (arXiv 2312.03585), SemPLeS (arXiv 2401.11791) and OV-PARTS' CPTCoOp (arXiv 2310.05107) differ in the pattern
alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .clip import CLIP

# [16]: so many learned words. {name}: a name of the row. <.>: an entry of the vocabulary as it is. Others: words.
_PIECES = re.compile(r"\[(?P<learned>\d+)\]|\{(?P<name>\w+)\}|<(?P<entry>[^>]+)>|(?P<text>[^\[{<]+)")


class PromptBank(nn.Module):
    """K texts after one pattern; the learned words are the only parameters.

    Args:
        clip: frozen; used, not kept among the parameters.
        names: of each row, what stands for ``{name}``, or a mapping of several; "" leaves it out.
        pattern: such as "[16]{name}." (FMA-WSSS of classes), "{name}[16]." (FMA-WSSS of seeds), "a photo of [30]<.>"
            (SemPLeS), whose stop is the entry "." of the vocabulary, not the word ".", "[4]{object}[4]{part}."
            (CPTCoOp).
        shared: one block of learned words for all rows (CoOp's unified context); else one a row.
        deviation: they start from a normal distribution of it; 0: uniformly in 0..1, as SemPLeS's.
        seed: of the start.

    Raises:
        ValueError: the pattern has no learned words, is not understood, or names nothing of a row.
    """

    contexts: nn.Parameter

    def __init__(
        self,
        clip: CLIP,
        names: Sequence[str | Mapping[str, str]],
        pattern: str = "[16]{name}.",
        shared: bool = True,
        deviation: float = 0.015,
        seed: int = 0,
    ) -> None:
        super().__init__()
        # In a list, so that it is neither saved nor trained with the bank.
        self._clip = [clip]
        self.pattern = pattern
        self.set_names(names)
        learned = sum(int(piece["learned"]) for piece in _PIECES.finditer(pattern) if piece["learned"])
        if not learned:
            raise ValueError(f"{pattern!r}: expected learned words, such as [16]")
        shape = (1 if shared else len(names), learned, clip.text_dim)
        generator = torch.Generator().manual_seed(seed)
        # Not on the meta device, on which models are built to look at their sizes: it draws nothing.
        with torch.device("cpu"):
            draw = torch.randn if deviation else torch.rand
            start = draw(shape, generator=generator) * (deviation or 1.0)
        self.contexts = nn.Parameter(start.to(clip.scale))

    def set_names(self, names: Sequence[str | Mapping[str, str]]) -> None:
        """Other rows, in words that they share."""
        rows = [{"name": name} if isinstance(name, str) else name for name in names]
        self.rows = [token_row(self._clip[0], self.pattern, row) for row in rows]

    def forward(self, chosen: Sequence[int] | None = None, shift: Tensor | None = None) -> Tensor:
        """Features [R, E] of unit length.

        Args:
            chosen: R rows, also several times; None: all K.
            shift: float [R, text_dim], added to each learned word of a row, as CPTCoCoOp adds what a picture shows.
        """
        chosen = range(len(self.rows)) if chosen is None else chosen
        contexts = self.contexts.expand(len(self.rows), -1, -1)[list(chosen)]
        if shift is not None:
            contexts = contexts + shift[:, None]
        return self._clip[0].text_features([self.rows[k] for k in chosen], contexts)


class FixedTexts(nn.Module):
    """K texts without anything to learn."""

    features: Tensor

    def __init__(self, clip: CLIP, texts: Sequence[str]) -> None:
        super().__init__()
        with torch.no_grad():
            features = clip.name_features(texts, ["{}"])[:, 0]
        self.register_buffer("features", features, persistent=False)

    @classmethod
    def of(cls, bank: PromptBank) -> FixedTexts:
        """What a bank says now."""
        fixed = cls.__new__(cls)
        nn.Module.__init__(fixed)
        with torch.no_grad():
            fixed.register_buffer("features", bank(), persistent=False)
        return fixed

    def forward(self) -> Tensor:
        """Features [K, E] of unit length."""
        return self.features


def token_row(clip: CLIP, pattern: str, names: Mapping[str, str]) -> list[int]:
    """The tokens of a pattern without start and end; -1 for each learned word.

    Raises:
        ValueError: the pattern is not understood, asks for a name there is not, or for an entry that is none.
    """
    row: list[int] = []
    end = 0
    for piece in _PIECES.finditer(pattern):
        if piece.start() != end:
            break
        end = piece.end()
        if piece["learned"]:
            row += [-1] * int(piece["learned"])
        elif piece["name"]:
            if piece["name"] not in names:
                raise ValueError(f"{pattern!r}: expected one of {{{'}, {'.join(names)}}}, got {{{piece['name']}}}")
            row += clip.tokens_of(names[piece["name"]])
        elif piece["entry"]:
            entry = clip.tokenizer.get_vocab().get(piece["entry"])
            if entry is None:
                raise ValueError(f"{pattern!r}: {piece['entry']!r} is no entry of CLIP's vocabulary")
            row.append(entry)
        else:
            row += clip.tokens_of(piece["text"])
    if end != len(pattern):
        raise ValueError(f"{pattern!r}: not understood from {pattern[end:]!r} on; expected words, [16], {{name}}, <.>")
    return row
