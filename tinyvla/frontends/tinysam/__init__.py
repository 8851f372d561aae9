"""TinySAM: segment what a point or a box shows, or everything."""

from .distill import SegmenterTraining, inherit_decoder
from .everything import Everything, segment_everything
from .frontend import TinySAM, draw_masks
from .model import SIZES, Segmenter, TinySAMConfig
from .prompts import Encoded, Masks, encode_picture, masks_from_coco, segment_box, segment_points
from .released import load_segmenter

__all__ = [
    "SIZES",
    "Encoded",
    "Everything",
    "Masks",
    "Segmenter",
    "SegmenterTraining",
    "TinySAM",
    "TinySAMConfig",
    "draw_masks",
    "encode_picture",
    "inherit_decoder",
    "load_segmenter",
    "masks_from_coco",
    "segment_box",
    "segment_everything",
    "segment_points",
]
