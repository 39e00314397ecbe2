"""What the page knows of one photo, and what a user does with it: pure functions, a scene in and a scene out.

Coordinates are x, y in pixels of the picture at the size of its prediction, h x w, see
:meth:`wps_sam.prediction.PartPrediction.coarse_image`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..encoders import PromptableEncoder
from ..masks import mask_to_box
from ..prediction import PartPrediction
from ..prompt_evaluation import Click, PromptedPicture

Box = tuple[float, float, float, float]


# The mask bool [h, w] of a box (x0, y0, x1, y1), clicks, or both.
Ask = Callable[[Box | None, Sequence[Click]], np.ndarray]


@dataclass(frozen=True, eq=False)
class ScenePart:
    """One part in a scene.

    Attributes:
        number: by which it is known; it stays.
        class_id: of its name, 0..C-1.
        score: of the model, 0 to 1; 1 of what a user made.
        mask: bool [h, w].
        found: its place among the parts that the model found; None for a new one.
        hidden: whether it is left out.
        box, clicks: what the segmenter was asked for it.
    """

    number: int
    class_id: int
    score: float
    mask: np.ndarray
    found: int | None = None
    hidden: bool = False
    box: Box | None = None
    clicks: tuple[Click, ...] = ()

    @property
    def by_hand(self) -> bool:
        """Whether a user made or corrected it."""
        return self.box is not None or bool(self.clicks)


@dataclass(frozen=True, eq=False)
class Scene:
    """One photo with its parts.

    Attributes:
        found: all that the model found, also what is below ``confidence``.
        ask: asks the segmenter.
        parts: in the order of their numbers.
        confidence: parts of the model with a lower score are not there.
        chosen: number of the part that clicks change.
        before: the scene before the last mark, for :func:`undone`.
    """

    found: PartPrediction
    ask: Ask
    parts: tuple[ScenePart, ...]
    confidence: float
    chosen: int | None = None
    before: Scene | None = None

    @property
    def listed(self) -> list[ScenePart]:
        """The parts that are there, hidden ones among them."""
        return [part for part in self.parts if part.by_hand or part.score >= self.confidence]

    @property
    def shown(self) -> list[ScenePart]:
        """The parts that are there and not hidden."""
        return [part for part in self.listed if not part.hidden]

    def name_of(self, part: ScenePart) -> str:
        return self.found.class_names[part.class_id]

    def part(self, number: int | None) -> ScenePart | None:
        return next((part for part in self.listed if part.number == number), None)


def opened(found: PartPrediction, ask: Ask, confidence: float) -> Scene:
    """The scene of a photo as the model sees it."""
    parts = [
        ScenePart(k, int(c), float(score), mask, found=k)
        for k, (c, score, mask) in enumerate(zip(found.classes, found.scores, found.coarse_masks))
    ]
    return Scene(found, ask, tuple(parts), confidence)


def asker(encoder: PromptableEncoder, found: PartPrediction) -> Ask:
    """Asks ``encoder`` of the picture, which it encodes once, at the first question."""
    prompted: list[PromptedPicture] = []

    def ask(box: Box | None, clicks: Sequence[Click]) -> np.ndarray:
        if not prompted:
            prompted.append(PromptedPicture(encoder, found.coarse_image()))
        return prompted[0].mask(box, clicks)

    return ask


def with_confidence(scene: Scene, confidence: float) -> Scene:
    """Other parts of the model are there; one that is gone is chosen no longer."""
    return _chosen_if_there(replace(scene, confidence=confidence))


def showing(scene: Scene, numbers: Collection[int]) -> Scene:
    """Of the parts that are there, these alone are not hidden."""
    listed = {part.number for part in scene.listed}
    parts = [
        replace(part, hidden=part.number not in numbers) if part.number in listed else part for part in scene.parts
    ]
    return replace(scene, parts=tuple(parts))


def chosen_number(scene: Scene, number: int | None) -> Scene:
    """The part of this number is chosen."""
    return _chosen_if_there(replace(scene, chosen=number))


def chosen_at(scene: Scene, x: float, y: float) -> Scene:
    """The smallest part at this pixel is chosen; none where none is."""
    height, width = scene.found.coarse_map.shape
    column, row = min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1)
    there = [part for part in scene.shown if part.mask[row, column]]
    smallest = min(there, key=lambda part: int(part.mask.sum()), default=None)
    return replace(scene, chosen=None if smallest is None else smallest.number)


def clicked(scene: Scene, click: Click) -> Scene:
    """The chosen part with one more click: the segmenter is asked for it anew.

    A part of the model is asked for by its box, which grows to hold what is clicked as inside.

    Raises:
        ValueError: no part is chosen, or nothing is left of it.
    """
    part = _chosen_part(scene)
    box = mask_to_box(part.mask) if not part.by_hand else part.box
    if box is not None and click.inside:
        x0, y0, x1, y1 = box
        box = min(x0, click.x), min(y0, click.y), max(x1, click.x + 1), max(y1, click.y + 1)
    return _with_part(scene, part, box, (*part.clicks, click))


def boxed(scene: Scene, box: Box) -> Scene:
    """The chosen part asked for by another box alone.

    Raises:
        ValueError: no part is chosen, or there is nothing in the box.
    """
    return _with_part(scene, _chosen_part(scene), box, ())


def started(scene: Scene, class_id: int, place: Box | Click) -> Scene:
    """A new part of this class, by a box or a click; it is the chosen one.

    Raises:
        ValueError: there is nothing.
    """
    number = max((part.number for part in scene.parts), default=-1) + 1
    empty = np.zeros(scene.found.coarse_map.shape, bool)
    box, clicks = (None, (place,)) if isinstance(place, Click) else (place, ())
    return _with_part(scene, ScenePart(number, class_id, 1.0, empty), box, clicks)


def undone(scene: Scene) -> Scene:
    """Without the last click or box; what is hidden, chosen or too unsure stays as it is now."""
    if scene.before is None:
        return scene
    hidden = {part.number: part.hidden for part in scene.parts}
    parts = [replace(part, hidden=hidden[part.number]) for part in scene.before.parts]
    before = replace(scene.before, parts=tuple(parts), confidence=scene.confidence, chosen=scene.chosen)
    return _chosen_if_there(before)


def result(scene: Scene) -> PartPrediction:
    """What is shown, as a prediction: what a user made first and on top, then the model's parts, the surest first.

    Where a part that is not shown lay on others, the surest of them is seen.
    """
    kept = [part for part in scene.shown if not part.by_hand]
    made = [part for part in scene.shown if part.by_hand]
    found = scene.found[np.array([part.found for part in kept], np.int64)]
    background = len(found.class_names)
    part_map = found.coarse_map.copy()
    uncovered = (part_map == background) & (scene.found.coarse_map != background)
    for part in reversed(kept):
        part_map[uncovered & part.mask] = part.class_id
    if not made:
        return replace(found, coarse_map=part_map)
    # Largest first, so that a small part on a large one stays visible.
    for part in sorted(made, key=lambda part: -int(part.mask.sum())):
        part_map[part.mask] = part.class_id
    masks = np.stack([part.mask for part in made])
    return replace(
        found,
        classes=np.concatenate([[part.class_id for part in made], found.classes]).astype(np.int64),
        scores=np.concatenate([[part.score for part in made], found.scores]).astype(np.float32),
        coarse_masks=np.concatenate([masks, found.coarse_masks]),
        coarse_boxes=np.concatenate([[mask_to_box(mask) for mask in masks], found.coarse_boxes]).astype(np.float32),
        coarse_map=part_map,
    )


def _chosen_part(scene: Scene) -> ScenePart:
    part = scene.part(scene.chosen)
    if part is None:
        raise ValueError("no part is chosen: click on one while clicks choose, or start a new one")
    return part


def _chosen_if_there(scene: Scene) -> Scene:
    return scene if scene.part(scene.chosen) is not None else replace(scene, chosen=None)


def _with_part(scene: Scene, part: ScenePart, box: Box | None, clicks: tuple[Click, ...]) -> Scene:
    mask = scene.ask(box, clicks)
    if not mask.any():
        raise ValueError(f"SAM sees no {scene.name_of(part)} there; try another place, or draw a box")
    made = replace(part, mask=mask, score=1.0, box=box, clicks=clicks, hidden=False)
    others = [other for other in scene.parts if other.number != part.number]
    parts = sorted([*others, made], key=lambda one: one.number)
    return replace(scene, parts=tuple(parts), chosen=part.number, before=scene)
