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
        accept_changed: resume a run although its dataset has changed; the run keeps its own normalisation.
        held_out: share of the episodes that the policy is not trained on, but judged by; None: a tenth of a recording
            of a person's own, none of an environment's demonstrations. Runs without the setting hold none out.
    """

    repo_id: str | None = None
    root: str | None = None
    shuffle_buffer: int = 1000
    accept_changed: bool = False
    held_out: float | None = 0.0

    def __post_init__(self) -> None:
        check_range(self, "shuffle_buffer", low=1)
        check_range(self, "held_out", low=0, high=0.5)

    @property
    def is_given(self) -> bool:
        """A dataset is named, so none is collected."""
        return bool(self.repo_id or self.root)
