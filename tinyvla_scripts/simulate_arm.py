"""An SO-101 that exists only in simulation, on a serial port: python simulate_arm.py robot=so101."""

import signal
import sys

from omegaconf import DictConfig

from configs.app import app
from configs.composing import as_dict


@app("simulate_arm")
def main(cfg: DictConfig) -> None:
    from envs.rendering import select_gl_backend
    from robot_io.setup.search import cameras_setting, section_text
    from robot_io.setup.twins import record_twin
    from robot_io.twin import Twin, TwinSettings
    from robot_io.twin.client import twin_folder
    from tinyvla.errors import UserError

    robot = as_dict(cfg.robot)
    if "twin" not in robot:
        raise UserError(f"there is no twin of {robot['type']}; use robot=so101, so100, or so101_leader")
    settings = TwinSettings.from_config(robot, cfg.seed)
    if settings.cameras:
        select_gl_backend()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with twin_folder(robot["twin"]["folder"]) as folder:
        twin = Twin(settings, folder, typed=True)
        record = record_twin(robot, folder)
        print(f"port: {folder}/port\nsettings: {record.settings}\nfor LeRobot: {record.lerobot_settings}")
        if record.cameras:
            print(cameras_setting({name: section_text(section) for name, section in record.cameras.items()}))
        print("type help for the commands, Ctrl-C to end", flush=True)
        try:
            twin.run()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
