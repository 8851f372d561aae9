"""What frozen parts of a policy see in a dataset's frames, computed once and kept beside it.

The vision tower's features (`backbone.cache_features=true`), and what front-ends add.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tinyvla.errors import UserError
from tinyvla.files import fill_folder

_BATCH = 32  # frames that are looked at together

type Frames = Mapping[str, np.ndarray]  # what `cache_frames` returns


def cache_features(
    backbone: Any,
    dataset_root: Path,
    frames: Frames,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
) -> dict[str, Tensor]:
    """The vision tower's features of every frame of every camera, (N, 1, P, D), memory-mapped.

    Made on the first call for a dataset, a tower's weights, an image size and a precision, and put in place whole.

    Args:
        backbone: has `see_images`, (B, C, 3, H, W) -> (B, C, 1, P, D), and its frozen `vision_tower`.
        autocast: makes the context in which training computes, so that features have its precision.

    Raises UserError if the disk has no room for them.
    """
    with autocast():
        precision = [str(torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    rest = repr((backbone.image_size, backbone.colours, precision))

    def see() -> Iterator[dict[str, Tensor]]:
        for key, camera in frames.items():
            for start in range(0, len(camera), _BATCH):
                with autocast():
                    features = backbone.see_images(_pictures(camera, start, device).unsqueeze(1)).squeeze(1)
                    if torch.is_autocast_enabled(device.type):
                        # What reads them casts them anyway.
                        features = features.to(torch.get_autocast_dtype(device.type))
                yield {key: features}

    advice = "lower backbone.image_size, or leave out backbone.cache_features"
    return _kept(dataset_root, [backbone.vision_tower], rest, frames, see, advice)


def cache_frontends(
    frontends: Any, dataset_root: Path, frames: Frames, instructions: Sequence[str], device: torch.device
) -> dict[str, Tensor]:
    """What front-ends add to every frame, by key: pictures uint8 (N, 3, H, W), tokens float16 (N, K, D).

    Made on the first call for a dataset and the front-ends' weights and options, and put in place whole.

    Args:
        frontends: has `see` and `parts`, see `policies.tinyvla.frontends.Frontends`.
        frames: of the cameras that they look at.
        instructions: every frame's.

    Raises UserError if the disk has no room for it.
    """

    def see() -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(instructions), _BATCH):
            pictures = {key: _pictures(camera, start, device) for key, camera in frames.items()}
            seen = frontends.see(pictures, list(instructions[start : start + _BATCH]))
            is_picture = {key: frontends.features[key].is_picture for key in seen}
            yield {key: (x * 255).round().byte() if is_picture[key] else x.half() for key, x in seen.items()}

    rest = repr([(name, part.options) for name, part in frontends.parts.items()])
    return _kept(dataset_root, frontends.parts.values(), rest, frames, see, "or leave out the front-end")


def _pictures(camera: np.ndarray, start: int, device: torch.device) -> Tensor:
    return torch.from_numpy(camera[start : start + _BATCH]).to(device).float().div_(255)


def _kept(
    root: Path,
    modules: Iterable[torch.nn.Module],
    rest: str,
    frames: Frames,
    see: Callable[[], Iterator[dict[str, Tensor]]],
    advice: str,
) -> dict[str, Tensor]:
    """The files that `see` fills a folder with, mapped; `modules` and `rest` are what they depend on."""
    folder = root.parent / "features" / root.name / _fingerprint(root, modules, rest)
    try:
        fill_folder(
            folder, lambda: (folder / "shape.json").is_file(), lambda empty: _compute(empty, frames, see, advice)
        )
    except OSError as error:
        raise UserError(f"the features of {root} cannot be kept ({error}); free some space, {advice}") from error
    shape = json.loads((folder / "shape.json").read_text())
    return {
        key: torch.from_file(str(folder / key), shared=False, size=int(np.prod(own)), dtype=_dtype(name)).view(own)
        for key, (own, name) in shape.items()
    }


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)


def _fingerprint(root: Path, modules: Iterable[torch.nn.Module], rest: str) -> str:
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    stamp = (root / "meta/info.json").stat().st_mtime_ns
    digest.update(repr((rest, stamp)).encode())
    return digest.hexdigest()[:16]


def _compute(folder: Path, frames: Frames, see: Callable[[], Iterator[dict[str, Tensor]]], advice: str) -> None:
    count = len(next(iter(frames.values())))
    shape: dict[str, Any] = {}
    files: dict[str, Any] = {}
    with ExitStack() as opened, torch.no_grad(), tqdm(desc="computing features", unit="frame") as bar:
        for chunk in see():
            for key, features in chunk.items():
                if key not in files:
                    _check_room(folder, count * features[0].nbytes, advice)
                    shape[key] = ((count, *features.shape[1:]), str(features.dtype).removeprefix("torch."))
                    files[key] = opened.enter_context((folder / key).open("wb"))
                files[key].write(features.cpu().contiguous().view(torch.uint8).numpy().tobytes())
            bar.update(len(features))
    (folder / "shape.json").write_text(json.dumps(shape))


def _check_room(folder: Path, needed: int, advice: str) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise UserError(
            f"the features need {needed / 1e9:.1f} GB but {folder.parent} has {free / 1e9:.1f} GB free; "
            f"free some space, {advice}"
        )
