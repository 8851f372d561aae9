"""Runtimes of a trained TinyVLA policy: the sampler of its chunks, and the engine that computes them."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy

from tinyvla.decoders import DiffusionConfig
from tinyvla.decoding import decode_section
from tinyvla.errors import UserError, one_line
from tinyvla.inference.eager import compile_chunks, quantise, to_bfloat16
from tinyvla.training.device import computes_bf16

from .runner import RunnerConfig
from .tinyvla.configuration_tinyvla import TinyVLAConfig
from .tinyvla.modeling_tinyvla import TinyVLAPolicy


def adapt_policy(
    policy: PreTrainedPolicy, runtime: str = "torch", scheduler: str | None = None, inference_steps: int | None = None
) -> None:
    """Change the sampler or the engine of a trained policy, in place.

    Args:
        policy: as loaded.
        runtime: one of `policies.runner.RUNTIMES`. `torch` computes as in training. `compile`: encoder and denoising
            step through PyTorch's compiler. `bf16`: weights in bfloat16. `int8`: linear layers in int8 (torchao), and
            compiled, because they are slow otherwise. `onnx`, `openvino`: exported and run by that engine on the CPU.
        scheduler: class name of another diffusers scheduler, used with its default arguments.
        inference_steps: denoising steps per chunk.

    Raises UserError if this policy or this machine does not support it.
    """
    options = {"runtime": runtime, "scheduler": scheduler, "inference_steps": inference_steps}
    changes = decode_section(RunnerConfig, options, "runner")
    check_sampler(policy.config, changes)
    if isinstance(policy, TinyVLAPolicy):
        if scheduler is not None or inference_steps is not None:
            _change_sampler(policy, changes)
        _START[runtime](policy)


def use_horizon(policy: PreTrainedPolicy, n_action_steps: int | None) -> None:
    """Execute another number of actions of each chunk, in place; None: as before."""
    if n_action_steps is not None:
        check_horizon(policy.config, n_action_steps)
        policy.config.n_action_steps = n_action_steps
        policy.reset()  # the queue of actions has that length


def check_horizon(config: Any, n_action_steps: int | None) -> None:
    """Raise UserError unless a policy of this configuration can execute that many actions of a chunk."""
    if n_action_steps is None:
        return
    longest = getattr(config, "chunk_size", None) or getattr(config, "horizon", 0) - config.n_obs_steps + 1
    if not hasattr(config, "n_action_steps"):
        raise UserError(f"policy '{config.type}' has a fixed execution horizon; leave runner.n_action_steps out")
    if not 1 <= n_action_steps <= longest:
        raise UserError(f"runner.n_action_steps={n_action_steps} does not fit; use 1 to {longest}")
    if getattr(config, "temporal_ensemble_coeff", None) is not None and n_action_steps > 1:
        raise UserError(
            "a policy with temporal ensembling predicts a chunk every step; leave out runner.n_action_steps"
        )


def check_sampler(config: PreTrainedConfig, runner: RunnerConfig) -> None:
    """Raise UserError unless a policy can be run with a runner's sampler and engine, as far as shows without weights.

    config: of the policy, with the device that it will run on.
    """
    check_horizon(config, runner.n_action_steps)
    if (runner.runtime, runner.scheduler, runner.inference_steps) == ("torch", None, None):
        return
    if not isinstance(config, TinyVLAConfig):
        raise UserError(
            f"runner.runtime, runner.scheduler and runner.inference_steps are for TinyVLA policies, and this one has "
            f"type '{config.type}'; leave them out"
        )
    if config.frontend and runner.runtime != "torch":
        raise UserError(
            f"a policy with front-ends runs as it was trained, not with runner.runtime={runner.runtime}; leave it out"
        )
    if runner.runtime == "bf16" and not computes_bf16(str(config.device)):
        raise UserError("this processor does not compute in bfloat16; use runner.runtime=torch or onnx")
    if runner.runtime == "int8" and torch.device(str(config.device)).type != "cpu":
        raise UserError("runner.runtime=int8 is for the CPU; add device=cpu")
    with _one_line_faults():
        _decoder_config(config.decoder, runner)


def _decoder_config(decoder: Any, runner: RunnerConfig) -> Any:
    """Configuration of a policy's decoder with a runner's sampler. Raises ValueError if it cannot be sampled so."""
    changes: dict[str, Any] = {} if runner.inference_steps is None else {"inference_steps": runner.inference_steps}
    if runner.scheduler is not None:
        if not isinstance(decoder, DiffusionConfig):
            raise UserError("a flow decoder has no noise scheduler; leave runner.scheduler out")
        if runner.scheduler != decoder.scheduler:
            changes |= {"scheduler": runner.scheduler, "scheduler_kwargs": {}}
    return replace(decoder, **changes)


@torch.no_grad()
def _change_sampler(policy: TinyVLAPolicy, runner: RunnerConfig) -> None:
    decoder: Any = policy.model.decoder
    with _one_line_faults():
        decoder.use_sampler(_decoder_config(decoder.config, runner))
        condition = torch.zeros(1, policy.model.backbone.hidden_size, device=policy.config.device)
        chunk = decoder.denoise(condition, torch.zeros(1, *policy.model.chunk_shape, device=policy.config.device))
        if not chunk.isfinite().all():
            raise ValueError("its output is not finite")
    policy.config.decoder = decoder.config


@contextlib.contextmanager
def _one_line_faults() -> Iterator[None]:
    """Turn the errors of unsuitable samplers into a UserError."""
    try:
        yield
    except (ValueError, TypeError, IndexError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"the policy cannot be sampled so: {one_line(error, None)}; "
            "change runner.scheduler or runner.inference_steps"
        ) from error


def _compile(policy: TinyVLAPolicy) -> None:
    compile_chunks(policy.model)
    _warm_up(policy)


def _bf16(policy: TinyVLAPolicy) -> None:
    to_bfloat16(policy.model)


def _int8(policy: TinyVLAPolicy) -> None:
    quantise(policy.model)
    _compile(policy)


def _session(engine: str) -> Callable[[TinyVLAPolicy], None]:
    def start(policy: TinyVLAPolicy) -> None:
        from tinyvla.inference.session_model import SessionModel  # seconds to import

        policy.model = cast(Any, SessionModel(policy.model, engine, *input_sizes(policy)))

    return start


_START: dict[str, Callable[[TinyVLAPolicy], None]] = {
    "torch": lambda policy: None,
    "compile": _compile,
    "bf16": _bf16,
    "int8": _int8,
    "onnx": _session("onnx"),
    "openvino": _session("openvino"),
}


def input_sizes(policy: TinyVLAPolicy) -> tuple[int, tuple[int, int], int]:
    """Number of cameras, height and width of their images, and size of the state."""
    height, width = next(iter(policy.config.image_features.values())).shape[1:]
    assert policy.config.robot_state_feature is not None
    return len(policy.cameras), (height, width), policy.config.robot_state_feature.shape[0]


@torch.inference_mode()
def _warm_up(policy: TinyVLAPolicy) -> None:
    """Compile now, not at the first action of an episode."""
    cameras, image_size, state_dim = input_sizes(policy)
    device = policy.config.device
    images, state = torch.zeros(1, cameras, 3, *image_size, device=device), torch.zeros(1, state_dim, device=device)
    for _ in range(3):  # CUDA graphs are recorded in the second run
        policy.model.sample(
            images, ["press the red button"], state, torch.zeros(1, *policy.model.chunk_shape, device=device)
        )
