"""What defines a run of image-level supervision: a YAML file of configs/image_level/, and what replaces some of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from ..encoders.clip import ATTENTION_KINDS
from .crf import CRFSettings
from .superpixels import SuperpixelSettings

# By the networks there are, what their maps can be passed on by.
AFFINITIES: dict[str, tuple[str, ...]] = {"clip": (*ATTENTION_KINDS, "cosine"), "tags": ("cosine",), "weaktr": ()}


@dataclass(frozen=True)
class FitSettings:
    """How long and fast words are learned; the defaults are FMA-WSSS's for the tags of VOC.

    ``pattern``, ``shared``, ``deviation``: of :class:`PromptBank`; ``named_backgrounds``: whether backgrounds have
    names in it. ``iterations`` are the schedule's length, of which ``stop`` are done, 0 for all. ``optimizer``: sgd |
    adamw. ``jitter``: whether colours vary. ``crop`` and ``long_side``: see :func:`scale_and_crop`. ``accumulate``:
    batches a step. ``crop_tags``: the classes of a crop are those that its seed shows, not the picture's tags.
    """

    pattern: str = "[16]{name}."
    shared: bool = True
    deviation: float = 0.015
    named_backgrounds: bool = True
    iterations: int = 1800
    stop: int = 0
    warmup: int = 500
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 1e-3
    optimizer: str = "sgd"
    momentum: float = 0.9
    jitter: bool = True
    weight_decay: float = 5e-4
    crop: int = 224
    long_side: tuple[int, ...] = (288, 480)
    crop_tags: bool = False
    seed: int = 0


@dataclass(frozen=True)
class MapSettings:
    """How maps are made.

    ``affinity``: what attends, of :data:`AFFINITIES`: CLIP's queries to its keys, "qk", or each to itself (ExCEL), or
    how alike the features of the semantic network are, "cosine"; "" for maps as they are. ``rounds``, ``power``: of
    :func:`balanced_affinity`; ``threshold``, ``scores``, ``exclusive_edges``: of :func:`class_aware_attention`.
    ``js``: its product with the agreement of patches about the classes (CD-CLIP). ``prototypes``: at last a map is how
    alike patches are to those where it is at least this share of its largest value (VDA); 0 to leave that out.
    """

    affinity: str = ""
    rounds: int = 1
    power: int = 2
    threshold: float = 0.4
    scores: bool = True
    exclusive_edges: bool = True
    js: bool = False
    prototypes: float = 0.0


@dataclass(frozen=True)
class SeedSettings:
    """``power`` of the background's score in coarse and in fine seeds."""

    coarse: float = 0.6
    fine: float = 0.7


@dataclass(frozen=True)
class StageSettings:
    """Of a stage of SemPLeS; its learning rate is this times the batch size / 512."""

    batch_size: int = 64
    learning_rate: float = 5.12e-4


@dataclass(frozen=True)
class SemplesSettings:
    """SemPLeS on WeakTr; the defaults are those of VOC.

    ``checkpoint``: of WeakTr, from which stages match and refine start; ``reduction``, ``pool``: of its fusion;
    ``unused``: of :class:`WeakTr`. ``scales`` of the pictures whose maps are added up. ``side`` of the crops.
    ``scored``: a list of pictures, one a line, by which the truth chooses an epoch where it is asked to; "": all.
    ``match_weight``, ``background_weight``, ``refine_weight``: lambda_b, lambda_T, lambda_r.
    """

    checkpoint: str = ""
    reduction: int = 8
    pool: str = "max"
    unused: tuple[int, ...] = ()
    scales: tuple[float, ...] = (1.0, 1.2)
    scored: str = ""
    side: int = 224
    epochs: int = 60
    weight_decay: float = 0.03
    match: StageSettings = field(default_factory=StageSettings)
    background: StageSettings = field(default_factory=lambda: StageSettings(128, 0.1))
    refine: StageSettings = field(default_factory=StageSettings)
    match_weight: float = 2.4
    background_weight: float = 0.02
    refine_weight: float = 0.05
    seed: int = 504


@dataclass(frozen=True)
class ExportSettings:
    """How pieces become labels: those smaller than ``min_area`` pixels are left out; ``instances``: "regions", every
    connected region, holes filled, is a part, or "classes", all of a class together, as it is."""

    min_area: int = 40
    instances: str = "regions"


