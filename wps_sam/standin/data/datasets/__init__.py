"""Loaders of common annotation formats; nothing is registered here."""
# ruff: noqa: F401  (the public names)

from .coco import load_coco_json, load_sem_seg, register_coco_instances
