"""A frozen vision tower's features, computed once and kept beside the dataset (`backbone.cache_features=true`)."""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tinyvla.errors import UserError
from tinyvla.files import fill_folder

_BATCH = 32  # frames that the tower sees together


def cache_features(
    backbone: Any,
    dataset_root: Path,
    frames: dict[str, np.ndarray],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
) -> dict[str, Tensor]:
    """The features of every frame of every camera, (N, 1, P, D), memory-mapped from files beside the dataset.

    Made on the first call for a dataset, a tower's weights, an image size and a precision, and put in place whole.

    Args:
        backbone: has `see_images`, (B, C, 3, H, W) -> (B, C, 1, P, D), and its frozen `vision_tower`.
        frames: what `cache_frames` returns.
        autocast: makes the context in which training computes, so that features have its precision.

    Raises UserError if the disk has no room for them.
    """
    folder = dataset_root.parent / "features" / dataset_root.name / _fingerprint(backbone, dataset_root, autocast)
    try:
        fill_folder(
            folder,
            lambda: (folder / "shape.json").is_file(),
            lambda empty: _compute(backbone, empty, frames, device, autocast),
        )
    except OSError as error:
        raise UserError(
            f"the features of {dataset_root} cannot be kept ({error}); free some space, "
            "or leave out backbone.cache_features"
        ) from error
    shape = json.loads((folder / "shape.json").read_text())
    return {
        key: torch.from_file(str(folder / key), shared=False, size=int(np.prod(own)), dtype=_dtype(name)).view(own)
        for key, (own, name) in shape.items()
    }


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)


def _fingerprint(backbone: Any, root: Path, autocast: Callable[[], AbstractContextManager]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.vision_tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    with autocast():
        precision = [str(torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    stamp = (root / "meta/info.json").stat().st_mtime_ns
    digest.update(repr((backbone.image_size, backbone.colours, precision, stamp)).encode())
    return digest.hexdigest()[:16]


def _compute(
    backbone: Any,
    folder: Path,
    frames: dict[str, np.ndarray],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
) -> None:
    shape: dict[str, Any] = {}
    total = sum(len(camera) for camera in frames.values())
    with torch.no_grad(), tqdm(total=total, desc="computing features", unit="frame") as bar:
        for key, camera in frames.items():
            with (folder / key).open("wb") as file:
                for start in range(0, len(camera), _BATCH):
                    pictures = torch.from_numpy(camera[start : start + _BATCH]).to(device).float().div_(255)
                    with autocast():
                        features = backbone.see_images(pictures.unsqueeze(1)).squeeze(1)
                        if torch.is_autocast_enabled(device.type):
                            # What reads them casts them anyway.
                            features = features.to(torch.get_autocast_dtype(device.type))
                    if start == 0:
                        _check_room(folder, len(camera) * features[0].nbytes * (len(frames) - len(shape)))
                    file.write(features.cpu().contiguous().view(torch.uint8).numpy().tobytes())
                    bar.update(len(features))
            shape[key] = ((len(camera), *features.shape[1:]), str(features.dtype).removeprefix("torch."))
    (folder / "shape.json").write_text(json.dumps(shape))


def _check_room(folder: Path, needed: int) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise UserError(
            f"the vision tower's features need {needed / 1e9:.1f} GB but {folder.parent} has {free / 1e9:.1f} GB free; "
            "free some space, lower backbone.image_size, or leave out backbone.cache_features"
        )
