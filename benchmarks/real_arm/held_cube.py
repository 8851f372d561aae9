"""Cubes between the open jaws of the SO-101, for holding.py."""

from functools import partial

import mink
import mujoco
import numpy as np

import envs.rendering  # noqa: F401  selects MuJoCo's renderer
from envs.so101.arm import TIP, skeleton_spec
from envs.so101.simulation import CUBE, Simulation
from tinyvla.arms.so101 import SO101

PLACE, YAW = (0.22, 0.0), 0.0  # of the cube on the table in metres; direction from the fixed to the moving jaw
OPEN = 100.0  # gripper units
LOWEST = 0.012  # metres of the finger tips over the table
GAP = 0.001  # metres between the cube and the fixed jaw


def grasp_height(side: float) -> float:
    """Height of the finger tips over the table at which they grasp a cube, in metres."""
    return max(side / 2, LOWEST)


def reach(position: np.ndarray, gripper: float) -> np.ndarray:
    """Pose, (6,) in LeRobot's units, whose finger tips are at a position, (3,) in metres, and point down."""
    configuration = mink.Configuration(skeleton_spec().compile())
    configuration.update(SO101.to_radians(np.array([0.0, -30.0, 40.0, 80.0, 0.0, gripper])))
    task = mink.FrameTask(TIP, "site", position_cost=1.0, orientation_cost=0.03, lm_damping=1e-4)
    task.set_target(mink.SE3.from_rotation_and_translation(mink.SO3.from_z_radians(YAW), position))
    limits = [mink.ConfigurationLimit(configuration.model)]
    for _ in range(300):
        velocity = mink.solve_ik(configuration, [task], 0.05, solver="daqp", damping=1e-4, limits=limits)
        configuration.integrate_inplace(velocity, 0.05)
    pose = SO101.from_radians(configuration.q)
    pose[5] = gripper
    return pose


def resize_cube(side: float, spec: mujoco.MjSpec) -> None:
    """Give the cube of the scene a side in metres, and the mass of a shell."""
    cube = spec.geom(CUBE)
    cube.mass *= (side / 2 / cube.size[0]) ** 2
    cube.size = (side / 2,) * 3


def place_cube(side: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Pose of the open arm, (6,), and the scene's qpos with the cube between the jaws; None if it does not fit."""
    simulation = Simulation("pick-lift", furnish=partial(resize_cube, side))
    simulation.reset(np.random.default_rng(0))
    pose = reach(np.array([*PLACE, grasp_height(side)]), OPEN)
    simulation.place_arm(pose)
    jaw = simulation.data.body("gripper").xmat.reshape(3, 3) @ np.array([1.0, 0, 0])
    jaw = jaw * (1, 1, 0) / np.linalg.norm(jaw[:2])
    turn = np.arctan2(jaw[1], jaw[0])
    cube = simulation.data.joint(CUBE).qpos
    for shift in np.arange(-0.03, 0.08, GAP):  # from inside the fixed jaw towards the moving one
        cube[:3] = *(simulation.tip + shift * jaw)[:2], side / 2
        cube[3:] = np.cos(turn / 2), 0, 0, np.sin(turn / 2)
        mujoco.mj_forward(simulation.model, simulation.data)
        if not any(simulation.touches()):
            return pose, simulation.data.qpos.copy()
    return None
