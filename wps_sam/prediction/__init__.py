"""What surrounds a trained model when it is put to use: pictures of any form in, parts to work with and files out.

``pictures`` brings every form of picture to one; ``parts`` is what is found in one; ``tiles`` looks at a large picture
piece by piece; ``sources``, ``results`` and ``run`` are behind tools/demo.py: files, folders, videos and cameras.
"""

from .parts import PartInstance, PartPrediction

__all__ = ["PartInstance", "PartPrediction"]
