"""Fast pretraining distillation (TinyViT, arXiv 2207.10666, section 3): both passes over a `LogitStore`.

Pass 1 (`save_logits`) has the teacher answer once for every epoch; pass 2 (`StoredAnswers`) makes the same views from
their seeds again and has no teacher. `check_logits` compares the store with a teacher.
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

TOLERANCE = 5e-3  # of probabilities: float16 keeps three digits, and other hardware sums in another order


class Pictures(Protocol):
    """Pictures by number, uint8 (3, H, W). `checksum` changes when any of them does."""

    checksum: str

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Tensor: ...


class Views(Dataset):
    """Views of pictures by number, for loaders: (number, view)."""

    def __init__(self, pictures: Pictures, view: RandomView, seeds: Sequence[int] | np.ndarray):
        self.pictures, self.view, self.seeds = pictures, view, seeds

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, self.view(self.pictures[index], int(self.seeds[index]))


def save_logits(
    store: LogitStore,
    pictures: Pictures,
    teacher: Teacher,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | str = "cpu",
    epochs: Iterable[int] | None = None,
) -> None:
    """Pass 1: let the teacher answer in every epoch that is not whole, and that no other process is at.

    Args:
        store: made for these pictures.
        pictures: what the teacher looks at.
        teacher: gives logits of images in [0, 1].
        batch_size: views that the teacher sees at once.
        workers: processes that make views; 0: this one does.
        device: where the teacher computes.
        epochs: only these.

    Raises UserError if the pictures or the teacher's number of classes are not the store's.
    """
    contents = store.contents
    store.require_pictures(pictures)
    view = RandomView(**contents.view)
    missing = store.epochs(whole=False)
    wanted = missing if epochs is None else [epoch for epoch in epochs if epoch in missing]
    for epoch in tqdm(wanted, desc="teacher", unit="epoch", disable=None):
        with store.claim(epoch) as mine:
            if not mine:
                continue
            loader = DataLoader(Views(pictures, view, store.seeds(epoch)), batch_size, num_workers=workers)
            for numbers, images in loader:
                logits = teacher(images.to(device))
                store.require_classes(logits.shape[-1], "teacher")
                store.write(epoch, int(numbers[0]), *top_probabilities(logits, contents.k))
            store.finish(epoch)


@torch.no_grad()
def check_logits(
    store: LogitStore, pictures: Pictures, teacher: Teacher, samples: int = 64, device: torch.device | str = "cpu"
) -> float:
    """Let the teacher answer again on some of a store's views: the largest difference of a probability.

    Raises UserError if pictures or classes are not the store's, nothing is stored yet, or it differs by more than
    TOLERANCE.
    """
    contents = store.contents
    store.require_pictures(pictures)
    whole = store.epochs(whole=True)
    if not whole:
        raise UserError(f"{store.path} holds no whole epoch yet; save the teacher's logits first")
    rng = np.random.default_rng(0)
    view, worst = RandomView(**contents.view), 0.0
    for _ in range(samples):
        epoch, index = int(rng.choice(whole)), int(rng.integers(contents.images))
        seed, values, indices = store.read(epoch, index)
        logits = teacher(view(pictures[index], seed)[None].to(device))
        store.require_classes(logits.shape[-1], "teacher")
        worst = max(worst, (logits[0].float().softmax(-1).cpu()[indices] - values).abs().max().item())
    if worst > TOLERANCE:
        raise UserError(
            f"{store.path} differs by {worst:.3f} from what the teacher says now; it was made by another teacher or "
            "of other pictures: delete it and save the logits again"
        )
    return worst


class StoredAnswers(Dataset):
    """Pass 2: the views that the teacher saw, with its answers, by position: epoch * images + picture.

    Raises UserError if the pictures are not the store's, or it is not whole.
    """

    def __init__(self, store: LogitStore, pictures: Pictures):
        store.require_pictures(pictures)
        if missing := store.epochs(whole=False):
            raise UserError(
                f"{store.path} lacks {len(missing)} of {store.contents.epochs} epochs; "
                "let the teacher answer in those too"
            )
        self.store, self.pictures = store, pictures
        self.view = RandomView(**store.contents.view)

    def __len__(self) -> int:
        return self.store.contents.epochs * self.store.contents.images

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        epoch, index = divmod(int(position), self.store.contents.images)
        seed, values, indices = self.store.read(epoch, index)
        return {"images": self.view(self.pictures[index], seed), "values": values, "indices": indices}
