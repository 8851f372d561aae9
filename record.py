"""Record demonstrations with a leader arm: python record.py robot.port=... teleop.port=... dataset=<folder>."""

from tinyvla_scripts.record import main

if __name__ == "__main__":
    main()
