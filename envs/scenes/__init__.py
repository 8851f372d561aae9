"""Labelled pictures from simulation: tables with objects, rooms with and without people."""

from .store import Scenes, open_scenes

__all__ = ["Scenes", "open_scenes"]
