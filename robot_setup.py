"""Set an arm up: python robot_setup.py robot=so101 step=find, then step=motors, step=calibrate, step=check."""

from tinyvla_scripts.robot_setup import main

if __name__ == "__main__":
    main()
