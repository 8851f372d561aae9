"""Trainables of vision tasks from the options of a configuration."""

from collections.abc import Mapping
from typing import Any

from tinyvla.decoding import decode_section
from tinyvla.frontends.training import VisionTrainable, decode_task, make_trainable
from tinyvla.training import TrainerConfig


def trainable_of(options: Mapping[str, Any], data: Mapping[str, Any], seed: int = 0) -> VisionTrainable:
    """Trainable of a task's options, of which `trainer` are those of the training loop."""
    task = {name: value for name, value in options.items() if name != "trainer"}
    return make_trainable(decode_task(task), data, trainer_of(options), seed)


def trainer_of(options: Mapping[str, Any]) -> TrainerConfig:
    """Settings of the training loop among a task's options."""
    return decode_section(TrainerConfig, options["trainer"], "trainer")
