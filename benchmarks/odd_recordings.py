"""Small recordings with the odd properties that people's have, and what train.py is to say about each.

They are made by `write_kind`, each in about a second. Images are PNG files: what is odd is not in the codec.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
NAMES = [f"{joint}.pos" for joint in JOINTS]
AXES = ("height", "width", "channels")
STEP = 360 / 4095  # degrees of an encoder's step
INSTRUCTION = "pick up the cube and lift it"
LONG = (
    "please move the arm slowly over the table and look for the small thing that lies in front of you, and when you "
    "have it under the gripper come from above with open jaws, close them and lift up the {} and hold it for a while"
)

type Pose = Callable[[int, int, int], np.ndarray]  # of an episode, a step and the number of steps


def pose(episode: int, step: int, steps: int) -> np.ndarray:
    """Motion in degrees within an SO-101's limits, (6,)."""
    s = step / max(steps - 1, 1)
    return np.array(
        [
            30 * np.sin(3 * s + episode),
            40 * s - 48 + np.sin(9 * s),
            30 - 20 * s + np.sin(7 * s),
            60 + 20 * np.cos(4 * s),
            20 * np.sin(5 * s) - 104,
            45 + 40 * np.sin(2 * s),
        ],
        np.float32,
    )


def short_roll(episode: int, step: int, steps: int) -> np.ndarray:
    """As `pose`, with a wrist that fits both units."""
    return pose(episode, step, steps) + np.array([0, 0, 0, 0, 104, 0], np.float32)


def constant(episode: int, step: int, steps: int) -> np.ndarray:
    """Wrist and gripper that stand still."""
    return np.array([*pose(episode, step, steps)[:4], 103.3406594, 12.7], np.float32)


def one_pose(episode: int, step: int, steps: int) -> np.ndarray:
    """The same for all frames."""
    return pose(0, 0, 2)


def with_nan(episode: int, step: int, steps: int) -> np.ndarray:
    """One frame without a number."""
    values = pose(episode, step, steps)
    values[2] = np.nan if (episode, step) == (1, 7) else values[2]
    return values


def with_jump(episode: int, step: int, steps: int) -> np.ndarray:
    """One frame in which an encoder wraps around."""
    values = pose(episode, step, steps)
    values[0] += 360 if (episode, step) == (1, 7) else 0
    return values


def hundreds(episode: int, step: int, steps: int) -> np.ndarray:
    """LeRobot's -100 to 100 of each joint's calibrated range; the gripper has 0 to 100."""
    body = (98 * np.sin(6.3 * step / steps + episode + i) for i in range(5))
    return np.array([*body, 50 + 49 * np.sin(step / 4)], np.float32)


def encoder_degrees(episode: int, step: int, steps: int) -> np.ndarray:
    """Degrees as an encoder with steps gives them, within 100."""
    return (np.round(short_roll(episode, step, steps) / STEP + 0.5) * STEP - STEP / 2).astype(np.float32)


def encoder_hundreds(episode: int, step: int, steps: int) -> np.ndarray:
    """-100 to 100 as encoders with calibrated ranges of 2000 to 4095 steps give them."""
    ranges = np.array([2400, 2213, 2178, 2350, 4095, 1476])
    share = (short_roll(episode, step, steps) + 100) / 200
    values = np.round(share * ranges) / ranges * 200 - 100
    values[5] = values[5] / 2 + 50
    return values.astype(np.float32)


def radians(episode: int, step: int, steps: int) -> np.ndarray:
    """All joints in radians."""
    return np.radians(short_roll(episode, step, steps))


@dataclass(frozen=True)
class Kind:
    """A kind of odd recording.

    Args:
        says: regular expression of the line with which train.py refuses it or that it prints; None: it trains silently.
        trains: it is trained on; None: that depends on the policy and on `dataset.image_size`.
        deploys: regular expression of the line with which deploy.py refuses what was trained; None: the twin plays it.
        damage: changes the finished dataset in a folder.
        settings: further settings of train.py, with {root} for the folder.
    """

    says: str | None = None
    trains: bool | None = True
    deploys: str | None = None
    fps: int = 30
    lengths: Sequence[int] = (12, 12, 12)
    cameras: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"front": (32, 32, 3), "wrist": (32, 32, 3)})
    axes: Sequence[str] | None = AXES
    channels_first: bool = False
    black: bool = False
    state: Pose = pose
    action: Pose | None = None
    keys: tuple[str, str] = ("observation.state", "action")
    names: Any = tuple(NAMES)
    action_size: int = 6
    dtype: str = "float32"
    instruction: Callable[[int], str] = lambda episode: INSTRUCTION
    killed: bool = False
    damage: Callable[[Path], None] | None = None
    settings: Sequence[str] = ()


