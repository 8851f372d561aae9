"""Set an arm or a leader up: python robot_setup.py step=find, then robot=so101 robot.port=... robot.id=... step=all."""

from tinyvla_scripts.robot_setup import main

if __name__ == "__main__":
    main()
