"""What can be trained and run, behind one interface: TinyVLA and LeRobot's own policies."""

from .asynchronous import AsynchronousRunner
from .factory import (
    Pipeline,
    check_policy,
    decode_policy_config,
    feature_names,
    find_checkpoint,
    load_checkpoint,
    make_policy,
    make_processors,
    save_checkpoint_files,
)
from .loaded_policy import load_policy
from .runner import PolicyRunner

__all__ = [
    "AsynchronousRunner",
    "Pipeline",
    "PolicyRunner",
    "check_policy",
    "decode_policy_config",
    "feature_names",
    "find_checkpoint",
    "load_checkpoint",
    "load_policy",
    "make_policy",
    "make_processors",
    "save_checkpoint_files",
]