def write_kind(name: str, folder: Path) -> Path:
    """Write the recording of a kind below a folder, and return its own folder."""
    kind, root = KINDS[name], folder / name
    shutil.rmtree(root, ignore_errors=True)
    if kind.killed:
        child = os.fork()
        if not child:
            dataset = _record(kind, root)  # which a reference keeps from being finished
            os._exit(9 if dataset else 1)
        os.waitpid(child, 0)
    else:
        _record(kind, root).finalize()
    if kind.damage:
        kind.damage(root)
    return root


def _record(kind: Kind, root: Path) -> Any:
    from lerobot.datasets import LeRobotDataset

    dataset = LeRobotDataset.create(
        f"local/{root.name}", kind.fps, _features(kind), root=root, robot_type="so_follower", use_videos=False
    )
    for episode, steps in enumerate(kind.lengths):
        for step in range(steps):
            dataset.add_frame(_frame(kind, episode, step, steps) | {"task": kind.instruction(episode)})
        dataset.save_episode()
    return dataset


def _features(kind: Kind) -> dict[str, Any]:
    names = list(kind.names) if isinstance(kind.names, tuple) else kind.names
    state_key, action_key = kind.keys
    features: dict[str, Any] = {state_key: {"dtype": kind.dtype, "shape": (6,), "names": names}}
    action_names = names if kind.action_size == 6 else [f"number_{i}" for i in range(kind.action_size)]
    features[action_key] = {"dtype": kind.dtype, "shape": (kind.action_size,), "names": action_names}
    for camera, shape in kind.cameras.items():
        shape = (shape[2], *shape[:2]) if kind.channels_first else shape
        axes = kind.axes and list(kind.axes)
        features[f"observation.images.{camera}"] = {"dtype": "image", "shape": shape, "names": axes}
    return features


def _frame(kind: Kind, episode: int, step: int, steps: int) -> dict[str, np.ndarray]:
    state = kind.state(episode, step, steps)
    action = kind.action(episode, step, steps) if kind.action else kind.state(episode, min(step + 1, steps - 1), steps)
    action = np.resize(action, kind.action_size)
    frame = {key: value.astype(kind.dtype) for key, value in zip(kind.keys, (state, action), strict=True)}
    for camera, (height, width, channels) in kind.cameras.items():
        image = np.full((height, width, channels), 0 if kind.black else 90, np.uint8)
        if not kind.black:
            x = (width - 8) * step // max(steps - 1, 1)
            y = (height - 8) * (episode + 1) // (len(kind.lengths) + 1)
            image[y : y + 8, x : x + 8] = 230
        frame[f"observation.images.{camera}"] = image
    return frame


def edit_info(**changes: Any) -> Callable[[Path], None]:
    """Function that changes entries of a dataset's info.json."""

    def edit(root: Path) -> None:
        file = root / "meta/info.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def edit_feature(key: str, **changes: Any) -> Callable[[Path], None]:
    """Function that changes entries of a feature in a dataset's info.json."""

    def edit(root: Path) -> None:
        features = json.loads((root / "meta/info.json").read_text())["features"]
        edit_info(features=features | {key: features[key] | changes})(root)

    return edit


