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
        correction_weight: how often a frame counts in which a person corrected a policy, see `corrections`.
        policy_frames: use the other frames of a policy's run, too, once each.
        accept_changed: resume a run although its dataset has changed; the run keeps its own normalisation.
    """

    repo_id: str | None = None
    root: str | None = None
    shuffle_buffer: int = 1000
    correction_weight: int = 1
    policy_frames: bool = False
    accept_changed: bool = False

    def __post_init__(self) -> None:
        check_range(self, "shuffle_buffer", low=1)
        check_range(self, "correction_weight", low=1, high=1000)

    @property
    def is_given(self) -> bool:
        """A dataset is named, so none is collected."""
        return bool(self.repo_id or self.root)
