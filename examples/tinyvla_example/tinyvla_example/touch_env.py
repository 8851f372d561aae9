"""Plain Gymnasium environment on MuJoCo: a fingertip slides over a table and touches one of two discs."""

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces

from envs.rendering import CameraRenderer  # selects a headless GL backend, too

SCENE = """
<mujoco>
  <option timestep="0.01"/>
  <default><geom contype="0" conaffinity="0"/></default>
  <visual><headlight ambient=".3 .3 .3" diffuse=".2 .2 .2"/></visual>
  <worldbody>
    <light pos="0 0 1.5" dir="0 0 -1" diffuse=".4 .4 .4"/>
    <camera name="top" pos="0 0 .8" fovy="40"/>
    <geom name="floor" type="plane" size="2 2 .1" pos="0 0 -.3" rgba=".3 .3 .3 1"/>
    <geom name="table" type="box" size=".3 .3 .01" pos="0 0 -.01" rgba=".8 .75 .65 1"/>
    <body name="red" mocap="true"><geom type="cylinder" size=".03 .003" rgba=".85 .1 .1 1"/></body>
    <body name="blue" mocap="true"><geom type="cylinder" size=".03 .003" rgba=".1 .2 .85 1"/></body>
    <body name="finger" pos="0 0 .03">
      <joint name="x" type="slide" axis="1 0 0" range="-.25 .25" limited="true"/>
      <joint name="y" type="slide" axis="0 1 0" range="-.25 .25" limited="true"/>
      <geom type="sphere" size=".015" mass=".1" rgba=".1 .1 .1 1"/>
    </body>
  </worldbody>
  <actuator><velocity joint="x" kv="5"/><velocity joint="y" kv="5"/></actuator>
</mujoco>"""
DISCS = ("red", "blue")
CONTROL_HZ, PHYSICS_STEPS = 20, 5
SPEED = 0.15  # metres per second of the action 1
REACH = 0.03  # metres between fingertip and centre of the disc, for success


class TouchEnv(gym.Env):
    """Touch the disc of one colour.

    Observation: the camera's image uint8 (image_size, image_size, 3) and the position of the fingertip in metres (2,).
    Action: velocity of the fingertip in x and y, as a share of 0.15 m/s, from -1 to 1. Randomised per episode: the
    positions of both discs. Success: the fingertip is within 3 cm of the centre of the disc.

    Args:
        disc: "red" or "blue".
        image_size: side of the image in pixels.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, disc: str, image_size: int = 96):
        self.model = mujoco.MjModel.from_xml_string(SCENE)
        self.data = mujoco.MjData(self.model)
        self._disc, self._image_size = DISCS.index(disc), image_size
        self._renderer: CameraRenderer | None = None
        self.observation_space = spaces.Dict(
            {
                "observation.images.top": spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
                "observation.state": spaces.Box(-1.0, 1.0, (2,), np.float32),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        side = self.np_random.choice([-1, 1])  # the discs lie on opposite sides of the start
        for index, sign in enumerate((side, -side)):
            position = (sign * self.np_random.uniform(0.07, 0.2), self.np_random.uniform(-0.2, 0.2), 0.003)
            self.data.mocap_pos[index] = position
        mujoco.mj_forward(self.model, self.data)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self.data.ctrl[:] = SPEED * np.clip(action, -1, 1)
        mujoco.mj_step(self.model, self.data, PHYSICS_STEPS)
        success = bool(np.linalg.norm(self.offset()) < REACH)
        return self._observation(), float(success), success, False, {"success": success}

    def offset(self) -> np.ndarray:
        """Vector from the fingertip to the disc, (2,) in metres."""
        return self.data.mocap_pos[self._disc, :2] - self.data.qpos

    def render(self) -> np.ndarray:
        if self._renderer is None:  # made in the process that draws
            self._renderer = CameraRenderer(self.model, self._image_size)
        return self._renderer.draw(self.data, "top")

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _observation(self) -> dict[str, np.ndarray]:
        return {"observation.images.top": self.render(), "observation.state": self.data.qpos.astype(np.float32)}


def expert_action(env: TouchEnv) -> np.ndarray:
    """Action of the scripted expert: straight to the disc, slower near it. (2,)"""
    return np.clip(env.offset() / 0.05, -1, 1).astype(np.float32)
