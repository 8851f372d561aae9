"""Settings of the training data."""

from dataclasses import dataclass
from pathlib import Path

from tinyvla.ranges import RangeError, check_range

from ..image_size import FITS, LETTERBOX

_AUTO = "auto"
_MAX_SIDE = 4096


@dataclass
class DatasetConfig:
    """LeRobotDatasets to train from, instead of collected demonstrations: the section `dataset`.

    Args:
        repo_id: of the model hub, user/name.
        root: its folder on this disk; a list: several recordings, which are trained on as one.
        cameras: that are used, by their recorded or new names; None: all.
        rename: new name of a camera, or new key of a feature, by the recorded one.
        episodes: that are used: numbers, and ranges such as "5-9"; with several recordings they are counted through
            all. None: all.
        exclude_episodes: that are left out, in the same form.
        tasks: instructions whose episodes are used; None: all.
        image_size: side of the images that the policy sees, or height and width; `auto`: see `image_size.make_step`;
            None: the recorded one.
        image_fit: how frames of another shape become that size: `letterbox` keeps all of them, `crop` their middle.
        shuffle_buffer: frames that a stream draws its samples from.
        calibration: LeRobot's file of the arm that recorded in -100 to 100 (use_degrees=false); its positions become
            degrees.
        accept_changed: resume a run although its dataset has changed; the run keeps its own normalisation.
        held_out: share of the episodes that the policy is not trained on, but judged by; None: a tenth of a recording
            of a person's own, none of an environment's demonstrations. Runs without the setting hold none out.
    """

    repo_id: str | None = None
    root: str | list[str] | None = None
    cameras: list[str] | None = None
    rename: dict[str, str] | None = None
    episodes: list[int | str] | None = None
    exclude_episodes: list[int | str] | None = None
    tasks: list[str] | None = None
    image_size: int | list[int] | str | None = None
    image_fit: str = LETTERBOX
    shuffle_buffer: int = 1000
    calibration: str | None = None
    accept_changed: bool = False
    held_out: float | None = 0.0

    def __post_init__(self) -> None:
        check_range(self, "shuffle_buffer", low=1)
        check_range(self, "held_out", low=0, high=0.5)
        if isinstance(self.root, list):
            if not self.root:
                raise RangeError("root", self.root, "give the folder of a dataset")
            self.root = self.root[0] if len(self.root) == 1 else self.root
        if self.image_fit not in FITS:
            raise RangeError("image_fit", self.image_fit, f"use {' or '.join(FITS)}")
        sides = [self.image_size] if isinstance(self.image_size, int | str) else self.image_size or []
        is_size = len(sides) in (1, 2) and all(type(side) is int and 8 <= side <= _MAX_SIDE for side in sides)
        if self.image_size not in (None, _AUTO) and not is_size:
            raise RangeError(
                "image_size", self.image_size, f"use auto, null, a side from 8 to {_MAX_SIDE} pixels, or [height,width]"
            )

    @property
    def is_given(self) -> bool:
        """A dataset is named, so none is collected."""
        return bool(self.repo_id or self.root)

    @property
    def roots(self) -> list[Path]:
        """Folders on this disk; none if the dataset is on the hub or collected."""
        return [Path(root) for root in ([self.root] if isinstance(self.root, str) else self.root or [])]

    @property
    def is_selection(self) -> bool:
        """Part of a dataset, with other names, or several."""
        return len(self.roots) > 1 or any((self.rename, *self._choices))

    @property
    def _choices(self) -> tuple[bool, ...]:
        choices = (self.cameras, self.episodes, self.exclude_episodes, self.tasks)
        return tuple(choice is not None for choice in choices)
