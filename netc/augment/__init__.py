"""Augmentation: operations on raw batches, as nodes at the head of a training step."""

from netc.augment import color, geometry, mixing, noise
from netc.augment.base import AUGMENTATIONS

__all__ = ["AUGMENTATIONS", "color", "geometry", "mixing", "noise"]
