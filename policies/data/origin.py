"""Origin of a dataset: an environment's demonstrations, or recordings of a person's own robot."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from lerobot.utils.constants import OBS_IMAGES

if TYPE_CHECKING:
    from lerobot.datasets import LeRobotDatasetMetadata


def own_recording(meta: "LeRobotDatasetMetadata", env_cameras: Collection[str]) -> bool:
    """True for a dataset with a camera that an environment does not have: no policy of it can be played there.

    Args:
        meta: of the dataset.
        env_cameras: names of the environment's cameras, without `observation.images.`.
    """
    return any(key.removeprefix(f"{OBS_IMAGES}.") not in env_cameras for key in meta.camera_keys)