@dataclass(frozen=True)
class ImageLevelSettings:
    """All of a run.

    The data, one of three: ``descriptions`` of data sets, and ``dataset``, whose records say what is in them, by tags
    or by labels, of which the names alone are read; ``tags``, a JSON of {file name: [names]}; or ``label_maps``, a
    folder of PNG as of PASCAL VOC (0 background, k class k - 1, 255 nobody knows), of which what occurs is read, for
    the names in the file ``names``, one a line. The last two are of pictures in ``images``, of ``classes``.
    ``objects``: a COCO file of the objects whose parts the classes are, such as instances.json of a run by their names:
    masks, words and maps then are of the crop around them, and ``superpixels.max_area`` is a share of their area.

    ``network``: "clip"; "tags" where there is none (:class:`wps_sam.image_level.networks.TagNetwork`); or "weaktr",
    which learns by CLIP as ``semples`` says. ``weights``: of CLIP; ``semantic_weights``: of the network of "tags" and
    of the affinity "cosine", whose MODEL.SEMANTIC.NAME is ``semantic``. ``side``: of pictures as CLIP sees them.
    ``texts``: what a class is called, by its name; ``backgrounds``: what may be around it; ``template``: of texts
    without learned words. ``nouns``: words, one a line, of which the nearest say what the learned surroundings of a
    class have become; "": the classes and backgrounds. ``exemplars``: by a
    class's name one picture's file, and a PNG that is not 0 where the class is in it, for classes that are everywhere.
    ``activation``, ``match``, ``refine``: weights of what words are learned from "seeds" by: FMA-WSSS's CAL, and on the
    same maps SemPLeS's losses of its stages a and c, the last of which is lambda_r; ``semples`` has its other two.
    Both at once is ours and in neither paper; 0, 1 and lambda_r are SemPLeS on FMA-WSSS's maps, without any seeds.
    ``crf``: of a row of ``eval``, where it is asked for.
    """

    descriptions: tuple[str, ...] = ()
    dataset: str = ""
    tags: str = ""
    label_maps: str = ""
    names: str = ""
    images: str = ""
    classes: tuple[str, ...] = ()
    objects: str = ""
    sam_arch: str = "vit_h"
    sam_weights: str = "weights/sam_vit_h_4b8939.pth"
    network: str = "clip"
    weights: str = "openai/clip-vit-base-patch16"
    semantic: str = "timm"
    semantic_weights: str = "shipped"
    side: int = 0
    template: str = "a photo of {name}."
    texts: Mapping[str, str] = field(default_factory=dict)
    backgrounds: tuple[str, ...] = ()
    nouns: str = ""
    exemplars: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    superpixels: SuperpixelSettings = field(default_factory=SuperpixelSettings)
    fit_tags: FitSettings = field(default_factory=FitSettings)
    fit_seeds: FitSettings = field(default_factory=FitSettings)
    # SemPLeS's stage b: AdamW at 0.1 * 128 / 512, without jitter, 60 epochs of VOC.
    fit_background: FitSettings = field(
        default_factory=lambda: FitSettings(
            pattern="a photo of [30]<.>",
            shared=False,
            deviation=0.0,
            iterations=4920,
            warmup=0,
            batch_size=128,
            optimizer="adamw",
            learning_rate=0.025,
            weight_decay=0.03,
            jitter=False,
        )
    )
    activation: float = 1.0
    match: float = 0.0
    refine: float = 0.0
    maps_tags: MapSettings = field(default_factory=MapSettings)
    maps_seeds: MapSettings = field(default_factory=MapSettings)
    semples: SemplesSettings = field(default_factory=SemplesSettings)
    seeds: SeedSettings = field(default_factory=SeedSettings)
    crf: CRFSettings = field(default_factory=CRFSettings)
    export: ExportSettings = field(default_factory=ExportSettings)

    def __post_init__(self) -> None:
        if self.network not in AFFINITIES:
            raise ValueError(f"network: expected one of {', '.join(AFFINITIES)}, got {self.network!r}")
        if sum(map(bool, (self.dataset, self.tags, self.label_maps))) != 1:
            raise ValueError("expected one of dataset, tags and label_maps")
        if not self.dataset and not (self.images and self.classes):
            raise ValueError("tags and label_maps need images, the folder, and classes, all names that occur")
        known = ("", *AFFINITIES[self.network])
        for name in ("maps_tags", "maps_seeds"):
            if getattr(self, name).affinity not in known:
                raise ValueError(f"{name}.affinity: of network {self.network!r} expected one of {known}")
        if not (self.activation or self.match or self.refine):
            raise ValueError("activation, match, refine: expected one above 0, or nothing is learned from seeds")
        if bool(self.label_maps) != bool(self.names):
            raise ValueError("label_maps and names belong together")


Kind = TypeVar("Kind")


def read_values(kind: type[Kind], values: Mapping[str, Any], where: str = "") -> Kind:
    """Settings from a mapping as YAML gives it, nested ones too.

    Raises:
        ValueError: names an unknown key, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where.rstrip('.') or 'settings'}: expected a mapping, got {values!r}")
    types = get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"unknown settings {', '.join(where + name for name in unknown)}; known: {', '.join(sorted(known))}"
        )
    return kind(**{name: _convert(types[name], value, where + name) for name, value in values.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind):
        return read_values(kind, value, where + ".")  # type: ignore[arg-type]
    origin = getattr(kind, "__origin__", kind)
    if origin is tuple and isinstance(value, list):
        inner = kind.__args__[0]
        return tuple(_convert(inner, one, f"{where}[{k}]") for k, one in enumerate(value))
    if origin is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            # YAML reads 1e-3, without a point, as a text.
            return float(value)
        except ValueError:
            pass
    if isinstance(value, dict) and isinstance(origin, type) and issubclass(dict, origin):
        return value
    if type(value) is origin:
        return value
    raise ValueError(f"{where}: expected {getattr(origin, '__name__', origin)}, got {value!r}")
