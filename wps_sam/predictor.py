"""A picture in, its parts out: the class for people who want to use a trained model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from torch.nn import functional as F

from . import models  # noqa: F401  (registers WPSSAM)
from .checkpointer import SafeCheckpointer
from .config import is_open_vocabulary, read_config
from .data import mapper, part_mask_mapper
from .data.sources.descriptions import register_descriptions
from .encoders import PromptableEncoder
from .encoders.frozen import hash_tensors
from .evaluation.ground_truth import boxes_without_masks
from .masks import PixelGrid, read_object_map, read_part_map, read_picture, restrict_to_object
from .prediction import PartPrediction
from .prediction.overlap import parts_to_show
from .prediction.parts import NAMES_SHOWN, enlarge_map
from .prediction.pictures import WORKING_PIXELS, ImageLike, is_one_picture, to_rgb, working_size
from .prediction.tiles import merge_tiles, tile_rectangles
from .pretrained import find_pretrained, write_pretrained
from .visualization import side_by_side
from .vocabulary import PartVocabulary

logger = logging.getLogger(__name__)

# What evaluation does to a picture, by INPUT.DATASET_MAPPER_NAME.
AUGMENTATIONS = {"weak_labels": mapper.build_augmentations, "part_masks": part_mask_mapper.build_augmentations}

PACKAGE = Path(__file__).resolve().parent
# People in street photos: 16 parts of clothing and body.
SHIPPED_WEIGHTS = PACKAGE / "weights" / "ccp_parts_plus_box.safetensors"
SHIPPED_CONFIG = Path("ccp_parts") / "wps_sam_tiny_plus_box.yaml"


class PartPredictor:
    """Finds and names the parts in pictures.

    Without arguments it uses the model that comes with the package.

    Args:
        config_file: the config the model was trained with; None for the shipped model's.
        weights: a .safetensors or .pth checkpoint; None for the config's MODEL.WEIGHTS, else the last
            checkpoint in its OUTPUT_DIR; without a config the shipped ones.
        device: "cpu", "cuda", "cuda:1"; None for the config's MODEL.DEVICE, or the CPU where that is a GPU
            and there is none.
        confidence: parts with a lower score (0 to 1) are left out and no others, even if "no part" would be likelier.
            None for the rule of the evaluation: the config's MODEL.INFERENCE.SCORE_THRESHOLD, and no part that is
            likelier none.
        names: the parts to look for, "dog's ear" for one object's; only for a model that was trained with
            MODEL.PROMPTER.CLASSIFIER text, and only names that MODEL.TEXT.EMBEDDINGS holds. None for the names
            the model was trained on.
        tiles: (rows, columns); beside the whole picture, look at so many tiles of it, for parts that are small in a
            large picture, see :func:`wps_sam.prediction.tiles.merge_tiles`. Each takes as long as a picture.
        opts: config overrides, key, value, key, value ...

    A picture of more than 2 megapixels is answered at that size, and the answer enlarged. Of two parts of one name
    that cover each other mostly, the surer one stays. Neither is done in an evaluation.

    The class names are read from the weights (metadata ``class_names`` of a .safetensors, a JSON list) or, where
    they hold none, from the data set the config was trained on, whose annotations must then be there. Pictures with
    an EXIF orientation are turned upright, unless the labels of the training were made on pictures as stored.

    Raises:
        ValueError: a file, a config value or the names do not fit; the message says which and why.

    Example::

        parts = PartPredictor()("dog.jpg")
        print(parts.names, parts.scores)
        parts.save("dog_parts.png")
    """

    def __init__(
        self,
        config_file: str | Path | None = None,
        weights: str | Path | None = None,
        device: str | None = None,
        *,
        confidence: float | None = None,
        names: Sequence[str] | None = None,
        tiles: tuple[int, int] = (1, 1),
        opts: Sequence[Any] = (),
    ) -> None:
        if config_file is None:
            # The shipped model was trained on a CPU, which says nothing of the machine that it is used on.
            cfg = read_config(_shipped_config(), ("MODEL.DEVICE", "auto", *opts))
        else:
            cfg = read_config(config_file, opts)
        path = str(weights or cfg.MODEL.WEIGHTS or _trained_weights(config_file, cfg.OUTPUT_DIR))
        if "://" not in path and not Path(path).is_file():
            raise ValueError(f"weights {path}: the file does not exist")
        if confidence is not None and not 0 <= confidence <= 1:
            raise ValueError(f"confidence: expected a number from 0 to 1, got {confidence!r}")
        if not isinstance(tiles, Sequence) or len(tiles) != 2 or min(tiles) < 1:
            raise ValueError(f"tiles: expected rows and columns of 1 or more, got {tiles!r}")
        self.weights = path
        self.confidence = confidence
        self.tiles = tiles
        cfg.MODEL.DEVICE = _choose_device(device, cfg.MODEL.DEVICE)
        # Any picture may come, and most are in no cache.
        cfg.MODEL.SAM.FEATURES = "live"
        if names is not None and not is_open_vocabulary(cfg):
            raise ValueError(
                "names: this model knows only the parts it was trained on; train one with "
                "MODEL.PROMPTER.CLASSIFIER text to ask for others"
            )
        training = _read_training(path, cfg)
        self._trained_names, self._made_by = training.class_names, training.made_by
        # A model sees pictures as it learned to: of a set that was labelled on its sides it saw them so.
        self.exif: PixelGrid = training.exif or "upright"
        self.class_names = self._trained_names if names is None else tuple(names)
        cfg.MODEL.PROMPTER.NUM_CLASSES = len(self.class_names)
        cfg.freeze()
        self.cfg = cfg
        self.model = build_model(cfg).eval()
        self._set_vocabulary(PartVocabulary.from_names(self.class_names))
        SafeCheckpointer(self.model, strict=True).load(path)
        build_augmentations = AUGMENTATIONS[cfg.INPUT.DATASET_MAPPER_NAME]
        self._augmentations = T.AugmentationList(build_augmentations(cfg, is_train=False))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | None = None,
        *,
        download: bool = False,
        revision: str | None = None,
        confidence: float | None = None,
        names: Sequence[str] | None = None,
        tiles: tuple[int, int] = (1, 1),
        opts: Sequence[Any] = (),
    ) -> PartPredictor:
        """The model of a folder, of :meth:`save_pretrained` or of a run (its last checkpoint), or of the hub.

        Args:
            name: a folder; where there is none, a repository of the hub of Hugging Face, OWNER/NAME, which is looked
                for in its cache on this machine.
            download: also ask the hub itself.
            revision: branch, tag or commit there.
            device, confidence, names, tiles, opts: as of the class.

        Raises:
            ValueError: it is nowhere, or lacks a file; or as of the class.
        """
        found = find_pretrained(name, download, revision)
        more = [*found.opts, *opts]
        return cls(found.config, found.weights, device, confidence=confidence, names=names, tiles=tiles, opts=more)

    def save_pretrained(self, folder: str | Path, license: str | None = None) -> None:
        """Writes a folder that :meth:`from_pretrained` reads on any machine, and that can be put on the hub as it is.

        Args:
            folder: gets model.safetensors, config.yaml, README.md (the model card), the evaluation.json of the run
                where there is one, and copies of the weights of others that the model needs, such as a SAM's.
            license: for the card, an identifier of the hub such as apache-2.0; None: not stated.

        Raises:
            ValueError: a file of somebody else's is in the way.
        """
        training = {"class_names": list(self._trained_names), "exif": self.exif, "made_by": self._made_by}
        write_pretrained(folder, self.cfg, self.model.state_dict(), training, Path(self.weights), license)

    @property
    def settings(self) -> dict[str, Any]:
        """What predictions follow from, ready for JSON: the hash of all weights, and what was asked for beside them."""
        asked = {"confidence": self.confidence, "names": list(self.class_names), "tiles": list(self.tiles)}
        inference = {f"MODEL.INFERENCE.{key}": value for key, value in self.cfg.MODEL.INFERENCE.items()}
        inference |= {f"MODEL.SAM.{key}": self.cfg.MODEL.SAM[key] for key in ("PRECISION", "LEVELS")}
        return {"weights": hash_tensors(sorted(self.model.state_dict().items())), **asked, **inference}

    def __repr__(self) -> str:
        shown = ", ".join(self.class_names[:NAMES_SHOWN]) + ", ..." * (len(self.class_names) > NAMES_SHOWN)
        return f"PartPredictor({len(self.class_names)} parts: {shown}; {self.weights} on {self.cfg.MODEL.DEVICE})"

    def __call__(self, image: ImageLike) -> PartPrediction:
        """The parts of one picture: a file's path, a PIL image, an array [H, W, 3] or a tensor [3, H, W], RGB.

        Arrays and tensors may also be grey or RGBA, of 16 bits, or floating point numbers from 0 to 1, see
        :func:`wps_sam.prediction.pictures.to_rgb`.

        Raises:
            ValueError: the picture is missing, damaged, empty, or in none of these forms.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Iterable[ImageLike], batch_size: int = 4) -> list[PartPrediction]:
        """The parts of many pictures, ``batch_size`` of them at once; each as in a call of its own.

        ``images`` may be an array [N, H, W, C] or a tensor [N, C, H, W], too.

        Raises:
            ValueError: as for one picture; names its place in ``images``.
        """
        if is_one_picture(images):
            raise ValueError("predict_batch: expected several pictures, got one; call the predictor with it instead")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")
        predictions: list[PartPrediction] = []
        batch: list[tuple[np.ndarray, str]] = []
        for image in images:
            batch.append(to_rgb(image, f"picture {len(predictions) + len(batch)}", self.exif))
            if len(batch) == batch_size:
                predictions += self._predict(batch)
                batch = []
        return predictions + (self._predict(batch) if batch else [])

    @property
    def encoder(self) -> PromptableEncoder:
        """The segmenter, to be asked by clicks and boxes.

        Raises:
            ValueError: the model has none.
        """
        encoder = getattr(self.model, "backbone", None)
        if not isinstance(encoder, PromptableEncoder):
            raise ValueError(
                f"MODEL.META_ARCHITECTURE {self.cfg.MODEL.META_ARCHITECTURE}: this model has no SAM that could be "
                "asked by clicks; expected one of WPSSAM"
            )
        return encoder

    def compare(self, record: Mapping[str, Any], metadata: Any) -> np.ndarray:
        """Picture, ground truth and prediction of one data-set record side by side: uint8 [H', W', 3], RGB.

        Of true parts without a mask the boxes are drawn. A model that takes its classes by name is asked for the data
        set's from here on. Of a record about one object
        the parts of that object are shown, as in the protocol ov_oracle.

        Args:
            record, metadata: from DatasetCatalog and MetadataCatalog.

        Raises:
            ValueError: the data set's classes are not the model's, or a file of the record can't be read.
        """
        self._take_classes_of(metadata)
        # The annotation belongs to the stored pixel grid, which may lie on its side.
        image = read_picture(record)
        ground_truth = read_part_map(record, metadata)
        if "category_id" in record:
            objects = read_object_map(record, metadata)
            ground_truth = restrict_to_object(ground_truth, objects, record["category_id"], metadata.ignore_label)
            predicted = self._predict_object(image, record, objects == record["category_id"])
        else:
            predicted = self(image).part_map
        # Ignored pixels and background are both left bare; neither is a class.
        true_boxes = boxes_without_masks(record)
        return side_by_side(image, ground_truth, predicted, self.class_names, true_boxes=true_boxes)

    def _take_classes_of(self, metadata: Any) -> None:
        names = tuple(metadata.thing_classes)
        if names != self.class_names and not is_open_vocabulary(self.cfg):
            raise ValueError(
                f"data set {metadata.name}: its {len(names)} classes are not the "
                f"{len(self.class_names)} that the model knows"
            )
        self.class_names = names
        self._set_vocabulary(PartVocabulary.of(metadata))

    def _set_vocabulary(self, vocabulary: PartVocabulary) -> None:
        self.model.set_vocabulary(vocabulary.after_training_on(self._trained_names))

    @torch.inference_mode()
    def _predict_object(self, image: np.ndarray, record: Mapping[str, Any], of_object: np.ndarray) -> np.ndarray:
        """int64 [H, W]: which part of the record's object each of its pixels is; C elsewhere."""
        size = self._working_size(*image.shape[:2])
        asked = {**self._to_input(image, record["file_name"], size), "category_id": record["category_id"]}
        # For models that look inside of the object.
        where = torch.from_numpy(of_object)[None, None].float()
        inside = F.interpolate(where, asked["image"].shape[1:], mode="nearest-exact")[0, 0] > 0
        asked |= {"obj_sem_seg": torch.where(inside, record["category_id"], -1), "ignore_label": -1}
        output = self.model([asked])[0]
        parts = output["part_classes"][output["sem_seg"].argmax(dim=0)].cpu().numpy()
        return np.where(of_object, enlarge_map(parts, *of_object.shape), len(self.class_names))

    def _working_size(self, height: int, width: int) -> tuple[int, int]:
        """The size (h, w) at which the model answers for a picture of H x W: its own, or one of WORKING_PIXELS."""
        # Small parts that are found in tiles are to keep their shape.
        return working_size(height, width, WORKING_PIXELS * max(1, self.tiles[0] * self.tiles[1] / 4))

    def _to_input(self, image: np.ndarray, file_name: str, size: tuple[int, int]) -> dict[str, Any]:
        aug_input = T.AugInput(image)
        self._augmentations(aug_input)
        resized = torch.from_numpy(np.ascontiguousarray(aug_input.image.transpose(2, 0, 1)))
        height, width = size
        asked = {} if self.confidence is None else {"confidence": self.confidence}
        return {"image": resized, "height": height, "width": width, "file_name": file_name, **asked}

    @torch.inference_mode()
    def _predict(self, batch: list[tuple[np.ndarray, str]]) -> list[PartPrediction]:
        sizes = [self._working_size(*image.shape[:2]) for image, _ in batch]
        outputs = self.model([self._to_input(*given, size) for given, size in zip(batch, sizes)])
        found = [self._to_prediction(*given, output) for given, output in zip(batch, outputs)]
        return found if self.tiles == (1, 1) else [self._look_closer(whole) for whole in found]

    def _look_closer(self, whole: PartPrediction) -> PartPrediction:
        """The parts of a picture by what is in it as a whole and in its tiles."""
        height, width = whole.coarse_map.shape
        scale = np.array(whole.image.shape[:2]) / (height, width)
        tiles = []
        for rectangle in tile_rectangles(height, width, *self.tiles):
            y0, x0, y1, x1 = rectangle
            (top, left), (bottom, right) = np.rint([(y0, x0) * scale, (y1, x1) * scale]).astype(int)
            given = whole.image[top:bottom, left:right], whole.file_name
            output = self.model([self._to_input(*given, (y1 - y0, x1 - x0))])[0]
            tiles.append((rectangle, self._to_prediction(*given, output)))
        return merge_tiles(whole, tiles)

    def _to_prediction(self, image: np.ndarray, file_name: str, output: dict[str, Any]) -> PartPrediction:
        instances = (output["instances"] if "instances" in output else _regions(output["sem_seg"])).to("cpu")
        masks = instances.pred_masks.numpy()
        scores = instances.scores.numpy()
        classes = instances.pred_classes.numpy()
        kept = parts_to_show(masks, scores, classes)
        found = PartPrediction(
            image=image,
            class_names=self.class_names,
            classes=classes[kept],
            scores=scores[kept],
            coarse_masks=masks[kept],
            coarse_map=output["sem_seg"].argmax(dim=0).cpu().numpy(),
            coarse_boxes=instances.pred_boxes.tensor.numpy()[kept],
            file_name=file_name,
        )
        # Models that give no instances, and so ask for no confidence themselves, have not left any out.
        return found if self.confidence is None else found.filter(confidence=self.confidence)


