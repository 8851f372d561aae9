"""Objects that the twin's gripper holds while the arm moves: grip, stutter of the other joints, overload, drops.

    uv run python -m benchmarks.real_arm.holding
    uv run python -m benchmarks.real_arm.holding sides=[0.03,0.05] seconds=10

For each side a cube stands between the open jaws. The gripper is then commanded to 0, as in teleoperated data, the arm
lifts the cube and waves it, for a minute, through the safety layer, over the serial port, with LeRobot's limits of
torque. A row gives the opening at which the cube is held, the ticks that did not follow the command, the greatest lag
of the other joints, the load and the error bits of the gripper's servo, and whether the cube is still held in the end.
A cube that does not fit between the jaws is not held: the row says so.

Finished cubes are kept in results/holding.json, and the same command resumes.
"""

import json
import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.machine import Machine, keep, markdown, read_kept
from benchmarks.real_arm.held_cube import OPEN, PLACE, grasp_height, place_cube, reach, resize_cube
from benchmarks.real_arm.rig import RATE
from benchmarks.settings import setting, start
from configs.composing import as_dict, load_config
from envs.so101.twin import TwinScene
from robot_io.arms import make_arm
from robot_io.control_loop import ControlLoop
from robot_io.deployment.arm_session import ArmSession
from robot_io.safety import Reaction, SafetyLayer, SafetyLimits
from robot_io.twin import TwinSettings, start_twin
from tinyvla.arms.so101 import SO101

LIFT = 0.08  # metres
CLOSING, CLOSE_S, LIFT_S = 60.0, 3.0, 3.0  # gripper units/s, seconds
SWING, PERIOD_S = (20.0, 5.0, 5.0, 5.0, 20.0, 0.0), (4.0, 3.1, 2.7, 2.3, 3.7, 1.0)  # per joint, LeRobot's units
HELD = 0.02  # metres over the table
TITLES = {
    "side_cm": "side (cm)",
    "outcome": "outcome",
    "seconds": "seconds",
    "opening": "gripper at",
    "not_followed": "ticks not followed",
    "lag": "greatest lag of the others (°)",
    "load": "load of the gripper, start and end",
    "errors": "error bits",
    "lowest_mm": "lowest height (mm)",
}


class Motion:
    """Command source that closes the gripper, lifts and waves; it keeps what the loop sends and reads."""

    def __init__(self, open_pose: np.ndarray, lifted: np.ndarray) -> None:
        self._open, self._lifted = open_pose, lifted
        self.ticks, self.not_followed, self.lag = 0, 0, 0.0
        self._sent: np.ndarray | None = None

    def command(self, observation: dict[str, Any]) -> np.ndarray:
        at = self.ticks / RATE
        self.ticks += 1
        lift = np.clip((at - CLOSE_S) / LIFT_S, 0, 1)
        waving = max(at - CLOSE_S - LIFT_S, 0.0)
        pose = self._open + lift * (self._lifted - self._open)
        pose = pose + min(waving, 1) * np.array(SWING) * np.sin(2 * np.pi * waving / np.array(PERIOD_S))
        pose[5] = max(OPEN - CLOSING * at, 0.0)
        return pose

    def observe(self, due: float, observation: Any, command: Any, safe: Any) -> None:
        self.not_followed += safe.reaction != Reaction.FOLLOW
        if observation is not None and self._sent is not None:
            at = np.array([observation[f"{joint}.pos"] for joint in SO101.joints])
            self.lag = max(self.lag, float(np.abs(at - self._sent)[:5].max()))
        self._sent = safe.position.copy()


def hold(side: float, seconds: float, limits: SafetyLimits, robot: dict[str, Any]) -> dict[str, Any]:
    """Row of one cube."""
    row: dict[str, Any] = {"side_cm": round(100 * side, 1), "seconds": seconds}
    placed = place_cube(side)
    if placed is None:
        return row | {"outcome": "wider than the jaws open"}
    pose, qpos = placed
    lifted = reach(np.array([*PLACE, grasp_height(side) + LIFT]), 0.0)
    scene = partial(TwinScene, furnish=partial(resize_cube, side))
    with start_twin(TwinSettings.from_config(robot, scene=scene)) as twin:
        twin.place(qpos)
        angles = dict(zip(SO101.joints, np.degrees(SO101.to_radians(pose)), strict=True))
        twin.send("hand " + " ".join(f"{joint}={angle}" for joint, angle in angles.items()))
        session, layer, motion = ArmSession(make_arm(robot, twin), limits), SafetyLayer(limits), Motion(pose, lifted)
        with session.connected():
            twin.send("hand release")
            twin.place(qpos)
            heights: list[float] = []
            loads: list[float] = []
            errors: set[int] = set()

            def look() -> bool:
                if motion.ticks % 6 == 0 and motion.ticks > RATE * (CLOSE_S + LIFT_S):
                    state = twin.state()
                    heights.append(state["qpos"][qpos.size - 5] - side / 2)
                    loads.append(state["joints"]["gripper"]["load"])
                    errors.add(state["joints"]["gripper"]["error"])
                return False

            with session.driven():
                loop = ControlLoop(session.arm(), motion.command, layer, observer=motion.observe)
                ended = loop.run(CLOSE_S + LIFT_S + seconds, look)
            opening = session.position()[5]
            time.sleep(0.2)
    held = bool(heights) and min(heights) > HELD
    return row | {
        "outcome": ("held" if held else "dropped") + ("" if ended == "time" else f", ended by {ended}"),
        "opening": round(float(opening), 1),
        "not_followed": motion.not_followed,
        "lag": round(motion.lag, 2),
        "load": f"{loads[0]:.2f}, {loads[-1]:.2f}" if loads else "",
        "errors": sorted(errors),
        "lowest_mm": round(1000 * min(heights), 1) if heights else None,
        "causes": {cause: n["ticks"] for cause, n in layer.report.to_dict()["causes"].items()},
    }


@dataclass
class Settings:
    """Settings of the command line."""

    sides: list[float] = setting([0.02, 0.03, 0.04, 0.05, 0.06, 0.07], "sides of the cubes in metres")
    seconds: float = setting(60.0, "seconds for which a cube is held")


def main(settings: Settings) -> None:
    logging.disable(logging.CRITICAL)
    conditions = {"seconds": settings.seconds, "machine": Machine().name}
    rows: list[dict[str, Any]] = read_kept("holding", conditions).get("rows", [])
    cfg = load_config("deploy", ["checkpoint=none", "robot=twin"])
    robot, limits = as_dict(cfg.robot) | {"cameras": {}}, SafetyLimits.decode(as_dict(cfg.safety))
    for side in settings.sides:
        if not any(row["side_cm"] == round(100 * side, 1) for row in rows):
            rows.append(hold(side, settings.seconds, limits, robot))
            print(json.dumps(rows[-1]), flush=True)
            result = Machine().describe(1) | {"asked": conditions, "rows": rows}
            keep("holding", result, f"{Machine().title(1)}\n\n{markdown(rows, TITLES)}")
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    start(main, Settings, __doc__)
