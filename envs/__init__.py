"""Simulators, demonstrations, rollouts and reports."""

from .registry import decode_env, make_env, resolve_tasks

__all__ = ["decode_env", "make_env", "resolve_tasks"]
