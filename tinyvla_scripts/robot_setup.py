"""Set an arm up: python robot_setup.py robot=so101 step=find, then step=motors, step=calibrate, step=check."""

from pathlib import Path

from omegaconf import DictConfig

from configs.app import app
from configs.composing import as_dict
from tinyvla.errors import UserError

STEPS = ("find", "motors", "calibrate", "check")


@app("robot_setup")
def main(cfg: DictConfig) -> None:
    from robot_io.arms import make_arm
    from robot_io.setup import Assistant

    if cfg.step not in STEPS:
        raise UserError(f"step is {cfg.step}; use one of {', '.join(STEPS)}")
    if cfg.step == "find":
        Assistant(None).find(Path(cfg.pictures))
        return
    assistant = Assistant(make_arm(as_dict(cfg.robot)))
    if cfg.step == "motors":
        assistant.name_motors()
    elif cfg.step == "calibrate":
        assistant.calibrate()
    else:
        assistant.check_ranges()
        assistant.check_joints()


if __name__ == "__main__":
    main()
