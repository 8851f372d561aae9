"""Size of the images that a policy sees, and the step of its pre-processor that fits every camera's images to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from lerobot.configs import FeatureType, PipelineFeatureType, PolicyFeature, PreTrainedConfig
from lerobot.processor import ObservationProcessorStep, PolicyProcessorPipeline, ProcessorStepRegistry
from lerobot.utils.constants import OBS_IMAGE, OBS_IMAGES
from torch import Tensor

STEP = "image_size_processor"
LETTERBOX, CROP = "letterbox", "crop"
FITS = (LETTERBOX, CROP)
MAX_CHANNELS = 4  # of an image; a larger number in its shape is a side
_SMALL = 256  # pixels per side up to which square frames of one size are used as they are
_UNCROPPED = 8 / 7  # side of an image over the side of the random crops of it that a policy sees
_SCRATCH, _IMAGENET = 96, 224  # side for a policy without a size of its own, and with weights from ImageNet
_TOWERS = {"smolvlm": 512, "llava_pythia": 336}  # side of the published vision towers by type of the backbone

type Size = tuple[int, int]  # height and width in pixels


def fit_images(images: Tensor, size: Size, fit: str) -> Tensor:
    """Images (..., C, H, W) fitted to another height and width, of the same type; those of that size as they are.

    `letterbox` keeps all of an image, in the middle between black bars; `crop` keeps its middle, without bars. Neither
    changes the shape of the objects in it. uint8 images are rounded once, as those of the frame cache.
    """
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    scales = size[0] / height, size[1] / width
    scale = min(scales) if fit == LETTERBOX else max(scales)
    inside = _at_most(size, (height * scale, width * scale))
    middle = _at_most((height, width), (inside[0] / scale, inside[1] / scale))
    top, left = ((side - part) // 2 for side, part in zip((height, width), middle, strict=True))
    images = images[..., top : top + middle[0], left : left + middle[1]]
    resized = F.interpolate(images.flatten(0, -4) if images.ndim > 3 else images[None], inside, **_RESIZING)
    bars = [side - part for side, part in zip(size, inside, strict=True)]
    top, left = (bar // 2 for bar in bars)
    padded = F.pad(resized, (left, bars[1] - left, top, bars[0] - top))
    return padded.reshape(*images.shape[:-2], *size)


_RESIZING: dict[str, Any] = {"mode": "bilinear", "antialias": True}


def _at_most(limit: Size, sides: Sequence[float]) -> Size:
    height, width = (max(1, min(most, round(side))) for most, side in zip(limit, sides, strict=True))
    return height, width


@dataclass
@ProcessorStepRegistry.register(name=STEP)
class ImageSizeStep(ObservationProcessorStep):
    """Step of a pre-processor that fits the images of all cameras to one size, see `fit_images`.

    Args:
        height, width: of the images that the policy sees.
        fit: one of FITS.
        recorded: height and width of the cameras in the recordings, by key; empty: not known.
    """

    height: int
    width: int
    fit: str = LETTERBOX
    recorded: dict[str, list[int]] = field(default_factory=dict)

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.height, self.width

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        return {
            key: fit_images(value, self.size, self.fit) if self._is_image(key, value) else value
            for key, value in observation.items()
        }

    def get_config(self) -> dict[str, Any]:
        return {"height": self.height, "width": self.width, "fit": self.fit, "recorded": self.recorded}

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        observations = {
            key: PolicyFeature(FeatureType.VISUAL, (feature.shape[0], *self.size))
            if feature.type is FeatureType.VISUAL
            else feature
            for key, feature in features[PipelineFeatureType.OBSERVATION].items()
        }
        return {**features, PipelineFeatureType.OBSERVATION: observations}

    @staticmethod
    def _is_image(key: str, value: Any) -> bool:
        """True for a camera's images; not for flags beside them, nor for what a front-end has computed from them."""
        is_camera = key == OBS_IMAGE or key.startswith(f"{OBS_IMAGES}.")
        return is_camera and isinstance(value, torch.Tensor) and value.ndim >= 3


def step_of(preprocessor: Any) -> ImageSizeStep | None:
    """The step of a pre-processor that fits images; None if the policy sees frames as they were recorded."""
    return next((step for step in getattr(preprocessor, "steps", ()) if isinstance(step, ImageSizeStep)), None)


def with_step(
    preprocessor: "PolicyProcessorPipeline[Any, Any]", step: ImageSizeStep | None
) -> "PolicyProcessorPipeline[Any, Any]":
    """The pre-processor with a step that fits images, before all that reads them; None: as it is."""
    if step is not None:
        preprocessor.steps = [preprocessor.steps[0], step, *preprocessor.steps[1:]]  # the first one renames
    return preprocessor


def camera_sizes(features: Mapping[str, Mapping[str, Any]]) -> dict[str, Size]:
    """Height and width of the cameras of a dataset's features, whichever order their shapes have."""
    sizes = {}
    for key, feature in features.items():
        if feature["dtype"] in ("image", "video"):
            shape = [int(side) for side in feature["shape"]]
            height, width = shape[1:] if shape[0] <= MAX_CHANNELS < shape[2] else shape[:2]
            sizes[key] = (height, width)
    return sizes


def make_step(
    config: PreTrainedConfig, sizes: Mapping[str, Size], image_size: str | int | Sequence[int] | None, fit: str
) -> ImageSizeStep | None:
    """Step that fits the images of a dataset to the size that a policy is to see; None where they are used as they are.

    Args:
        config: of the policy.
        sizes: of the dataset's cameras, see `camera_sizes`.
        image_size: a side of square images, or height and width; `auto`: frames of one square size of up to 256 pixels,
            as simulators give, as they are, else the policy's own size; None: all as they are.
        fit: one of FITS.
    """
    if image_size is None or not sizes:
        return None
    if image_size == "auto":
        height, width = next(iter(sizes.values()))
        if len(set(sizes.values())) == 1 and height == width <= _SMALL:
            return None
        size = own_size(config)
    else:
        sides = [image_size, image_size] if isinstance(image_size, int) else [int(side) for side in image_size]
        size = sides[0], sides[-1]
    if set(sizes.values()) == {size}:
        return None
    return ImageSizeStep(*size, fit, {key: list(recorded) for key, recorded in sizes.items()})


def own_size(config: PreTrainedConfig) -> Size:
    """Height and width that a policy is built for, from its options."""
    backbone: Any = getattr(config, "backbone", None)
    if backbone is not None:
        side = getattr(backbone, "image_size", None) or _TOWERS.get(backbone.get_choice_name(type(backbone)), _SCRATCH)
        return side, side
    for name in ("resize_imgs_with_padding", "resize_shape", "image_resize_shape"):
        if size := getattr(config, name, None):
            return int(size[0]), int(size[1])
    for name in ("crop_shape", "image_crop_shape"):
        if crop := getattr(config, name, None):
            return round(crop[0] * _UNCROPPED), round(crop[1] * _UNCROPPED)
    side = _IMAGENET if getattr(config, "pretrained_backbone_weights", None) else _SCRATCH
    return side, side
