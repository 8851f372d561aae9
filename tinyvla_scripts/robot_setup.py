"""Set an arm or a leader up: python robot_setup.py step=find, then robot=so101 robot.port=... robot.id=... step=all."""

import shlex
import sys
from pathlib import Path

from omegaconf import DictConfig

from configs.app import app
from configs.composing import as_dict
from tinyvla.errors import UserError

STEPS = ("find", "all", "motors", "calibrate", "check", "cameras")


@app("robot_setup")
def main(cfg: DictConfig) -> None:
    from robot_io.arms import is_leader, make_arm, make_leader
    from robot_io.setup.assistant import Assistant
    from robot_io.setup.person import Person
    from robot_io.setup.proposals import find, propose_cameras, propose_use

    if cfg.step not in STEPS:
        raise UserError(f"step is {cfg.step}; use one of {', '.join(STEPS)}")
    robot, person = as_dict(cfg.robot) | {"gripper_degrees": None}, Person()  # which does not bind a new calibration
    settings = [word for word in shlex.split(cfg.command) if not word.startswith("step=")]

    def command(step: str) -> str:
        return shlex.join([*settings, f"step={step}"])

    if cfg.step == "find" or (cfg.step == "all" and "port" in robot and not robot["port"]):
        find(Path(cfg.pictures), person)
        return
    if cfg.step == "cameras":
        propose_cameras(Path(cfg.pictures), person)
        return
    leader = is_leader(str(robot["type"]))
    assistant = Assistant(make_leader(robot) if leader else make_arm(robot), person, command=command)
    try:
        assistant.run(cfg.step)
        if cfg.step == "all" and not leader:
            propose_cameras(Path(cfg.pictures), person)
        if cfg.step in ("all", "check"):
            propose_use(robot, leader, person)
    except UserError as error:
        raise UserError(f"{error}; then: {command(cfg.step)}") from error
    except KeyboardInterrupt:
        print(f"\nWhat is done is kept. Go on with: {command(cfg.step)}", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
