"""The keys of Detectron2's default config that are used here, with its names and values.

Their meaning is in Detectron2's config reference:
https://detectron2.readthedocs.io/en/latest/modules/config.html#yaml-config-references
"""

from .config import CfgNode as CN

_C = CN(
    {
        "VERSION": 2,
        "MODEL": {
            "MASK_ON": False,
            "KEYPOINT_ON": False,
            "DEVICE": "cuda",
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "WEIGHTS": "",
            "PIXEL_MEAN": [103.530, 116.280, 123.675],
            "PIXEL_STD": [1.0, 1.0, 1.0],
            "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
        },
        "INPUT": {
            "MIN_SIZE_TRAIN": (800,),
            "MIN_SIZE_TRAIN_SAMPLING": "choice",
            "MAX_SIZE_TRAIN": 1333,
            "MIN_SIZE_TEST": 800,
            "MAX_SIZE_TEST": 1333,
            "RANDOM_FLIP": "horizontal",
            "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
            "FORMAT": "BGR",
            "MASK_FORMAT": "polygon",
        },
        "DATASETS": {"TRAIN": (), "TEST": ()},
        "DATALOADER": {
            "NUM_WORKERS": 4,
            "ASPECT_RATIO_GROUPING": True,
            "SAMPLER_TRAIN": "TrainingSampler",
            "FILTER_EMPTY_ANNOTATIONS": True,
        },
        "SOLVER": {
            "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
            "MAX_ITER": 40000,
            "BASE_LR": 0.001,
            "BASE_LR_END": 0.0,
            "MOMENTUM": 0.9,
            "NESTEROV": False,
            "WEIGHT_DECAY": 0.0001,
            "WEIGHT_DECAY_NORM": 0.0,
            "GAMMA": 0.1,
            "STEPS": (30000,),
            "NUM_DECAYS": 3,
            "WARMUP_FACTOR": 1.0 / 1000,
            "WARMUP_ITERS": 1000,
            "WARMUP_METHOD": "linear",
            "RESCALE_INTERVAL": False,
            "CHECKPOINT_PERIOD": 5000,
            "IMS_PER_BATCH": 16,
            "REFERENCE_WORLD_SIZE": 0,
            "BIAS_LR_FACTOR": 1.0,
            "WEIGHT_DECAY_BIAS": None,
            "CLIP_GRADIENTS": {"ENABLED": False, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0},
            "AMP": {"ENABLED": False},
        },
        "TEST": {"EXPECTED_RESULTS": [], "EVAL_PERIOD": 0, "DETECTIONS_PER_IMAGE": 100},
        "OUTPUT_DIR": "./output",
        "SEED": -1,
        "CUDNN_BENCHMARK": False,
        "FLOAT32_PRECISION": "",
        "VIS_PERIOD": 0,
        "GLOBAL": {"HACK": 1.0},
    }
)
