"""A small simulator that supports every shift."""

import mujoco
import numpy as np
from gymnasium import spaces

from envs.contract import Environment, SceneElements
from envs.rendering import CameraRenderers


class BlockEnv(Environment):
    """A block on a table and a finger that slides over it."""

    XML = """
    <mujoco>
      <visual><headlight ambient=".3 .3 .3"/></visual>
      <asset>
        <texture name="grain" type="2d" builtin="checker" rgb1=".6 .4 .2" rgb2=".5 .3 .1" width="32" height="32"/>
        <material name="wood" texture="grain"/>
        <mesh name="roof" vertex="0 0 .06  .03 .03 .03  -.03 .03 .03  .03 -.03 .03  -.03 -.03 .03"/>
      </asset>
      <worldbody>
        <light pos="0 0 2" dir="0 0 -1"/>
        <camera name="eye" pos="0 -.6 .6" xyaxes="1 0 0 0 1 1"/>
        <geom name="floor" type="plane" size="3 3 .1" pos="0 0 -.5" rgba=".2 .3 .2 1"/>
        <geom name="desk" type="box" size=".3 .3 .02" pos="0 0 -.02" material="wood"/>
        <body name="block" pos="0 0 .03">
          <freejoint/>
          <geom type="box" size=".03 .03 .03" rgba=".8 .1 .1 1"/>
          <geom type="mesh" mesh="roof" rgba=".1 .1 .8 1"/>
          <body name="knob" pos="0 0 .08"><geom type="sphere" size=".01" rgba=".8 .1 .1 1"/></body>
        </body>
        <body name="finger" pos="-.2 0 .05">
          <joint name="slide" type="slide" axis="1 0 0" damping="5"/>
          <geom type="capsule" size=".01" fromto="0 0 0 0 0 .2" rgba=".5 .5 .6 1"/>
        </body>
      </worldbody>
      <actuator><velocity joint="slide" kv="20"/></actuator>
    </mujoco>"""
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    render_mode = "rgb_array"
    task, instruction = "push", "push the block"

    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string(self.XML)
        self.data = mujoco.MjData(self.model)
        self.renderers = CameraRenderers(self.model)
        self.observation_space = spaces.Dict(
            {
                "observation.images.eye": spaces.Box(0, 255, (48, 48, 3), np.uint8),
                "observation.state": spaces.Box(-np.inf, np.inf, (1,), np.float32),
                "task": spaces.Text(64),
            }
        )
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    def scene_elements(self):
        number = {name: self.model.geom(name).id for name in ("desk", "floor")}
        block = self.model.body("block").id
        return SceneElements(
            (block,), (number["desk"],), (number["floor"],), (-0.25, -0.25, 0.25, 0.25, 0), np.array([0.01])
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[1 if self.model.jnt_type[0] else 0] = self.np_random.uniform(-0.1, 0.1)
        self.data.qpos[0] += (options or {}).get("outside", 0.0)
        mujoco.mj_forward(self.model, self.data)
        return self.observe(), {"success": False}

    def observe(self):
        state = self.data.qpos[-1:].astype(np.float32)
        image = self.renderers.draw(self.data, "eye", 48)
        return {"observation.images.eye": image, "observation.state": state, "task": self.instruction}

    def apply(self, action):
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, 10)
        return 0.0, False, False, {"success": False}

    def expert_action(self):
        return np.ones(1, np.float32)

    def render(self):
        return self.renderers.draw(self.data, "eye", 96)

    def close(self):
        self.renderers.close()
