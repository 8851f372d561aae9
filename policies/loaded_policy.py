"""Policies for use in a program: load a checkpoint, then act on observations."""

from pathlib import Path
from typing import Any

from .runner import PolicyRunner


def load_policy(checkpoint: Path | str, device: str | None = None, **options: Any) -> PolicyRunner:
    """Policy of a checkpoint, ready to act.

        policy = load_policy("outputs/run")
        policy.reset(seed=0)
        action = policy.act(
            {"observation.images.corner2": image, "observation.state": state, "task": "open the drawer"}
        )

    Images are uint8 (H, W, 3), the state is float (S,), and the action is float32 (A,) in the units of the dataset that
    the policy was trained on. `reset` begins an episode. `envs.evaluate` measures the success rate of a policy.

    Args:
        checkpoint: a run folder of train.py (its best checkpoint), or a folder with `config.json` and weights.
        device: such as "cpu" or "cuda:1"; None: the fastest one of this machine.
        options: `runtime`, `scheduler`, `inference_steps` as in `policies.runtimes.adapt_policy`; `asynchronous=True`
            and `latency_steps` for a `policies.AsynchronousRunner`.

    Raises UserError if there is no checkpoint, or if it is damaged or of an unknown policy.
    """
    return PolicyRunner.from_checkpoint(checkpoint, device, **options)
