"""Generated pictures with part labels: the data set ``synthetic_parts``, so that everything runs with no download.

A picture shows one or two animals, people or vehicles, drawn as textured and shaded polygons in a random pose over a
cluttered background. A part's class is recognisable from its shape, its neighbours and loosely from its colour, as in
photos; pose, rotation, scale, texture, light and occlusion vary. Limbs, wings and snakes are oblique or
curved on purpose: a filled bounding box is a poor mask of them, so a segmenter has something to win.

From shapes.py and textures.py, which know nothing of pictures, over objects.py, painting.py and background.py to
scene.py (one picture) and writer.py (a data set on disk). The same seed gives the same bytes, so the arithmetic
and the order of random draws in these files are part of the data set.
"""

from wps_sam.data.synthetic.objects import BACKGROUND, CATEGORIES, CLASS_NAMES, PARTS, SUPERCATEGORIES
from wps_sam.data.synthetic.scene import MAX_PARTS, MIN_PIXELS, Instance, SyntheticPicture, generate
from wps_sam.data.synthetic.writer import write_dataset

__all__ = [
    "BACKGROUND",
    "CATEGORIES",
    "CLASS_NAMES",
    "MAX_PARTS",
    "MIN_PIXELS",
    "PARTS",
    "SUPERCATEGORIES",
    "Instance",
    "SyntheticPicture",
    "generate",
    "write_dataset",
]
