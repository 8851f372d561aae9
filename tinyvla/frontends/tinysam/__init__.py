"""TinySAM (arXiv 2312.13789): segments the object at a point or in a box, or everything."""

from .everything import EverythingSettings, segment_everything
from .frontend import TinySAM, draw_masks
from .losses import TinySamLoss, inherit_decoder
from .model import SIZES, Segmenter, TinySAMConfig
from .prompts import EncodedImage, Masks, encode_image, masks_from_coco, segment_box, segment_points
from .released import load_segmenter

__all__ = [
    "SIZES",
    "EncodedImage",
    "EverythingSettings",
    "Masks",
    "Segmenter",
    "TinySAM",
    "TinySAMConfig",
    "TinySamLoss",
    "draw_masks",
    "encode_image",
    "inherit_decoder",
    "load_segmenter",
    "masks_from_coco",
    "segment_box",
    "segment_everything",
    "segment_points",
]
