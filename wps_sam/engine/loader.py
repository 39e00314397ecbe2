"""From registered data sets to batches: each data set with its own mapper, features and labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.utils import comm
from torch.utils.data import DataLoader

from ..config import needs_part_maps, needs_pixels
from ..data.label_map_mapper import LabelMapMapper
from ..data.mapper import FeatureReader, PartDatasetMapper
from ..data.part_mask_mapper import PartMaskMapper
from ..data.sources.orientation import pixel_grid_of
from ..data.sources.part_map_check import check_part_maps_once
from ..data.train_order import TrainOrder
from ..data.weak_labels import label_kind
from ..masks import PixelGrid, record_size
from ..prompters import PROMPTER_REGISTRY
from ..stops import Deferral
from ..structures import LabelKind
from .features import open_features
from .provenance import hash_data
from .teacher_maps import teacher_maps

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Mapper = Callable[[Record], Record]

MAPPERS = {"weak_labels": PartDatasetMapper, "part_masks": PartMaskMapper, "label_maps": LabelMapMapper}


def build_mapper(cfg: CfgNode, dataset_name: str, is_train: bool, features: FeatureReader | None = None) -> Mapper:
    """INPUT.DATASET_MAPPER_NAME: what turns a record of this data set into a model input.

    ``features``, of :func:`open_features`, are for the mapper "weak_labels" only, as check_config has made sure.
    """
    more = {} if features is None else {"features": features, "pixels": needs_pixels(cfg)}
    return MAPPERS[cfg.INPUT.DATASET_MAPPER_NAME](cfg, is_train, dataset_name, **more)


class MapperOfEachSet:
    """The mapper of the data set that a record is of: ids, flips and features differ from set to set."""

    def __init__(self, mappers: Mapping[str, Mapper]) -> None:
        self.mappers = dict(mappers)

    def __call__(self, dataset_dict: Record) -> Record:
        return self.mappers[dataset_dict.pop("dataset_name")](dataset_dict)


class TrainLoader:
    """A data loader whose worker processes start with the first batch, not with the iterator.

    Detectron2 0.6 takes the iterator before a checkpoint is loaded, too early to enter the order elsewhere.
    ``exif`` is the pixel grid of the labels, see :func:`wps_sam.data.sources.orientation.pixel_grid_of`. ``hash_data``
    gives the hash of each data set by its name. ``stop`` is asked where workers died.
    """

    def __init__(
        self,
        loader: DataLoader,
        order: TrainOrder,
        exif: PixelGrid | None,
        hash_data: Callable[[], dict[str, str]],
    ) -> None:
        self.loader = loader
        self.order = order
        self.exif = exif
        self.hash_data = hash_data
        self.stop = Deferral()

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        try:
            yield from self.loader
        except RuntimeError:
            # The workers may have been asked to stop, too, and did.
            self.stop.follow()
            raise


def build_train_loader(cfg: CfgNode) -> TrainLoader:
    """Batches of mapped records of DATASETS.TRAIN without the images that have nothing to learn from.

    Raises:
        ValueError: there is no training set, or the prompter can't take what it holds.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty; expected the names of the data sets to train on")
    by_name = {n: get_detection_dataset_dicts(n, filter_empty=False) for n in cfg.DATASETS.TRAIN}
    records = [{**record, "dataset_name": name} for name, of_set in by_name.items() for record in of_set]
    # Loaders of data sets whose labels are maps have left the empty ones out already.
    kept = [r for r in records if "annotations" not in r or num_parts(r) or num_tags(cfg, r)]
    logger.info(
        "%s: %d images, of which %d without annotations are left out of training",
        *(", ".join(cfg.DATASETS.TRAIN), len(records), len(records) - len(kept)),
    )
    num_crowds = sum(len(r["annotations"]) - num_parts(r) for r in records if "annotations" in r)
    if not kept and num_crowds:
        raise ValueError(
            f"{', '.join(cfg.DATASETS.TRAIN)}: all {num_crowds} annotations are crowds (iscrowd 1), which training "
            "leaves out; if they are parts, write crowds: parts into the data set's description"
        )
    if cfg.INPUT.DATASET_MAPPER_NAME == "weak_labels" and kept:
        check_labels(cfg, kept)
    stored = {name: open_stored(cfg, name, of_set, is_train=True) for name, of_set in by_name.items()}
    if needs_part_maps(cfg):
        for name, features in stored.items():
            of_set = [record for record in kept if record["dataset_name"] == name]
            for record, part_map in zip(of_set, teacher_maps(cfg, name, of_set, features)):
                record["teacher_map"] = part_map
    order = TrainOrder(
        kept,
        MapperOfEachSet({name: build_mapper(cfg, name, is_train=True, features=f) for name, f in stored.items()}),
        seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
    )
    loader = build_detection_train_loader(
        order,
        mapper=None,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )

    def hash_all() -> dict[str, str]:
        return {name: hash_data(of_set, contents(stored[name])) for name, of_set in by_name.items()}

    return TrainLoader(loader, order, pixel_grid_of(kept), hash_all)


