"""Recordings of an arm's runs as LeRobotDatasets, written by a process of their own."""

from .recorder import Recorder

__all__ = ["Recorder"]
