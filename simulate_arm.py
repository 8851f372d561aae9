"""An SO-101 that exists only in simulation, on a serial port: python simulate_arm.py robot=so101."""

from tinyvla_scripts.simulate_arm import main

if __name__ == "__main__":
    main()