def contents(features: FeatureReader | None) -> Mapping[str, str]:
    """What :func:`hash_data` need not read, as the features of the same pictures know it."""
    return {} if features is None else features.contents()


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Mapped records of one data set, each once."""
    if MetadataCatalog.get(dataset_name).evaluator_type == "part_seg":
        check_part_maps_once(dataset_name)
    features = open_test_features(cfg, dataset_name)
    mapper = build_mapper(cfg, dataset_name, is_train=False, features=features)
    return build_detection_test_loader(cfg, dataset_name, mapper=mapper)


def open_stored(
    cfg: CfgNode, dataset_name: str, records: Sequence[Mapping[str, Any]], is_train: bool
) -> FeatureReader | None:
    """The stored features of a data set; None with MODEL.SAM.FEATURES live.

    Raises:
        ValueError: see :func:`open_features`.
    """
    return None if cfg.MODEL.SAM.FEATURES == "live" else open_features(cfg, dataset_name, records, is_train=is_train)


def open_test_features(cfg: CfgNode, dataset_name: str) -> FeatureReader | None:
    """:func:`open_stored` of a data set to evaluate on, whose records are read for it."""
    if cfg.MODEL.SAM.FEATURES == "live":
        return None
    return open_stored(cfg, dataset_name, DatasetCatalog.get(dataset_name), is_train=False)


def check_labels(cfg: CfgNode, records: Sequence[Mapping[str, Any]]) -> None:
    """Requires that the prompter can take the parts of every training image, and that boxes can be learned from them.

    Raises:
        ValueError: says which image or which key.
    """
    prompter = PROMPTER_REGISTRY.get(cfg.MODEL.PROMPTER.NAME)
    prompter.check_training_set(cfg, records, [num_parts(record) for record in records])
    if cfg.WEAK_LABELS.TYPE != "as_annotated" or not prompter.PROPOSES_BOXES:
        return
    if not any(
        label_kind(annotation, *record_size(record), "as_annotated") >= LabelKind.BOX
        for record in records
        for annotation in record["annotations"]
    ):
        raise ValueError(
            f"WEAK_LABELS.TYPE is 'as_annotated', but no annotation of {', '.join(cfg.DATASETS.TRAIN)} has a box or "
            f"a mask from which {cfg.MODEL.PROMPTER.NAME} could learn boxes: set WEAK_LABELS.TYPE point"
        )


def num_parts(record: Mapping[str, Any]) -> int:
    """Annotations that training uses: a crowd region is no single part."""
    return sum(not annotation.get("iscrowd", 0) for annotation in record["annotations"])


def num_tags(cfg: CfgNode, record: Mapping[str, Any]) -> int:
    """Tags that training uses."""
    return len(record.get("tags", ())) if cfg.WEAK_LABELS.TYPE == "as_annotated" else 0
