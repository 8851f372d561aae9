"""An arm that is looked at and never moved."""

from typing import Any

from lerobot.robots import Robot


class Unmoved:
    """Stands in for a connected arm in a dry run: what would be sent to it goes nowhere."""

    def __init__(self, arm: Robot) -> None:
        self._arm = arm

    def get_observation(self) -> dict[str, Any]:
        return self._arm.get_observation()

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        return action
