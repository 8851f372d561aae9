"""Report of a run: a table for the terminal and a self-contained page."""

from .page import write_report
from .text import describe

__all__ = ["describe", "write_report"]
