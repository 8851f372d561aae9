"""Small configurations of the simulated SO-101."""

from envs import decode_env


def config(**changes):
    settings = {"cameras": ["front", "wrist"], "image_size": 48, "render": "fast", "max_steps": 300}
    return decode_env({"name": "so101"} | settings | changes)