def edit_column(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Function that changes a column of single numbers in a dataset's data."""

    def edit(root: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = root / "data/chunk-000/file-000.parquet"
        table = pq.read_table(file, partitioning=None)
        place, column = table.column_names.index(name), table.column(name)
        values = pa.array(change(column.to_numpy().copy()), column.type)
        pq.write_table(table.set_column(place, table.schema.field(name), values), file)

    return edit


def _swap_times(times: np.ndarray) -> np.ndarray:
    times[[17, 18]] = times[[18, 17]]
    return times


KINDS: dict[str, Kind] = {
    "plain": Kind(),
    "motionless_joints": Kind(r"motionless in all recordings: wrist_roll.pos, gripper.pos of", state=constant),
    "ten_fps": Kind(fps=10),
    "sixty_fps": Kind(fps=60),
    "fps_0": Kind(r"fps in .*info.json is 0", False, damage=edit_info(fps=0)),
    "webcams": Kind(
        deploys="there is no camera 'laptop'; use front, top, wrist",
        cameras={"laptop": (480, 640, 3), "phone": (480, 640, 3)},
        lengths=(6, 6),
    ),
    "cameras_of_two_sizes": Kind(None, None, cameras={"front": (48, 64, 3), "wrist": (24, 32, 3)}, lengths=(12, 12)),
    "image_names_none": Kind(axes=None),
    "image_names_short": Kind(axes=("h", "w", "c")),
    "channels_first": Kind(axes=("channels", "height", "width"), channels_first=True),
    "depth_camera": Kind(
        r"observation.images.depth is of the shape \(32, 32, 1\).*dataset.cameras=\[front\]",
        False,
        cameras={"front": (32, 32, 3), "depth": (32, 32, 3)},
        damage=edit_feature("observation.images.depth", shape=[32, 32, 1]),
    ),
    "no_cameras": Kind("has no cameras", False, cameras={}),
    "black_cameras": Kind("observation.images.front shows one colour", black=True),
    "other_keys": Kind(
        r"'dataset.rename=\{state: observation.state, actions: action\}'", False, keys=("state", "actions")
    ),
    "no_state": Kind(
        r"its keys are observation.joints, action.*\{observation.joints: observation.state\}",
        False,
        keys=("observation.joints", "action"),
    ),
    "minus_100_to_100": Kind(r"-100 to 100 .*dataset.calibration=", False, state=hundreds, lengths=(40, 40)),
    "minus_100_to_100_of_an_encoder": Kind(r"-100 to 100 .*dataset.calibration=", False, state=encoder_hundreds),
    "degrees_of_an_encoder": Kind(state=encoder_degrees),
    "either_unit": Kind("may be degrees or -100 to 100", state=short_roll),
    "radians": Kind("as radians do", state=radians, deploys="as radians do"),
    "nan_in_state": Kind(
        r"elbow_flex.pos of observation.state is nan in episode 1, frame 7; leave it out: dataset.episodes=\[0,2\]",
        False,
        state=with_nan,
    ),
    "jumping_encoder": Kind(
        "shoulder_pan.pos of observation.state jumps by 3[0-9]+",
        state=with_jump,
        action=pose,
        deploys="of shoulder_pan went from -30 to 367 but the joint goes from -108 to 108",
    ),
    "long_instructions": Kind(instruction=lambda episode: LONG.format("red cube" if episode % 2 else "green ball")),
    "endless_instructions": Kind(
        "2 instructions are one to the policy",
        instruction=lambda episode: "slowly " * 300 + ("left" if episode % 2 else "right"),
    ),
    "empty_instruction": Kind(
        "episode 1 without an instruction", instruction=lambda episode: "" if episode == 1 else INSTRUCTION
    ),
    "one_frame_episodes": Kind("episode 1 with a single frame", lengths=(12, 1, 12)),
    "duplicated_episodes": Kind(
        r"copies of other episodes: episode 2 \(2 is the same as 0\)",
        state=lambda episode, *step: pose(episode % 2, *step),
    ),
    "timestamps_out_of_order": Kind(
        "frame 5 of episode 1 has the time", False, damage=edit_column("timestamp", _swap_times)
    ),
    "frames_out_of_order": Kind(
        "is of another episode", False, damage=edit_column("episode_index", lambda episodes: np.roll(episodes, 3))
    ),
    "constant_action": Kind("the action is the same in all frames", action=one_pose),
    "action_is_state": Kind("is the state of the same frame", action=pose),
    "joints_in_another_order": Kind(names=tuple(reversed(NAMES))),
    "names_in_an_object": Kind(names={"motors": NAMES}),
    "names_none": Kind(names=None),
    "state_and_action_of_two_sizes": Kind(action_size=7),
    "uint8_state": Kind(state=lambda *step: np.abs(pose(*step)), dtype="uint8"),
    "killed_while_recording": Kind("broke off before it was finished", False, killed=True),
    "version_2_1": Kind(
        r"python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=local/version_2_1 --root=\S+ --push-to-hub",
        False,
        damage=edit_info(codebase_version="v2.1"),
    ),
}
