"""Loaders of common annotation formats; nothing is registered here."""

from .coco import load_coco_json, load_sem_seg, register_coco_instances

__all__ = ["load_coco_json", "load_sem_seg", "register_coco_instances"]
