"""Simulators, demonstrations, rollouts and reports."""

from .registry import make_env, resolve_tasks

__all__ = ["make_env", "resolve_tasks"]
