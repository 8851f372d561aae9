"""Collect demonstrations: python collect.py env=metaworld env.tasks=[reach-v3] episodes=50."""

from tinyvla_scripts.collect import main

if __name__ == "__main__":
    main()
