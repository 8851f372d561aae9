"""Evaluate a policy in closed loop: python evaluate.py checkpoint=outputs/<run> env=metaworld env.tasks=[reach-v3]."""

from tinyvla_scripts.evaluate import main

if __name__ == "__main__":
    main()
