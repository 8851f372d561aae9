"""Report of a run: a table for the terminal and a self-contained page."""

from .offline_page import describe_offline, write_offline_report
from .page import run_videos, write_report
from .text import describe

__all__ = ["describe", "describe_offline", "run_videos", "write_offline_report", "write_report"]
