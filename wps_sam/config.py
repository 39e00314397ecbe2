"""Every configuration key of WPS-SAM, with its meaning, allowed values and symbol in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

# Side S in pixels of the square input of each SAM: those of the published ones, and of our own small one.
IMAGE_SIZES = {"vit_tiny": 512, "vit_b": 1024, "vit_l": 1024, "vit_h": 1024}

# Keys whose value is one of a few, checked by check_config. A list value is checked item by item.
CHOICES: dict[str, tuple[Any, ...]] = {
    "MODEL.SAM.ARCH": tuple(IMAGE_SIZES),
    "MODEL.SAM.PRECISION": ("fp32", "bf16"),
    "MODEL.SAM.COMPILE": (False, True),
    "MODEL.SAM.PADDING": ("bottom_right", "center"),
    "MODEL.SAM.FEATURES": ("live", "cache"),
    "MODEL.PROMPTER.NAME": ("DETRPrompter", "DensePrompter"),
    "MODEL.PROMPTER.CLASSIFIER": ("linear", "text"),
    "MODEL.PROMPTER.STRIDE": (8, 16),
    "MODEL.CLIPSEG.ARCH": ("rd64", "tiny"),
    "MODEL.CLIPSEG.TRAIN": ("adapter", "text_embeddings", "film", "decoder"),
    "MODEL.INFERENCE.MERGE": ("semantic", "authors"),
    "WEAK_LABELS.TYPE": ("box", "point"),
    "WEAK_LABELS.POINT": ("box_center", "random_pixel", "deepest_pixel"),
    "SOLVER.OPTIMIZER": ("Adam", "AdamW"),
    "TEST.PROTOCOLS": (
        *("auto", "d2_semseg", "pin41", "wps_image_part", "wps_authors", "coco_ap", "error_breakdown"),
        *("pascal_sq", "ov_oracle", "pred_obj", "pred_all"),
    ),
    "TEST.OV_COMPAT": ("substring_names", "resized_labels"),
    "TEST.WPS_AUTHORS_NULL": ("drop", "zero"),
    "INPUT.FORMAT": ("RGB",),
    "INPUT.RANDOM_FLIP": ("none", "horizontal"),
    "INPUT.DATASET_MAPPER_NAME": ("weak_labels", "part_masks"),
    # Detectron2's other samplers and its grouping by shape can't be continued exactly after a crash.
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler",),
    "DATALOADER.ASPECT_RATIO_GROUPING": (False,),
}


def add_wps_sam_config(cfg: CN) -> None:
    """Adds WPS-SAM's keys to Detectron2's default config, and the few defaults that differ.

    "Paper" is WPS-SAM, ECCV 2024, arXiv 2407.10131.
    """
    cfg.MODEL.META_ARCHITECTURE = "WPSSAM"
    cfg.MODEL.BACKBONE.NAME = "SAMImageEncoder"
    cfg.MODEL.WEIGHTS = ""
    # SAM's own normalisation, on RGB in 0..255.
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.INPUT.FORMAT = "RGB"

    # The frozen Segment Anything Model.
    cfg.MODEL.SAM = CN()
    # vit_tiny | vit_b | vit_l | vit_h. The side S of the square input follows from it: 512 pixels, else 1024.
    cfg.MODEL.SAM.ARCH = "vit_b"
    # An official .pth, a .safetensors, or "shipped" for the vit_tiny that comes with this package.
    # Empty: random weights from a fixed seed, for tests.
    cfg.MODEL.SAM.WEIGHTS = ""
    # bottom_right: SAM's own, after normalisation. center: on all sides and before it, as the authors' code does.
    cfg.MODEL.SAM.PADDING = "bottom_right"
    # Matrix products of the frozen image encoder: fp32 (SAM's own) | bf16, nearly twice as fast where the processor
    # knows it, with errors below 0.5% of the embedding's standard deviation. SOLVER.AMP is for the trained part alone.
    cfg.MODEL.SAM.PRECISION = "fp32"
    # True: its layers go through torch.compile, on GPUs; compiling delays the first image. On a CPU they
    # are faster without it, and it is ignored there.
    cfg.MODEL.SAM.COMPILE = False
    # live: the encoder looks at every picture in every epoch. cache: its features are read from CACHE_DIR, a folder for
    # each data set, where tools/cache_features.py has put them; the encoder is then not loaded at all.
    cfg.MODEL.SAM.FEATURES = "live"
    cfg.MODEL.SAM.CACHE_DIR = "output/features"

    # The trained part: image embedding to class scores and prompt tokens.
    cfg.MODEL.PROMPTER = CN()
    # DETRPrompter: the paper's transformer, which regresses tokens.
    # DensePrompter: every cell of the memory proposes a class and a box or point, read out through
    # SAM's own prompt encoder. Ours, for small data and small machines.
    cfg.MODEL.PROMPTER.NAME = "DETRPrompter"
    # C, the number of part classes; checked against the data set.
    cfg.MODEL.PROMPTER.NUM_CLASSES = 40
    # linear: a score a class, learned for the C classes of the training set. text: the cosine with a text
    # embedding of each class name, so that a model can be asked for classes that it was not trained on; NUM_CLASSES
    # then means nothing.
    cfg.MODEL.PROMPTER.CLASSIFIER = "linear"
    # N, the learned queries of DETRPrompter. Must be at least the largest number of parts of an image.
    cfg.MODEL.PROMPTER.NUM_QUERIES = 25
    # Strides of its neck, from the image embedding (64 cells a side at 1024 pixels) to the memory (16).
    cfg.MODEL.PROMPTER.NECK_STRIDES = [2, 2]
    # Depths, heads and feed-forward width of DETRPrompter's transformer.
    cfg.MODEL.PROMPTER.NUM_ENCODER_LAYERS = 6
    cfg.MODEL.PROMPTER.NUM_DECODER_LAYERS = 6
    cfg.MODEL.PROMPTER.NUM_HEADS = 8
    cfg.MODEL.PROMPTER.FFN_DIM = 1024
    # 8 | 16, pixels between the cells of DensePrompter's memory. The smallest parts want 8; 16 has a quarter of the
    # cells, and costs a quarter.
    cfg.MODEL.PROMPTER.STRIDE = 8
    # Depth and width of DensePrompter's convolutions.
    cfg.MODEL.PROMPTER.NUM_CONVS = 4
    cfg.MODEL.PROMPTER.CONV_DIM = 128
    # Width of the small trainable network with which DensePrompter looks at the picture itself, beside SAM's
    # embedding, which knows edges but hardly colours and textures. 0: none.
    cfg.MODEL.PROMPTER.COMPANION_DIM = 0

    # Text embeddings of the class names, for MODEL.PROMPTER.CLASSIFIER text; see tools/embed_names.py.
    cfg.MODEL.TEXT = CN()
    # A .safetensors of names and embeddings. Empty: a random vector a name, the same everywhere, for tests.
    cfg.MODEL.TEXT.EMBEDDINGS = ""
    # What tools/embed_names.py makes that file with: a CLIP or a plain text encoder of Hugging Face (or its folder),
    # and the sentences that a name is put in; the embedding of a name is the mean over them.
    cfg.MODEL.TEXT.ENCODER = "openai/clip-vit-base-patch16"
    cfg.MODEL.TEXT.TEMPLATES = ["a photo of a {}."]

    # META_ARCHITECTURE CLIPSeg, the baseline of OV-PARTS that is trained on masks.
    cfg.MODEL.CLIPSEG = CN()
    # A checkpoint of Hugging Face (name or folder), such as CIDAS/clipseg-rd64-refined. Empty: random weights of
    # the size ARCH (rd64 | tiny) from a fixed seed, for tests.
    cfg.MODEL.CLIPSEG.WEIGHTS = ""
    cfg.MODEL.CLIPSEG.ARCH = "rd64"
    # What is trained, of: adapter (VA), text_embeddings (L), film (F), decoder (D). Empty: nothing, zero-shot.
    cfg.MODEL.CLIPSEG.TRAIN = ["adapter", "text_embeddings", "film", "decoder"]
    # Weight of the background channel in the loss.
    cfg.MODEL.CLIPSEG.BACKGROUND_WEIGHT = 0.05

    # Costs of the matching between queries and labelled parts (paper, section on training).
    cfg.MODEL.MATCHER = CN()
    cfg.MODEL.MATCHER.CLASS_WEIGHT = 10.0
    cfg.MODEL.MATCHER.PROMPT_WEIGHT = 1.0

    # Weights of the losses.
    cfg.MODEL.LOSS = CN()
    cfg.MODEL.LOSS.CLASS_WEIGHT = 5.0
    cfg.MODEL.LOSS.PROMPT_WEIGHT = 20.0

    # Which queries become parts, and how their masks become one part map.
    cfg.MODEL.INFERENCE = CN()
    # Queries whose most likely class is a part, and whose probability reaches this, are decoded.
    cfg.MODEL.INFERENCE.SCORE_THRESHOLD = 0.0
    # Box IoU above which the weaker of two queries of one class is dropped before decoding; 1 keeps all.
    # Only prompters that read out boxes can be thinned so.
    cfg.MODEL.INFERENCE.NMS_THRESHOLD = 1.0
    # At most so many queries of an image are decoded, the surest first.
    cfg.MODEL.INFERENCE.MAX_PARTS = 100
    # semantic: a pixel has the class with the largest p(class) * p(mask). authors: per class, the sum of
    # mask probabilities, cut at 0.5; where several classes pass, the largest sum wins the part map.
    cfg.MODEL.INFERENCE.MERGE = "semantic"

    # Added to the scores of names that training did not show (calibrated stacking, arXiv 1605.04253): a model trained
    # on some names finds the others too unlikely. For CLASSIFIER text; in units of its scores, cosine times scale.
    cfg.MODEL.INFERENCE.UNSEEN_BIAS = 0.0

    # What the labels of the training set are reduced to before the model sees them.
    cfg.WEAK_LABELS = CN()
    # box | point
    cfg.WEAK_LABELS.TYPE = "box"
    # box_center (the paper's) | random_pixel | deepest_pixel, of the part's mask
    cfg.WEAK_LABELS.POINT = "box_center"
    cfg.WEAK_LABELS.SEED = 0

    # What a model is fed. weak_labels: the picture in SAM's frame, with boxes or points. part_masks: part and object
    # maps, for models that are trained on masks; sizes are Detectron2's INPUT.MIN_SIZE_TRAIN and so on.
    cfg.INPUT.DATASET_MAPPER_NAME = "weak_labels"
    # Augmentation. The paper uses none.
    # Detectron2's INPUT.RANDOM_FLIP (none | horizontal) and INPUT.CROP also apply.
    cfg.INPUT.RANDOM_FLIP = "none"

    # YAML descriptions of data sets in a known layout, registered before training; see datasets/README.md.
    cfg.DATASETS.DESCRIPTIONS = []

    # Adam: coupled L2 decay, the paper's. AdamW: decoupled.
    cfg.SOLVER.OPTIMIZER = "Adam"
    # Detectron2's schedules, and WarmupPolyLR: lr * (1 - t / T)^POLY_LR_POWER.
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.BASE_LR = 1e-4
    cfg.SOLVER.WEIGHT_DECAY = 1e-4
    # The paper decays every trained weight; Detectron2 would leave normalisation layers out.
    cfg.SOLVER.WEIGHT_DECAY_NORM = None
    # Weight decay of nn.Embedding; None: as any other weight.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = None
    # Detectron2's SOLVER.CLIP_GRADIENTS.CLIP_TYPE (value | norm, of each tensor) may also be full_model: the norm
    # over all gradients together.
    cfg.SOLVER.IMS_PER_BATCH = 8
    cfg.SOLVER.WARMUP_ITERS = 250
    cfg.SOLVER.WARMUP_FACTOR = 0.0
    cfg.SOLVER.MAX_ITER = 38370

    # Images are padded to one square: nothing is won by grouping them by shape.
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False

    # Evaluation protocols, by their names in datasets/README.md. "auto": those that the data set is made for,
    # as its metadata says. error_breakdown (where the score is lost) must be asked for.
    cfg.TEST.PROTOCOLS = ["auto"]
    # Also report SAM prompted with the true boxes (the ceiling) and the true boxes filled (the floor).
    cfg.TEST.ORACLES = False
    # ov_oracle: which quirks of OV-PARTS' own code to repeat, to stand beside its published tables:
    # substring_names, resized_labels.
    cfg.TEST.OV_COMPAT = []
    # pred_obj: a folder of object maps {image}.png that another model has predicted (object ids; any other value: no
    # object). Empty: the objects of the parts that the model itself predicts.
    cfg.TEST.OBJECT_PREDICTIONS = ""
    # wps_authors: what an image without any kept query costs: drop (as the authors' code) | zero
    cfg.TEST.WPS_AUTHORS_NULL = "drop"


def read_config(config_file: str | Path, opts: Sequence[Any] = ()) -> CN:
    """Defaults, then ``config_file`` (with its _BASE_), then ``opts`` (key, value, key, value ...), checked.

    Raises:
        ValueError: the file is missing, or see :func:`check_config`.
    """
    if not Path(config_file).is_file():
        raise ValueError(f"config {config_file}: the file does not exist")
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    cfg.merge_from_file(str(config_file))
    cfg.merge_from_list(list(opts))
    check_config(cfg)
    return cfg


def check_config(cfg: CN) -> None:
    """Refuses values that no part of the project understands, before any work is done.

    Raises:
        ValueError: names the key, its value and what is allowed.
    """
    for key, allowed in CHOICES.items():
        value: Any = cfg
        for name in key.split("."):
            value = value[name]
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if item not in allowed:
                raise ValueError(f"{key} is {item!r}; allowed: {', '.join(map(repr, allowed))}")
    if cfg.MODEL.PROMPTER.NUM_CLASSES < 1:
        raise ValueError(
            f"MODEL.PROMPTER.NUM_CLASSES is {cfg.MODEL.PROMPTER.NUM_CLASSES}; set the number of part classes"
        )
    if cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ValueError(f"SOLVER.AMP.ENABLED needs MODEL.DEVICE cuda, not {cfg.MODEL.DEVICE!r}")
    if cfg.MODEL.SAM.FEATURES == "cache":
        check_cacheable(cfg)
    for expected in cfg.TEST.EXPECTED_RESULTS:
        if len(expected) != 4:
            raise ValueError(
                f"TEST.EXPECTED_RESULTS holds {expected!r}; each entry is [protocol, metric, value, tolerance]"
            )


def check_cacheable(cfg: CN) -> None:
    """Refuses configs whose models see more views of a picture than can be kept, or none through SAM.

    Raises:
        ValueError: names the key.
    """
    if cfg.INPUT.DATASET_MAPPER_NAME != "weak_labels":
        raise ValueError(
            f"INPUT.DATASET_MAPPER_NAME is {cfg.INPUT.DATASET_MAPPER_NAME!r}: only inputs of 'weak_labels' have "
            "features of SAM that could be cached"
        )
    if cfg.INPUT.CROP.ENABLED:
        raise ValueError(
            "INPUT.CROP.ENABLED is True: every crop is another picture, so its features can't be cached; "
            "set INPUT.CROP.ENABLED False, or MODEL.SAM.FEATURES live"
        )


def needs_pixels(cfg: CN) -> bool:
    """Whether a part of the model beside SAM's encoder looks at the pictures."""
    return cfg.MODEL.PROMPTER.NAME == "DensePrompter" and cfg.MODEL.PROMPTER.COMPANION_DIM > 0


def is_open_vocabulary(cfg: CN) -> bool:
    """Whether the model takes its classes by name, so that data sets may differ in them."""
    return cfg.MODEL.META_ARCHITECTURE == "CLIPSeg" or cfg.MODEL.PROMPTER.CLASSIFIER == "text"


def image_size(cfg: CN) -> int:
    """Side S of the square network input in pixels, which follows from MODEL.SAM.ARCH."""
    return IMAGE_SIZES[cfg.MODEL.SAM.ARCH]
