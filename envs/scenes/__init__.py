"""Labelled images from simulation: tables with objects, rooms with and without people."""

from .image_store import LabelledImages, open_image_splits, open_labelled_images
from .room_video import generate_room_video

__all__ = ["LabelledImages", "generate_room_video", "open_image_splits", "open_labelled_images"]
