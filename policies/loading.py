"""Policies for use in a program: load a checkpoint, then act on observations."""

from pathlib import Path
from typing import Any

from tinyvla.decoding import decode_section

from .asynchronous import AsynchronousRunner
from .checkpoints import find_checkpoint, load_checkpoint, recorded_fps
from .runner import PolicyRunner, Runner, RunnerConfig
from .runtimes import adapt_policy, use_horizon


def load_policy(checkpoint: Path | str, device: str | None = None, **options: Any) -> Runner:
    """Policy of a checkpoint, ready to act.

        policy = load_policy("outputs/run")
        policy.reset(seed=0)
        action = policy.act(
            {"observation.images.corner2": image, "observation.state": state, "task": "open the drawer"}
        )

    Images are uint8 (H, W, 3) of any size, the state is float (S,), and the action is float32 (A,) in the units of the
    dataset that the policy was trained on. `reset` begins an episode. `envs.evaluate` measures a policy's success rate.

    Args:
        checkpoint: a run folder of train.py (its best checkpoint), or a folder with `config.json` and weights.
        device: such as "cpu" or "cuda:1"; None: the fastest one of this machine.
        options: fields of `policies.RunnerConfig`, such as `asynchronous=True` or `runtime="onnx"`.

    Raises UserError if there is no checkpoint, or if it is damaged or of an unknown policy.
    """
    return load_runner(checkpoint, device, decode_section(RunnerConfig, options, "runner"))


def load_runner(checkpoint: Path | str, device: str | None = None, config: RunnerConfig | None = None) -> Runner:
    """As `load_policy`, with typed settings; None: the default ones."""
    config = config or RunnerConfig()
    policy, preprocessor, postprocessor = load_checkpoint(checkpoint, device)
    adapt_policy(policy, config.runtime, config.scheduler, config.inference_steps)
    use_horizon(policy, config.n_action_steps)
    runner: Runner
    if config.asynchronous:
        runner = AsynchronousRunner(policy, preprocessor, postprocessor, config.latency_steps)
    else:
        runner = PolicyRunner(policy, preprocessor, postprocessor)
    runner.checkpoint, runner.fps = find_checkpoint(checkpoint), recorded_fps(checkpoint)
    return runner
