"""Features of a dataset's frames from the frozen modules of a policy, computed once and kept beside the dataset.

They are those of the vision tower (`backbone.cache_features=true`) and of the front-ends.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tinyvla.backbones import Backbone
from tinyvla.errors import UserError
from tinyvla.files import fill_folder
from tinyvla.untrusted import inside, read_json

from ..image_size import ImageSizeStep
from .dataset_files import fingerprint

if TYPE_CHECKING:
    from ..tinyvla.frontends import Frontends

SHAPES = "shape.json"
_BATCH = 32  # frames per forward pass
_DTYPES = {str(kind).removeprefix("torch."): kind for kind in (torch.uint8, torch.float16, torch.bfloat16, torch.float)}

type Frames = Mapping[str, np.ndarray]  # of `cache_frames`
type Compute = Callable[[], Iterator[dict[str, Tensor]]]  # features by key, in batches


def cache_features(
    backbone: Backbone,
    dataset_root: Path,
    frames: Frames,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
    image_step: ImageSizeStep | None = None,
) -> dict[str, Tensor]:
    """Features of the vision tower for every frame of every camera, (N, 1, P, D), memory-mapped.

    The first call for a dataset, a tower's weights, an image size and a precision computes them.

    Args:
        backbone: implements `vision_features`; its `vision_tower` is frozen.
        autocast: makes the context of training, so that features have its precision.
        image_step: that the frames were fitted by.

    Raises UserError if the disk has no room for them.
    """
    with autocast():
        precision = [str(torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    settings = repr((*backbone.vision_settings, precision)) + _fitting(image_step)

    def compute() -> Iterator[dict[str, Tensor]]:
        for key, camera in frames.items():
            for start in range(0, len(camera), _BATCH):
                with autocast():
                    features = backbone.vision_features(_images(camera, start, device).unsqueeze(1)).squeeze(1)
                    if torch.is_autocast_enabled(device.type):
                        # The next layer would cast them anyway.
                        features = features.to(torch.get_autocast_dtype(device.type))
                yield {key: features}

    advice = "lower backbone.image_size, or leave out backbone.cache_features"
    dims = dict.fromkeys(frames, 4)
    return _cached(dataset_root, [backbone.vision_tower], settings, frames, dims, compute, advice)


def cache_frontends(
    frontends: "Frontends",
    dataset_root: Path,
    frames: Frames,
    instructions: Sequence[str],
    device: torch.device,
    image_step: ImageSizeStep | None = None,
) -> dict[str, Tensor]:
    """Features of front-ends for every frame, by key: images uint8 (N, 3, H, W), tokens float16 (N, K, D).

    The first call for a dataset and the front-ends' weights and options computes them.

    Args:
        frontends: of a policy, see `policies.tinyvla.frontends.Frontends`.
        frames: of their cameras.
        instructions: of every frame.
        image_step: that the frames were fitted by.

    Raises UserError if the disk has no room for them.
    """

    def compute() -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(instructions), _BATCH):
            images = {key: _images(camera, start, device) for key, camera in frames.items()}
            features = frontends.see(images, list(instructions[start : start + _BATCH]))
            is_image = {key: frontends.features[key].is_image for key in features}
            yield {key: (x * 255).round().byte() if is_image[key] else x.half() for key, x in features.items()}

    settings = repr([(name, frontend.options) for name, frontend in frontends.frontends.items()]) + _fitting(image_step)
    advice = "or leave out the front-end"
    dims = {key: 4 if feature.is_image else 3 for key, feature in frontends.features.items()}
    return _cached(dataset_root, frontends.frontends.values(), settings, frames, dims, compute, advice)


def _fitting(image_step: ImageSizeStep | None) -> str:
    """Settings that the frames depend on, for a fingerprint; empty where they are as they were recorded."""
    return "" if image_step is None else repr((image_step.size, image_step.fit))


def _images(camera: np.ndarray, start: int, device: torch.device) -> Tensor:
    return torch.from_numpy(camera[start : start + _BATCH]).to(device).float().div_(255)


def _cached(
    root: Path,
    modules: Iterable[torch.nn.Module],
    settings: str,
    frames: Frames,
    dims: Mapping[str, int],
    compute: Compute,
    advice: str,
) -> dict[str, Tensor]:
    """Memory-mapped files of `compute`; they depend on the weights of `modules` and on `settings`.

    dims: number of dimensions of every feature.
    """
    folder = root.parent / "features" / root.name / _fingerprint(root, modules, settings)
    count = len(next(iter(frames.values())))
    try:
        fill_folder(
            folder,
            lambda: _read_shapes(folder, count, dims) is not None,
            lambda empty: _compute(empty, frames, compute, advice),
        )
    except OSError as error:
        raise UserError(f"the features of {root} cannot be written ({error}); free some space, {advice}") from error
    shapes = _read_shapes(folder, count, dims)
    assert shapes is not None
    return {
        key: torch.from_file(str(folder / key), shared=False, size=math.prod(sizes), dtype=_DTYPES[name]).view(sizes)
        for key, (sizes, name) in shapes.items()
    }


def _read_shapes(folder: Path, count: int, dims: Mapping[str, int]) -> dict[str, tuple[list[int], str]] | None:
    """Shape and type of every feature of `count` frames in a folder; None if a file is missing, damaged or another."""
    try:
        stored = read_json(inside(folder, SHAPES)).items()
        shapes = {key: (list(map(int, sizes)), str(name)) for key, (sizes, name) in stored}
        if {key: len(sizes) for key, (sizes, _) in shapes.items()} != dims:
            return None
        for key, (sizes, name) in shapes.items():
            size = math.prod(sizes) * _DTYPES[name].itemsize
            if min(sizes) < 1 or sizes[0] != count or inside(folder, key).stat().st_size != size:
                return None
    except (UserError, OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    return shapes or None


def _fingerprint(root: Path, modules: Iterable[torch.nn.Module], settings: str) -> str:
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(repr((settings, fingerprint(root))).encode())
    return digest.hexdigest()[:16]


def _compute(folder: Path, frames: Frames, compute: Compute, advice: str) -> None:
    count = len(next(iter(frames.values())))
    shape: dict[str, Any] = {}
    files: dict[str, Any] = {}
    with ExitStack() as opened, torch.no_grad(), tqdm(desc="computing features", unit="frame") as bar:
        for chunk in compute():
            for key, features in chunk.items():
                if key not in files:
                    _check_room(folder, count * features[0].nbytes, advice)
                    shape[key] = ((count, *features.shape[1:]), str(features.dtype).removeprefix("torch."))
                    files[key] = opened.enter_context((folder / key).open("wb"))
                files[key].write(features.cpu().contiguous().view(torch.uint8).numpy().tobytes())
            bar.update(len(features))
    (folder / SHAPES).write_text(json.dumps(shape))


def _check_room(folder: Path, needed: int, advice: str) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise UserError(
            f"the features need {needed / 1e9:.1f} GB but {folder.parent} has {free / 1e9:.1f} GB free; "
            f"free some space, {advice}"
        )
