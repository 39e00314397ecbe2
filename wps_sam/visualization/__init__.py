"""Pictures of part maps, part instances and weak labels: overlay, names, legend, panels side by side.

Detectron2's Visualizer paints masks, boxes and points. Names, titles and legends are set here, because
the Visualizer cannot say how large a text will be, and so cannot keep two names from covering each other.

Images are uint8 [H, W, 3] RGB, in and out; coordinates are x, y in pixels of the input image.
"""

from wps_sam.visualization.drawing import (
    draw_instances,
    draw_model_input,
    draw_part_map,
    draw_weak_labels,
    side_by_side,
)
from wps_sam.visualization.palette import part_colors, srgb_to_lab

__all__ = [
    "draw_instances",
    "draw_model_input",
    "draw_part_map",
    "draw_weak_labels",
    "part_colors",
    "side_by_side",
    "srgb_to_lab",
]
