"""Folder of a dataset that is recorded: new, or one to continue; and the sizes of the images in it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from lerobot.robots import Robot

from policies.data.dataset_files import check_dataset_files
from tinyvla.errors import UserError
from tinyvla.untrusted import check_links, read_json_object

from ..arms import robot_cameras
from ..safety import SafetyLayer
from .recorder import Recorder
from .rollback import recover


def prepare_folder(root: Path, count: int, resume: bool) -> int:
    """Number of episodes in a dataset that is to have `count`, 0 if its folder does not exist yet.

    What a writer that was killed has left in it is removed. Raises UserError if it exists and is not to be continued,
    cannot be read, or has enough episodes.
    """
    if not root.exists():
        return 0
    if not resume:
        raise UserError(f"{root} exists already; add episodes to it with resume=true, or choose another dataset=...")
    check_links(root)
    recover(root)
    if not root.exists():
        return 0
    check_dataset_files(root)
    episodes = int(read_json_object(root / "meta/info.json")["total_episodes"])
    if episodes >= count:
        raise UserError(f"{root} has {episodes} episodes already; ask for more: episodes={episodes + 10}")
    return episodes


def record_run(root: Path, robot: Robot, cameras: Iterable[str], layer: SafetyLayer) -> Recorder:
    """Recorder of a policy's run on an arm, see `Recorder`.

    Args:
        root: folder of the dataset.
        robot: not yet connected.
        cameras: names of those to record.
        layer: of the arm.
    """
    return Recorder(root, layer.joints, image_sizes(robot, cameras), layer.limits.rate_hz, robot.name)


def image_sizes(robot: Robot, names: Iterable[str] | None = None) -> dict[str, tuple[int, int]]:
    """Height and width of the cameras' images by name; a camera whose settings do not say it is opened to look.

    names: of the cameras; None: all of the robot.
    """
    cameras = robot_cameras(robot)
    features = {name: shape for name, shape in robot.observation_features.items() if isinstance(shape, tuple)}
    sizes = {}
    for name in features if names is None else names:
        height, width = features[name][:2]
        if (height is None or width is None) and name in cameras:
            camera = cameras[name]
            try:
                camera.connect()
                height, width = camera.read().shape[:2]
                camera.disconnect()
            except (OSError, RuntimeError) as error:
                raise UserError(f"the camera {name} gives no image: {error}; check robot.cameras.{name}") from error
        sizes[name] = (height, width)
    return sizes


def check_rates(cameras: Mapping[str, Mapping], rate_hz: float) -> None:
    """Raise UserError for a camera that gives fewer images than are recorded, which would repeat them.

    cameras: sections of the configuration by name.
    """
    if rate_hz != round(rate_hz):
        raise UserError(f"safety.rate_hz={rate_hz:g} cannot be a dataset's rate; use a whole number")
    for name, camera in cameras.items():
        if (fps := camera.get("fps")) is not None and fps < rate_hz:
            raise UserError(
                f"the camera {name} gives {fps} images per second and {rate_hz:g} are recorded; set "
                f"robot.cameras.{name}.fps={rate_hz:g} if it can, else safety.rate_hz={fps}"
            )
