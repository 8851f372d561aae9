"""Every door, in the order of the table; see `doors`."""

from . import doors_of_checkpoints, doors_of_models, doors_of_runs, doors_of_server
from .doors import Door


def all_doors() -> list[Door]:
    modules = (doors_of_checkpoints, doors_of_models, doors_of_runs, doors_of_server)
    return [door for module in modules for door in module.doors()]
