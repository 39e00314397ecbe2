"""Every configuration key of WPS-SAM, with its meaning, allowed values and symbol in the paper."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from . import data, models  # noqa: F401  (registers the data sets and meta-architectures that configurations name)
from .encoders import check_semantic_name, encoder_class
from .evaluation import check_protocols
from .paths import check_overrides, find_config, find_file, is_finished
from .prompters import PROMPTER_REGISTRY, Prompter
from .user_errors import did_you_mean

# Keys whose value is one of a few, checked by check_config. A list value is checked item by item.
CHOICES: dict[str, tuple[Any, ...]] = {
    "MODEL.SAM.PRECISION": ("fp32", "bf16"),
    "MODEL.SAM.COMPILE": (False, True),
    "MODEL.SAM.PADDING": ("bottom_right", "center"),
    "MODEL.SAM.FEATURES": ("live", "cache"),
    "MODEL.SAM.LEVELS": ("all", "coarse"),
    "MODEL.PROMPTER.CLASSIFIER": ("linear", "text", "composed_text"),
    "MODEL.CLIPSEG.ARCH": ("rd64", "tiny"),
    "MODEL.CLIPSEG.TRAIN": ("adapter", "text_embeddings", "film", "decoder"),
    "MODEL.CATSEG.ARCH": ("vitb_r101_384", "tiny"),
    "MODEL.CATSEG.TRAIN": ("backbone", "aggregator"),
    "MODEL.CATSEG.COMPAT": ("padding", "sigmoid_first", "fresh_background"),
    "MODEL.ZSSEG.STAGE": ("prompts", "proposals"),
    "MODEL.ZSSEG.ARCH": ("resnet50", "resnet101c", "tiny"),
    "MODEL.ZSSEG.PROMPT_KIND": ("CPTCoOp", "CPTCoCoOp"),
    "MODEL.ZSSEG.PROMPT_CLASSES": ("object", "seen"),
    "MODEL.ZSSEG.COMPAT": ("additive_attention",),
    "MODEL.INFERENCE.MERGE": ("semantic", "authors", "part_map"),
    "WEAK_LABELS.TYPE": ("box", "point", "mask", "as_annotated"),
    "WEAK_LABELS.POINT": ("box_center", "random_pixel", "deepest_pixel"),
    "SOLVER.OPTIMIZER": ("Adam", "AdamW", "SGD"),
    "TEST.OV_COMPAT": ("substring_names", "resized_labels"),
    "TEST.WPS_AUTHORS_NULL": ("drop", "zero"),
    "INPUT.FORMAT": ("RGB",),
    "INPUT.RANDOM_FLIP": ("none", "horizontal"),
    "INPUT.DATASET_MAPPER_NAME": ("weak_labels", "part_masks", "label_maps"),
    # Detectron2's other samplers and its grouping by shape can't be continued exactly after a crash.
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler",),
    "DATALOADER.ASPECT_RATIO_GROUPING": (False,),
}

# Keys that may name a file or a folder, which is then looked for in the project's folder, too; see wps_sam/paths.py.
# DATASETS.DESCRIPTIONS is looked for where descriptions are read.
PATHS = (
    "MODEL.WEIGHTS",
    "MODEL.SAM.WEIGHTS",
    "MODEL.SEMANTIC.WEIGHTS",
    "MODEL.TEXT.EMBEDDINGS",
    "MODEL.CLIPSEG.WEIGHTS",
    "MODEL.CATSEG.WEIGHTS",
    "MODEL.CATSEG.CLIP",
    "MODEL.MASK2FORMER.BACKBONE_WEIGHTS",
    "MODEL.ZSSEG.CLIP",
    "MODEL.ZSSEG.BACKBONE_WEIGHTS",
    "MODEL.ZSSEG.PROMPTS",
    "TEST.OBJECT_PREDICTIONS",
)

# Keys of earlier versions; a configuration that holds one is told the new name.
RENAMED = {
    **{
        f"MODEL.PROMPTER.{key}": f"MODEL.DETR_PROMPTER.{key}"
        for key in ("NUM_QUERIES", "NECK_STRIDES", "NUM_ENCODER_LAYERS", "NUM_DECODER_LAYERS", "NUM_HEADS", "FFN_DIM")
    },
    **{
        f"MODEL.PROMPTER.{key}": f"MODEL.DENSE_PROMPTER.{key}"
        for key in ("STRIDE", "NUM_CONVS", "CONV_DIM", "COMPANION_DIM")
    },
    "MODEL.MATCHER": "MODEL.DETR_PROMPTER.MATCHER_CLASS_WEIGHT and MATCHER_PROMPT_WEIGHT",
    "MODEL.LOSS": "CLASS_WEIGHT and PROMPT_WEIGHT of MODEL.DETR_PROMPTER or MODEL.DENSE_PROMPTER",
    "MODEL.MATCHER.CLASS_WEIGHT": "MODEL.DETR_PROMPTER.MATCHER_CLASS_WEIGHT",
    "MODEL.MATCHER.PROMPT_WEIGHT": "MODEL.DETR_PROMPTER.MATCHER_PROMPT_WEIGHT",
    "MODEL.LOSS.CLASS_WEIGHT": "CLASS_WEIGHT of MODEL.DETR_PROMPTER or MODEL.DENSE_PROMPTER",
    "MODEL.LOSS.PROMPT_WEIGHT": "PROMPT_WEIGHT of MODEL.DETR_PROMPTER or MODEL.DENSE_PROMPTER",
}


def _prompter_node(prompter: type[Prompter]) -> CN:
    """The keys of a prompter with their defaults."""
    node = CN()
    prompter.add_config(node)
    return node


def add_wps_sam_config(cfg: CN) -> None:
    """Adds WPS-SAM's keys to Detectron2's default config, and the few defaults that differ.

    "Paper" is WPS-SAM, ECCV 2024, arXiv 2407.10131.
    """
    for old, new in RENAMED.items():
        cfg.register_renamed_key(old, new)
    # WPSSAM | CLIPSeg | CATSeg | Mask2Former | ZSSeg. Detectron2's MODEL.DEVICE may also be auto: a CUDA device where
    # torch finds one, else the CPU.
    cfg.MODEL.META_ARCHITECTURE = "WPSSAM"
    # The frozen promptable encoder. Empty: that which builds MODEL.SAM.ARCH, as it is with the name of one of ours. Or
    # the name of any other class in Detectron2's BACKBONE_REGISTRY.
    cfg.MODEL.BACKBONE.NAME = ""
    # To start from, or to evaluate. Empty: a training starts from random numbers, an evaluation takes the last
    # checkpoint of OUTPUT_DIR.
    cfg.MODEL.WEIGHTS = ""
    # SAM's own normalisation, on RGB in 0..255. Of hq_*, sam2_*, edgetam and sam3 it is fixed, and this is not to be
    # changed.
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    # RGB: the order in which the colours of pictures are read.
    cfg.INPUT.FORMAT = "RGB"

    # The frozen Segment Anything Model.
    cfg.MODEL.SAM = CN()
    # vit_tiny | vit_b | vit_l | vit_h | mobile_sam | hq_b | hq_l | hq_h | sam2_tiny | sam2_small | sam2_base_plus |
    # sam2_large | edgetam | sam3: see docs/which_sam.md. The side S of the square input follows from it: 512 pixels of
    # vit_tiny, 1008 of sam3, else 1024.
    cfg.MODEL.SAM.ARCH = "vit_b"
    # An official .pth or .pt, of vit_* also a .safetensors, or "shipped" for the vit_tiny that comes with this package;
    # of the others also a folder of Hugging Face's, or its name on the hub.
    # Empty: random weights from a fixed seed, for tests.
    cfg.MODEL.SAM.WEIGHTS = ""
    # bottom_right: SAM's own, after normalisation. center: on all sides and before it, as the authors' code does; of
    # vit_* and mobile_sam. SAM 2 and its kin pad nothing: they scale both sides to the square.
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
    # all: every feature that the mask decoder reads. coarse: of sam2_*, edgetam and sam3 the embedding alone, a quarter
    # of a cache, and zeros in place of the finer maps: coarser masks, see docs/which_sam.md. Prompters read the
    # embedding, so that what was trained with one may be used with the other.
    cfg.MODEL.SAM.LEVELS = "all"

    # A frozen network that knows what things are, beside the promptable one, which knows where they end. Its features
    # are cached with SAM's. timm | timm/ARCHITECTURE | dinov2 | dinov3 | clip | siglip2 | tipsv2 | radio. Empty: none.
    cfg.MODEL.SEMANTIC = CN()
    cfg.MODEL.SEMANTIC.NAME = ""
    # A folder with config.json and model.safetensors, as on the hub of Hugging Face, or its name there; of
    # timm/ARCHITECTURE a file; "shipped", for timm, the small one that comes with this package. Empty: random weights
    # from a fixed seed, for tests.
    cfg.MODEL.SEMANTIC.WEIGHTS = ""
    # The side in pixels at which it sees the square. 0: S, or of a vision transformer that at which it has a cell for
    # each of SAM's.
    cfg.MODEL.SEMANTIC.IMAGE_SIZE = 0

    # The trained part: features to class scores and prompts.
    cfg.MODEL.PROMPTER = CN()
    # DETRPrompter: the paper's transformer, which regresses tokens.
    # DensePrompter: every cell of the memory proposes a class and a box or point, read out through
    # SAM's own prompt encoder. Ours, for small data and small machines.
    # FCOSPrompter, PixelClassifier: rivals, see configs/rivals/.
    # Or the name of any other class in PROMPTER_REGISTRY.
    cfg.MODEL.PROMPTER.NAME = "DETRPrompter"
    # C, the number of part classes; checked against the data set. 0: as many as that has.
    cfg.MODEL.PROMPTER.NUM_CLASSES = 40
    # linear: a score a class, learned for the C classes of the training set. text: the cosine with a text
    # embedding of each class name, so that a model can be asked for classes that it was not trained on; NUM_CLASSES
    # then means nothing. composed_text: the same of objects and parts apart, p(dog) p(ear | dog) for the dog's ear.
    cfg.MODEL.PROMPTER.CLASSIFIER = "linear"
    # The keys of each prompter are its own, such as MODEL.DETR_PROMPTER in prompters/detr.py. Those of a prompter that
    # is not chosen must stay as they are.
    for _, prompter in PROMPTER_REGISTRY:
        cfg.MODEL[prompter.CONFIG_NODE] = _prompter_node(prompter)

    # Text embeddings of the class names, for classes that are told by name; see tools/embed_names.py.
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

    # META_ARCHITECTURE CATSeg, the baseline of OV-PARTS that compares cells with names, trained on masks.
    cfg.MODEL.CATSEG = CN()
    # vitb_r101_384 | tiny, for tests.
    cfg.MODEL.CATSEG.ARCH = "vitb_r101_384"
    # A checkpoint of CAT-Seg, such as model_final_base.pth of hamacojr/CAT-Seg on the hub of Hugging Face, or of
    # OV-PARTS. It holds everything but the tokenizer. Empty: ResNet and aggregator are random, for tests.
    cfg.MODEL.CATSEG.WEIGHTS = ""
    # A CLIP of Hugging Face (name or folder), such as openai/clip-vit-base-patch16: its tokenizer, and its weights
    # where WEIGHTS holds none. Empty: random, for tests.
    cfg.MODEL.CATSEG.CLIP = ""
    # What is trained, of: backbone, the ResNet (B); aggregator, with its decoder (D). Empty: nothing, zero-shot.
    cfg.MODEL.CATSEG.TRAIN = ["backbone", "aggregator"]
    # Of the aggregator's learning rate, the backbone's.
    cfg.MODEL.CATSEG.BACKBONE_MULTIPLIER = 0.01
    # Weight of the background channel in the loss.
    cfg.MODEL.CATSEG.BACKGROUND_WEIGHT = 0.05
    # Which defects of OV-PARTS' inference to repeat, to stand beside its published tables: padding (masks are up to 31
    # pixels off), sigmoid_first (before the masks are upsampled), fresh_background (its vector is drawn anew).
    cfg.MODEL.CATSEG.COMPAT = []

    # META_ARCHITECTURE Mask2Former, trained on part maps with their background, such as seeds of wps_sam.image_level;
    # of MODEL.PROMPTER.NUM_CLASSES, and the background, which is one more label.
    cfg.MODEL.MASK2FORMER = CN()
    # swin_large | tiny, for tests; and a Swin of that size to start from, of Hugging Face or a folder. Empty: random.
    cfg.MODEL.MASK2FORMER.ARCH = "swin_large"
    cfg.MODEL.MASK2FORMER.BACKBONE_WEIGHTS = ""
    # At most so many segments of a picture.
    cfg.MODEL.MASK2FORMER.NUM_QUERIES = 50
    # Of the backbone's learning rate.
    cfg.MODEL.MASK2FORMER.BACKBONE_MULTIPLIER = 0.1

    # META_ARCHITECTURE ZSSeg, ZSSeg+ of OV-PARTS: masks inside of a given object, which CLIP names. Trained twice.
    cfg.MODEL.ZSSEG = CN()
    # prompts: words around the names, on CLIP's features of labelled parts. proposals: the masks, with these prompts.
    cfg.MODEL.ZSSEG.STAGE = "proposals"
    # resnet50 | resnet101c | tiny, for tests. Weights to start from: a .pth or .safetensors of torchvision, or with
    # Detectron2's names. Empty: random.
    cfg.MODEL.ZSSEG.ARCH = "resnet50"
    cfg.MODEL.ZSSEG.BACKBONE_WEIGHTS = ""
    # Of the backbone's learning rate.
    cfg.MODEL.ZSSEG.BACKBONE_MULTIPLIER = 0.1
    # A CLIP of Hugging Face (name or folder), such as openai/clip-vit-base-patch16. Empty: random, for tests.
    cfg.MODEL.ZSSEG.CLIP = ""
    # A checkpoint of the stage "prompts", or of OV-PARTS' code. Not needed with MODEL.WEIGHTS, which hold them. Empty:
    # random.
    cfg.MODEL.ZSSEG.PROMPTS = ""
    # CPTCoOp: learned words are the same whatever the picture. CPTCoCoOp: CLIP's feature of the object is added to
    # them, in the training of prompts and where CLIP names regions; what proposals are compared with stays as it is.
    cfg.MODEL.ZSSEG.PROMPT_KIND = "CPTCoOp"
    # Learned words before the object's name, and before the part's.
    cfg.MODEL.ZSSEG.PROMPT_LENGTHS = [4, 4]
    # Among what prompts learn to tell a part: object (the seen parts of its object) | seen (of all objects).
    cfg.MODEL.ZSSEG.PROMPT_CLASSES = "object"
    # At most so many masks of an object.
    cfg.MODEL.ZSSEG.NUM_QUERIES = 50
    # w: scores are (proposals)^w (CLIP)^(1-w) for seen classes, and the other way round for unseen ones.
    cfg.MODEL.ZSSEG.ENSEMBLE_WEIGHT = 0.5
    # CLIP sees the object's box, so many times larger.
    cfg.MODEL.ZSSEG.REGION_SCALE = 1.2
    # Which quirks of OV-PARTS' own code to repeat. additive_attention: queries look a little more at what is outside of
    # the object, and not inside alone; its published weights were trained so.
    cfg.MODEL.ZSSEG.COMPAT = []

    # Which proposals become parts, and how their masks become one part map.
    cfg.MODEL.INFERENCE = CN()
    # Proposals whose most likely class is a part, and whose probability reaches this, are decoded.
    cfg.MODEL.INFERENCE.SCORE_THRESHOLD = 0.0
    # Box IoU above which the weaker of two proposals of one class is dropped before decoding; 1 keeps all.
    # Only prompters that propose boxes can be thinned so.
    cfg.MODEL.INFERENCE.NMS_THRESHOLD = 1.0
    # At most so many proposals of an image are decoded, the surest first.
    cfg.MODEL.INFERENCE.MAX_PARTS = 100
    # semantic: a pixel has the class with the largest p(class) * p(mask). authors: per class, the sum of
    # mask probabilities, cut at 0.5; where several classes pass, the largest sum wins the part map. part_map: what the
    # prompter's dense head says of each pixel, whatever the masks; of a given object, whose pixels all are parts, "no
    # part" speaks for the parts that training did not show.
    cfg.MODEL.INFERENCE.MERGE = "semantic"

    # With a prompter that has a dense head: how much what lies inside a mask has to say about its class, against the
    # proposal that the mask is of; 1 all. Where masks overlap, what the head says of the pixel counts, too. 0: neither.
    cfg.MODEL.INFERENCE.NAMING = 0.5

    # Added to the scores of names that training did not show (calibrated stacking, arXiv 1605.04253): a model trained
    # on some names finds the others too unlikely. For classes by name; in units of their scores, cosine times scale.
    cfg.MODEL.INFERENCE.UNSEEN_BIAS = 0.0

    # What of the annotations of the training sets the model sees.
    cfg.WEAK_LABELS = CN()
    # box | point: every annotation is reduced to that. mask: masks, and boxes where there is none.
    # as_annotated: of each annotation the most that it has, mask, box or point, and the tags of its picture.
    cfg.WEAK_LABELS.TYPE = "box"
    # box_center (the paper's) | random_pixel | deepest_pixel, of the part's mask; a point that is annotated comes first
    cfg.WEAK_LABELS.POINT = "box_center"
    # Draws the random pixels: the same in every epoch.
    cfg.WEAK_LABELS.SEED = 0

    # What a model is fed. weak_labels: the picture in SAM's frame, with boxes or points. part_masks: part and object
    # maps, for models that are trained on masks; sizes are Detectron2's INPUT.MIN_SIZE_TRAIN and so on. label_maps: the
    # same, with background a label.
    cfg.INPUT.DATASET_MAPPER_NAME = "weak_labels"
    # none | horizontal. The paper uses no augmentation; Detectron2's INPUT.CROP also applies.
    cfg.INPUT.RANDOM_FLIP = "none"
    # With INPUT.CROP: how many crops a picture has, which are always the same ones and so can be cached; the whole
    # picture is seen as often as each of them. 0: every crop is drawn anew, and no picture is seen whole.
    cfg.INPUT.RANDOM_VIEWS = 0

    # Of label_maps, by the name that Mask2Former gave it: a crop in which one label has more than this share of the
    # pixels is drawn again, up to ten times.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # Of label_maps and part_masks, by the name that Mask2Former gave it: brightness, contrast, saturation and hue vary.
    cfg.INPUT.COLOR_AUG_SSD = False
    # Of both, in training: smaller pictures become grey at the right and below, up to squares of this side. 0: not.
    cfg.INPUT.PAD_TO = 0
    # Of part_masks: where the object is that a record is about also goes with the picture at test time; of whole
    # pictures, the objects of TEST.OBJECT_PREDICTIONS.
    cfg.INPUT.OBJECT_MAPS_AT_TEST = False

    # YAML descriptions of data sets in a known layout, registered before training; see datasets/README.md.
    cfg.DATASETS.DESCRIPTIONS = []

    # Adam: coupled L2 decay, the paper's. AdamW: decoupled. SGD: with Detectron2's SOLVER.MOMENTUM and NESTEROV.
    cfg.SOLVER.OPTIMIZER = "Adam"
    # Detectron2's schedules, and WarmupPolyLR: lr * (1 - t / T)^POLY_LR_POWER.
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    cfg.SOLVER.POLY_LR_POWER = 0.9
    # The paper's learning rate and decay.
    cfg.SOLVER.BASE_LR = 1e-4
    cfg.SOLVER.WEIGHT_DECAY = 1e-4
    # The paper decays every trained weight; Detectron2 would leave normalisation layers out.
    cfg.SOLVER.WEIGHT_DECAY_NORM = None
    # Weight decay of nn.Embedding; None: as any other weight.
    cfg.SOLVER.WEIGHT_DECAY_EMBED = None
    # Pictures a step, of all processes together. Detectron2's SOLVER.CLIP_GRADIENTS.CLIP_TYPE (value | norm, of each
    # tensor) may also be full_model: the norm over all gradients together.
    cfg.SOLVER.IMS_PER_BATCH = 8
    # Steps in which the learning rate rises from WARMUP_FACTOR times its value, and steps in all: the paper's.
    cfg.SOLVER.WARMUP_ITERS = 250
    cfg.SOLVER.WARMUP_FACTOR = 0.0
    cfg.SOLVER.MAX_ITER = 38370
    # In place of MAX_ITER, how often each training picture is seen; warm-up, evaluations and checkpoints then follow
    # the length: WARMUP_ITERS is a twentieth of it, TEST.EVAL_PERIOD and CHECKPOINT_PERIOD a fifth. 0: MAX_ITER.
    cfg.SOLVER.MAX_EPOCHS = 0
    # A training stops when so many evaluations (TEST.EVAL_PERIOD) in a row were no better than the best one before, by
    # d2_semseg mIoU on the first of DATASETS.TEST, or by box_AP where that has no masks. model_final.pth and the last
    # evaluation then are of the best weights, and not, as after a whole training, of the last ones. 0: never.
    cfg.SOLVER.EARLY_STOPPING = 0

    # Images are padded to one square: nothing is won by grouping them by shape.
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False

    # Evaluation protocols, by their names in datasets/README.md. "auto": those that the data set is made for,
    # as its metadata says. error_breakdown (where the score is lost) must be asked for.
    cfg.TEST.PROTOCOLS = ["auto"]
    # Also report SAM prompted with the true boxes (the ceiling) and the true boxes filled (the floor).
    cfg.TEST.ORACLES = False
    # After each evaluation of a training so many pictures of the first of DATASETS.TEST, always the same ones, go to
    # TensorBoard: picture, truth and prediction side by side. 0: none.
    cfg.TEST.PICTURES = 4
    # Which quirks of OV-PARTS' own code to repeat, to stand beside its published tables. substring_names, for ov_oracle
    # and the models that answer it: the parts of an object are those whose name contains the object's. resized_labels.
    cfg.TEST.OV_COMPAT = []
    # pred_obj: a folder of object maps {image}.png that another model has predicted (object ids; any other value: no
    # object). Empty: the objects of the parts that the model itself predicts.
    cfg.TEST.OBJECT_PREDICTIONS = ""
    # wps_authors: what an image without any kept query costs: drop (as the authors' code) | zero
    cfg.TEST.WPS_AUTHORS_NULL = "drop"


def read_config(config_file: str | Path, opts: Sequence[Any] = ()) -> CN:
    """Defaults, then ``config_file`` (with its _BASE_), then ``opts`` (key, value, key, value ...), checked.

    Files are looked for in the current folder, then in the project's: the configuration itself, and those of PATHS.
    That of a finished run, in its own OUTPUT_DIR, asks for what was learned, not for the MODEL.WEIGHTS it began with.

    Raises:
        ValueError: the file is missing, a key is unknown, a value is of another kind, or see :func:`check_config`.
    """
    file = find_config(config_file)
    cfg = get_cfg()
    add_wps_sam_config(cfg)
    with _told_of(f"config {config_file}", cfg):
        # Detectron2 would make any object of Python that the file names.
        cfg.merge_from_file(file, allow_unsafe=False)
    check_overrides(opts)
    with _told_of("config overrides", cfg):
        cfg.merge_from_list(list(opts))
    folder = Path(file).resolve().parent
    if folder == Path(cfg.OUTPUT_DIR).resolve() and is_finished(folder) and "MODEL.WEIGHTS" not in opts[::2]:
        cfg.MODEL.WEIGHTS = ""
    for key in PATHS:
        section, _, name = key.rpartition(".")
        _value_of(cfg, section)[name] = find_file(_value_of(cfg, key))
    if cfg.MODEL.DEVICE == "auto":
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    check_config(cfg)
    return cfg


@contextmanager
def _told_of(where: str, cfg: CN) -> Iterator[None]:
    """Makes ValueErrors of what yacs and the YAML parser raise: with ``where``, and the key that was perhaps meant."""
    try:
        yield
    except (KeyError, AssertionError) as error:
        message = str(error.args[0]) if error.args else repr(error)
        unknown = re.fullmatch(r"Non-existent (?:config )?key: (\S+)", message)
        if unknown:
            # A key in the wrong section is meant more often than another one of the section.
            elsewhere = [key for key in _keys_of(cfg) if key.endswith("." + unknown[1].rpartition(".")[2])]
            meant = (
                f" (did you mean {' or '.join(elsewhere)}?)" if elsewhere else did_you_mean(unknown[1], _keys_of(cfg))
            )
            message = f"no key {unknown[1]}{meant}"
        raise ValueError(f"{where}: {message}") from error
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{where}: expected keys and values, such as SOLVER: {{MAX_ITER: 300}}") from error
    except (ValueError, OSError, yaml.YAMLError) as error:
        kinds, values = r"\(<class '(.*)'> vs\. <class '(.*)'>\)", r"\((.*) vs\. (.*)\)"
        other = re.fullmatch(rf"Type mismatch {kinds} with values {values} for config key: (\S+)", str(error))
        message = (
            f"{other[5]}: expected {other[1]}, as in {other[3]}, got {other[2]} {other[4]}" if other else str(error)
        )
        raise ValueError(f"{where}: {message}") from error


def _keys_of(node: CN, prefix: str = "") -> Iterator[str]:
    """All keys below ``node``, sections included."""
    for name, value in node.items():
        yield prefix + name
        if isinstance(value, CN):
            yield from _keys_of(value, f"{prefix}{name}.")


def check_config(cfg: CN) -> None:
    """Refuses values that no part of the project understands, before any work is done.

    Raises:
        ValueError: names the key, its value and what is allowed.
    """
    for key, allowed in CHOICES.items():
        _check_choice(key, _value_of(cfg, key), allowed)
    check_protocols(cfg.TEST.PROTOCOLS)
    if cfg.MODEL.META_ARCHITECTURE == "WPSSAM":
        _check_prompter(cfg)
    elif cfg.MODEL.SEMANTIC.NAME:
        raise ValueError(
            f"MODEL.SEMANTIC.NAME is {cfg.MODEL.SEMANTIC.NAME!r}, but MODEL.META_ARCHITECTURE is "
            f"{cfg.MODEL.META_ARCHITECTURE!r}, which does not read it"
        )
    if cfg.MODEL.PROMPTER.NUM_CLASSES < 0:
        raise ValueError(
            f"MODEL.PROMPTER.NUM_CLASSES is {cfg.MODEL.PROMPTER.NUM_CLASSES}; set the number of part classes, or 0 for "
            "as many as the data set has"
        )
    if cfg.SOLVER.MAX_EPOCHS < 0:
        raise ValueError(f"SOLVER.MAX_EPOCHS is {cfg.SOLVER.MAX_EPOCHS}; expected 0, or how often each picture is seen")
    for key in ("SOLVER.EARLY_STOPPING", "TEST.PICTURES", "INPUT.PAD_TO"):
        if _value_of(cfg, key) < 0:
            raise ValueError(f"{key} is {_value_of(cfg, key)}; expected 0 or more")
    if cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ValueError(f"SOLVER.AMP.ENABLED needs MODEL.DEVICE cuda, not {cfg.MODEL.DEVICE!r}")
    if cfg.INPUT.RANDOM_VIEWS < 0 or (cfg.INPUT.RANDOM_VIEWS and not cfg.INPUT.CROP.ENABLED):
        raise ValueError(
            f"INPUT.RANDOM_VIEWS is {cfg.INPUT.RANDOM_VIEWS}; expected 0, or with INPUT.CROP.ENABLED a number of crops"
        )
    if cfg.MODEL.SAM.FEATURES == "cache":
        check_cacheable(cfg)
    for expected in cfg.TEST.EXPECTED_RESULTS:
        if len(expected) != 4:
            raise ValueError(
                f"TEST.EXPECTED_RESULTS holds {expected!r}; each entry is [protocol, metric, value, tolerance]"
            )


def _value_of(cfg: CN, key: str) -> Any:
    value: Any = cfg
    for name in key.split("."):
        value = value[name]
    return value


def _check_choice(key: str, value: Any, allowed: Sequence[Any]) -> None:
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if item not in allowed:
            raise ValueError(f"{key} is {item!r}; allowed: {', '.join(map(repr, allowed))}")


def _check_prompter(cfg: CN) -> None:
    """The encoder and the prompter exist, and no key is set that the chosen prompter does not read."""
    if cfg.MODEL.SEMANTIC.NAME:
        check_semantic_name(cfg.MODEL.SEMANTIC.NAME)
    # Refuses an unknown MODEL.BACKBONE.NAME or MODEL.SAM.ARCH.
    encoder_class(cfg).spec_of(cfg)
    prompters = dict(PROMPTER_REGISTRY)
    name = cfg.MODEL.PROMPTER.NAME
    _check_choice("MODEL.PROMPTER.NAME", name, sorted(prompters))
    chosen = prompters[name]
    for key, allowed in chosen.CHOICES.items():
        full = f"MODEL.{chosen.CONFIG_NODE}.{key}"
        _check_choice(full, _value_of(cfg, full), allowed)
    for other in prompters.values():
        if other.CONFIG_NODE == chosen.CONFIG_NODE:
            continue
        for key, default in _prompter_node(other).items():
            value = cfg.MODEL[other.CONFIG_NODE][key]
            if value != default:
                raise ValueError(
                    f"MODEL.{other.CONFIG_NODE}.{key} is {value!r}, but MODEL.PROMPTER.NAME is {name!r}, which does "
                    f"not read it; leave it at {default!r}, or choose {other.__name__}"
                )
    if cfg.MODEL.INFERENCE.NMS_THRESHOLD < 1 and not chosen.PROPOSES_BOXES:
        raise ValueError(
            f"MODEL.INFERENCE.NMS_THRESHOLD is {cfg.MODEL.INFERENCE.NMS_THRESHOLD}, but {name} proposes no boxes by "
            "which its proposals could be thinned; set it to 1.0"
        )
    if cfg.MODEL.INFERENCE.MERGE == "part_map" and not chosen.needs_part_maps(cfg):
        raise ValueError(
            f"MODEL.INFERENCE.MERGE is 'part_map', but {name} as it is set does not say what each pixel is"
        )
    if cfg.MODEL.INFERENCE.UNSEEN_BIAS and cfg.MODEL.PROMPTER.CLASSIFIER == "linear":
        raise ValueError(
            f"MODEL.INFERENCE.UNSEEN_BIAS is {cfg.MODEL.INFERENCE.UNSEEN_BIAS}, but only MODEL.PROMPTER.CLASSIFIER "
            "text can be asked for unseen classes"
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
    if cfg.INPUT.CROP.ENABLED and not cfg.INPUT.RANDOM_VIEWS:
        raise ValueError(
            "INPUT.CROP.ENABLED is True: every crop is another picture, so its features can't be cached; set "
            "INPUT.RANDOM_VIEWS, the number of crops of a picture, INPUT.CROP.ENABLED False, or MODEL.SAM.FEATURES live"
        )


def method(cfg: CN) -> str:
    """What names the method of a model, as tables have to: prompter, SAM and semantic network, or another model."""
    if cfg.MODEL.META_ARCHITECTURE != "WPSSAM":
        return cfg.MODEL.META_ARCHITECTURE
    beside = f" with {cfg.MODEL.SEMANTIC.NAME} features" if cfg.MODEL.SEMANTIC.NAME else ""
    return f"{cfg.MODEL.PROMPTER.NAME} on {cfg.MODEL.SAM.ARCH}{beside}"


def needs_pixels(cfg: CN) -> bool:
    """Whether a part of the model beside the encoder looks at the pictures."""
    return PROMPTER_REGISTRY.get(cfg.MODEL.PROMPTER.NAME).needs_image(cfg)


def needs_part_maps(cfg: CN) -> bool:
    """Whether the model learns what each pixel is, from the masks that the segmenter draws for the labels."""
    chosen = PROMPTER_REGISTRY.get(cfg.MODEL.PROMPTER.NAME)
    return cfg.MODEL.META_ARCHITECTURE == "WPSSAM" and chosen.needs_part_maps(cfg)


def is_open_vocabulary(cfg: CN) -> bool:
    """Whether the model takes its classes by name, so that data sets may differ in them."""
    return cfg.MODEL.META_ARCHITECTURE in ("CLIPSeg", "CATSeg", "ZSSeg") or cfg.MODEL.PROMPTER.CLASSIFIER != "linear"
