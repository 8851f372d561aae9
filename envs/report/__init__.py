"""Report of a run: a table for the terminal and a self-contained page."""

from .page import run_videos, write_report
from .text import describe

__all__ = ["describe", "run_videos", "write_report"]
