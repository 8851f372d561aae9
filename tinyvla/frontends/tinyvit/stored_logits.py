"""Fast pretraining distillation (TinyViT, arXiv 2207.10666, section 3): both passes over a `LogitStore`.

Pass 1 (`save_logits`) stores the teacher's predictions for every epoch. Pass 2 (`StoredLogits`) makes the same views
again from their seeds and needs no teacher. `check_logits` compares the store with a teacher.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ...errors import UserError
from ..views import RandomView
from .logit_store import LogitStore
from .losses import Teacher, top_probabilities

TOLERANCE = 5e-3  # of probabilities: float16 has three digits, and hardware differs in the order of sums


class IndexedImages(Protocol):
    """Images uint8 (3, H, W) by index. `checksum` changes when an image changes."""

    checksum: str

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Tensor: ...


class Views(Dataset):
    """Views of images by index, for a loader: (index, view)."""

    def __init__(self, images: IndexedImages, view: RandomView, seeds: Sequence[int] | np.ndarray):
        self.images, self.view, self.seeds = images, view, seeds

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, self.view(self.images[index], int(self.seeds[index]))


def save_logits(
    store: LogitStore,
    images: IndexedImages,
    teacher: Teacher,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | str = "cpu",
    epochs: Iterable[int] | None = None,
) -> None:
    """Pass 1: store the teacher's predictions for every incomplete epoch that no other process works on.

    Args:
        store: created for these images.
        images: inputs of the teacher.
        teacher: from images in [0, 1] to logits.
        batch_size: views per batch.
        workers: processes that make views; 0: this process.
        device: of the teacher.
        epochs: restricts the epochs; None: all.

    Raises UserError if the images or the teacher's number of classes are not those of the store.
    """
    contents = store.contents
    store.require_images(images)
    view = RandomView(**contents.view)
    missing = store.epochs(whole=False)
    todo = missing if epochs is None else [epoch for epoch in epochs if epoch in missing]
    for epoch in tqdm(todo, desc="teacher", unit="epoch", disable=None):
        with store.claim(epoch) as mine:
            if not mine:
                continue
            loader = DataLoader(Views(images, view, store.seeds(epoch)), batch_size, num_workers=workers)
            for indices, views in loader:
                logits = teacher(views.to(device))
                store.require_classes(logits.shape[-1], "teacher")
                store.write(epoch, int(indices[0]), *top_probabilities(logits, contents.k))
            store.finish(epoch)


@torch.no_grad()
def check_logits(
    store: LogitStore, images: IndexedImages, teacher: Teacher, samples: int = 64, device: torch.device | str = "cpu"
) -> float:
    """Largest difference between a stored probability and the teacher's, on some views of the store.

    Raises UserError if images or classes are not those of the store, if nothing is stored yet, or if the difference
    exceeds TOLERANCE.
    """
    contents = store.contents
    store.require_images(images)
    whole = store.epochs(whole=True)
    if not whole:
        raise UserError(f"{store.path} holds no complete epoch yet; save the teacher's logits first")
    rng = np.random.default_rng(0)
    view, worst = RandomView(**contents.view), 0.0
    for _ in range(samples):
        epoch, index = int(rng.choice(whole)), int(rng.integers(contents.images))
        seed, values, indices = store.read(epoch, index)
        logits = teacher(view(images[index], seed)[None].to(device))
        store.require_classes(logits.shape[-1], "teacher")
        worst = max(worst, (logits[0].float().softmax(-1).cpu()[indices] - values).abs().max().item())
    if worst > TOLERANCE:
        raise UserError(
            f"{store.path} differs by {worst:.3f} from what the teacher says now; it is of another teacher or "
            "of other images: delete it and save the logits again"
        )
    return worst


class StoredLogits(Dataset):
    """Pass 2: the teacher's views and predictions by position = epoch * images + image.

    Raises UserError if the images are not those of the store, or if it is not complete.
    """

    def __init__(self, store: LogitStore, images: IndexedImages):
        store.require_images(images)
        if missing := store.epochs(whole=False):
            raise UserError(
                f"{store.path} lacks {len(missing)} of {store.contents.epochs} epochs; "
                "let the teacher predict those too"
            )
        self.store, self.images = store, images
        self.view = RandomView(**store.contents.view)

    def __len__(self) -> int:
        return self.store.contents.epochs * self.store.contents.images

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        epoch, index = divmod(int(position), self.store.contents.images)
        seed, values, indices = self.store.read(epoch, index)
        return {"images": self.view(self.images[index], seed), "values": values, "indices": indices}
