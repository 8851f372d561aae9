"""Every door, in the order of the table; see `doors`."""

from . import doors_of_checkpoints, doors_of_models, doors_of_runs
from .doors import Door


def all_doors() -> list[Door]:
    return [*doors_of_checkpoints.doors(), *doors_of_models.doors(), *doors_of_runs.doors()]