def _regions(sem_seg: torch.Tensor) -> Instances:
    """The classes of a part map as parts, for models that give no instances; a score is the mean over its pixels.

    Args:
        sem_seg: float [C+1, H, W], background last.
    """
    part_map = sem_seg.argmax(dim=0)
    classes = [c for c in part_map.unique().tolist() if c < len(sem_seg) - 1]
    masks = torch.stack([part_map == c for c in classes]) if classes else part_map.new_zeros(0, *part_map.shape).bool()
    return Instances(
        tuple(part_map.shape),
        pred_masks=masks,
        pred_boxes=BitMasks(masks).get_bounding_boxes(),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        scores=torch.tensor([float(sem_seg[c][mask].mean()) for c, mask in zip(classes, masks)]),
    )


def _shipped_config() -> Path:
    # configs/ lies inside the installed package, and beside it in a checkout.
    installed = PACKAGE / "configs" / SHIPPED_CONFIG
    return installed if installed.is_file() else PACKAGE.parent / "configs" / SHIPPED_CONFIG


def _trained_weights(config_file: str | Path | None, output_dir: str) -> str:
    """Weights for a config that names none: those its training left behind, or the shipped ones for no config."""
    if config_file is None:
        return str(SHIPPED_WEIGHTS)
    mark = Path(output_dir) / "last_checkpoint"
    if not mark.is_file():
        raise ValueError(
            f"config {config_file}: MODEL.WEIGHTS is empty and OUTPUT_DIR ({output_dir}) holds no checkpoint; "
            "train first, or name the trained weights"
        )
    return str(mark.with_name(mark.read_text(encoding="utf-8").strip()))


