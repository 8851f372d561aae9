"""Settings of the training data."""

from dataclasses import dataclass

from tinyvla.ranges import check_range


@dataclass
class DatasetConfig:
    """A LeRobotDataset to train from, instead of collected demonstrations: the section `dataset`.

    Args:
        repo_id: of the model hub, user/name.
        root: its folder on this disk.
        shuffle_buffer: frames that a stream draws its samples from.
        calibration: LeRobot's file of the arm that recorded in -100 to 100 (use_degrees=false); its positions become
            degrees.
        accept_changed: resume a run although its dataset has changed; the run keeps its own normalisation.
    """

    repo_id: str | None = None
    root: str | None = None
    shuffle_buffer: int = 1000
    calibration: str | None = None
    accept_changed: bool = False

    def __post_init__(self) -> None:
        check_range(self, "shuffle_buffer", low=1)

    @property
    def is_given(self) -> bool:
        """A dataset is named, so none is collected."""
        return bool(self.repo_id or self.root)
