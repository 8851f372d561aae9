"""Policies that can be trained and run, behind one interface: TinyVLA and LeRobot's own.

Names are imported when they are first used, because LeRobot and its libraries take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .asynchronous import AsynchronousRunner
    from .checkpoints import (
        feature_names,
        find_checkpoint,
        load_checkpoint,
        load_pipelines,
        recorded_fps,
        save_checkpoint_files,
    )
    from .factory import Pipeline, check_policy, decode_policy_config, make_policy, make_processors
    from .loading import load_policy, load_runner
    from .runner import PolicyRunner, Runner, RunnerConfig

_MODULES = {
    "asynchronous": ["AsynchronousRunner"],
    "checkpoints": [
        "feature_names",
        "find_checkpoint",
        "load_checkpoint",
        "load_pipelines",
        "recorded_fps",
        "save_checkpoint_files",
    ],
    "factory": ["Pipeline", "check_policy", "decode_policy_config", "make_policy", "make_processors"],
    "loading": ["load_policy", "load_runner"],
    "runner": ["PolicyRunner", "Runner", "RunnerConfig"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AsynchronousRunner",
    "Pipeline",
    "PolicyRunner",
    "Runner",
    "RunnerConfig",
    "check_policy",
    "decode_policy_config",
    "feature_names",
    "find_checkpoint",
    "load_checkpoint",
    "load_pipelines",
    "load_policy",
    "load_runner",
    "make_policy",
    "make_processors",
    "recorded_fps",
    "save_checkpoint_files",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
