"""Simulators, demonstrations, rollouts and reports."""

from typing import TYPE_CHECKING, Any

from .registry import decode_env, make_env, resolve_tasks

if TYPE_CHECKING:
    from .evaluation import evaluate

__all__ = ["decode_env", "evaluate", "make_env", "resolve_tasks"]


def __getattr__(name: str) -> Any:
    """`envs.evaluate`, which loads policies and torch only when it is used."""
    if name == "evaluate":
        from .evaluation import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
