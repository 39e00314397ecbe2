"""Converts checkpoints: official SAM files, the one released by WPS-SAM's authors, and ours to ship.

wps-sam convert --from sam sam_vit_b_01ec64.pth sam_vit_b.safetensors
wps-sam convert --from wps-sam best.pth wps_sam.pth --sam-output sam_vit_b.safetensors
wps-sam convert --from training output/my_parts/model_final.pth my_parts.safetensors
wps-sam convert --from run output/my_parts my_parts_model --license apache-2.0
wps-sam convert --from folded-mobilenet-v2 mobilenet_v2.safetensors output/mobilenet_v2
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="layout",
        choices=["sam", "wps-sam", "training", "run", "folded-mobilenet-v2"],
        required=True,
        help="what INPUT is",
    )
    parser.add_argument("input", metavar="INPUT", help="a PyTorch state dict or .safetensors; run: OUTPUT_DIR")
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        help="sam: .safetensors or .pth; wps-sam: .pth; training: .safetensors; run, folded-mobilenet-v2: a folder",
    )
    parser.add_argument("--arch", help="sam: vit_b, vit_l, vit_h, mobile_sam or vit_tiny; recognised when left out")
    parser.add_argument("--license", help="run: for the model card, an identifier of the hub such as apache-2.0")
    parser.add_argument("--sam-output", help="wps-sam: where the SAM inside goes, .safetensors or .pth")


def run(args: argparse.Namespace) -> int:
    if args.layout == "wps-sam" and not args.sam_output:
        raise ValueError("--from wps-sam needs --sam-output: checkpoints of ours hold no copy of SAM")
    if args.layout != "sam" and args.arch:
        raise ValueError("--arch belongs to --from sam")
    if args.layout != "wps-sam" and args.sam_output:
        raise ValueError("--sam-output belongs to --from wps-sam")
    if args.layout != "run" and args.license:
        raise ValueError("--license belongs to --from run")
    import logging

    from ..checkpoint_conversion import (
        FOLDED_MOBILENET_V2,
        convert_folded_mobilenet_v2,
        convert_sam,
        convert_wps_sam,
        export_trained,
        write_sam,
        write_timm,
        write_wps_sam,
    )

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.layout == "sam":
        arch, state = convert_sam(args.input, args.arch)
        write_sam(state, args.output, [args.input])
        print(f"{args.output}: SAM {arch}; use it with MODEL.SAM.ARCH {arch} MODEL.SAM.WEIGHTS {args.output}")
    elif args.layout == "training":
        export_trained(args.input, args.output)
    elif args.layout == "run":
        from ..predictor import PartPredictor

        PartPredictor.from_pretrained(args.input).save_pretrained(args.output, args.license)
        print(f"{args.output}: use it with wps-sam predict --model {args.output}")
    elif args.layout == "folded-mobilenet-v2":
        state = convert_folded_mobilenet_v2(args.input)
        write_timm(state, args.output, "mobilenetv2_100", FOLDED_MOBILENET_V2)
        print(f"{args.output}: use it with MODEL.SEMANTIC.NAME timm MODEL.SEMANTIC.WEIGHTS {args.output}")
    else:
        write_wps_sam(convert_wps_sam(args.input), args.output, args.sam_output)
    return 0
