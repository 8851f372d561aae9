"""Labelled pictures from simulation: tables with objects, rooms with and without people."""

from .store import Scenes, open_scenes
from .stream import watch_room

__all__ = ["Scenes", "open_scenes", "watch_room"]
