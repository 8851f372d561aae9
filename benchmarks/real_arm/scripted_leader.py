"""Scripted leader: the simulation's expert in the place of a person, through the interface of an operator.

It reads the true state of a twin's scene, which no camera shows, and gives the pose that the expert would go to.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mujoco
import numpy as np

from envs.so101.expert import Expert
from envs.so101.simulation import Simulation
from tinyvla.arms.simulated import SceneControl


class ScriptedLeader:
    """Operator (`robot_io.takeover.KeyedOperator`) that solves a task of the SO-101's scene.

    Args:
        twin: simulates a `TwinScene`.
        task: of the scene.
        is_active: decides in each tick whether it steers; None: it steers all the time.
        cube_sides: of the scene.
    """

    def __init__(
        self,
        twin: SceneControl,
        task: str,
        is_active: Callable[[Mapping[str, Any]], bool] | None = None,
        cube_sides: Sequence[float] | None = None,
    ) -> None:
        self._twin, self._is_active = twin, is_active
        self.simulation = Simulation(task, cube_sides=cube_sides)
        self._expert = Expert(self.simulation)

    def __call__(self, observation: Mapping[str, Any]) -> np.ndarray | None:
        state = self._twin.state()
        if self._is_active is not None and not self._is_active(state):
            return None
        return self.pose(state)

    def pose(self, state: Mapping[str, Any]) -> np.ndarray:
        """Pose of the expert in LeRobot's units, (6,), at a state of the scene (`qpos`, `qvel`)."""
        data = self.simulation.data
        data.qpos[:], data.qvel[:] = state["qpos"], state["qvel"]
        mujoco.mj_forward(self.simulation.model, data)
        return self._expert.action()

    def begin(self, seed: int) -> None:
        """Prepare the scene of an episode; the disc is not part of a twin's state."""
        self.simulation.reset(np.random.default_rng(seed))

    def keys(self) -> dict[str, Callable[[], object]]:
        return {}
