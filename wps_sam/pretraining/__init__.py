"""Trains the small frozen networks that ship: a promptable SAM, and a semantic network taught by a larger one.

The SAM is trained from scratch: image encoder, prompt encoder and mask decoder together.

Follows SAM (Kirillov et al., ICCV 2023, section 5 and appendix A) at a small scale: masks from boxes, points and both,
then from corrections; three masks for points, which are ambiguous, with the loss on the best. Targets know no class: a
part, a group of adjoining parts, or a whole object.

Axes: B views of pictures, P prompts of all of them, S side of a view, E side of the mask logits (S/4), L side of the
square the loss is computed on.
"""

from .command_line import run
from .distillation import Distiller, DistillSettings
from .loop import read_settings
from .trainer import Pretrainer, PretrainSettings

__all__ = ["DistillSettings", "Distiller", "PretrainSettings", "Pretrainer", "read_settings", "run"]