def _choose_device(asked: str | None, configured: str) -> str:
    if asked is None:
        if configured.startswith("cuda") and not torch.cuda.is_available():
            logger.info("MODEL.DEVICE is %s, but torch finds no CUDA device: using the CPU", configured)
            return "cpu"
        return configured
    try:
        torch.zeros(0, device=asked)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {asked!r}: torch cannot use it: {error}") from error
    return asked


@dataclass(frozen=True)
class _Training:
    """What weights say of their training: the class names, the pixel grid of the labels if it mattered, and by what
    code, libraries and data it was done if they know."""

    class_names: tuple[str, ...]
    exif: PixelGrid | None
    made_by: dict[str, Any] | None


def _read_training(weights: str, cfg: CfgNode) -> _Training:
    said = SafeCheckpointer.read(weights).get("trainer", {})
    names = said.get("class_names")
    if names is None:
        if not cfg.DATASETS.TRAIN:
            raise ValueError(
                f"weights {weights} hold no class names, and the config has no DATASETS.TRAIN to name them"
            )
        register_descriptions(cfg.DATASETS.DESCRIPTIONS)
        names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes")
        if names is None:
            raise ValueError(
                f"weights {weights} hold no class names, and DATASETS.TRAIN names {cfg.DATASETS.TRAIN[0]!r}, which is "
                "not registered: add its description to DATASETS.DESCRIPTIONS"
            )
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"weights {weights}: class_names: expected a JSON list of names, got {names!r:.120}")
    exif = said.get("exif")
    if exif not in (None, "stored", "upright"):
        raise ValueError(f"weights {weights}: exif: expected stored or upright, got {exif!r:.80}")
    return _Training(tuple(names), exif, said.get("made_by"))
