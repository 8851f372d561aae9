"""Several environments at once, each in a worker process with a GL context of its own."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gymnasium.vector import AsyncVectorEnv

from .registry import make_env
from .workers import one_core_each


def make_vector_env(env_cfg: Mapping[str, Any], tasks: Sequence[str]) -> AsyncVectorEnv:
    """One environment in a process of its own for every entry of `tasks`, in which a task may stand several times.

    Observations, rewards and so on are batched in that order; task texts are a tuple. A script that calls this needs
    `if __name__ == "__main__":`, since its worker processes import it afresh.
    """
    with one_core_each():
        # Not through shared memory, in which gymnasium loses texts.
        makers = [partial(make_env, env_cfg, task) for task in tasks]
        return AsyncVectorEnv(makers, shared_memory=False, context="spawn")
