"""Evaluate a policy in closed loop, or beside recordings: python evaluate.py checkpoint=outputs/<run> env=metaworld."""

from tinyvla_scripts.evaluate import main

if __name__ == "__main__":
    main()
