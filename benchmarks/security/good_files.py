"""Good files of every kind that a user's command reads, and the commands that read them.

An original is a folder in which a command works; `targets` are what a stranger may have made, or a mistake damaged.
"""

import contextlib
import json
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gymnasium
import numpy as np
import torch

import envs.demos.collect
import envs.demos.dataset
import envs.evaluation
import envs.scenes.image_store
import tinyvla_scripts.collect
import tinyvla_scripts.evaluate
import tinyvla_scripts.export
import tinyvla_scripts.perceive
import tinyvla_scripts.train
import tinyvla_scripts.vision_task  # so that a fork need not import it
from envs.eval_results import Job, summarise
from envs.rollout import Rollout, write_video
from tinyvla.errors import UserError
from tinyvla.files import write_whole
from tinyvla.frontends.wake import Wake

from .interrupted_work import InThisProcess

platform.processor()  # starts a program once in a process
CAMERA, SIZE, FPS = "corner2", 32, 20
LENGTHS = (12, 14)  # frames of the episodes
POLICIES = {  # settings that make every policy small
    "tinyvla": [
        *("decoder.network.widths=[16,32]", "decoder.network.step_embedding=16", "backbone.vision_width=16"),
        *("backbone.image_size=32", "backbone.keypoints=8", "backbone.hidden_size=32"),
        *("policy.chunk_size=8", "policy.n_action_steps=4", "backbone.vocab_size=256"),
    ],
    "act": [
        *("policy.dim_model=32", "policy.n_heads=2", "policy.dim_feedforward=32"),
        *("policy.chunk_size=8", "policy.n_action_steps=4"),
    ],
    "diffusion": [
        *("policy.resize_shape=null", "policy.crop_shape=[28,28]", "policy.down_dims=[16,32]"),
        *("policy.num_inference_steps=2", "policy.n_obs_steps=2", "policy.n_action_steps=4"),
        "policy.drop_n_last_frames=7",
    ],
    "smolvla": [
        *("policy.resize_imgs_with_padding=[32,32]", "policy.num_vlm_layers=2", "policy.num_steps=2"),
        *("policy.chunk_size=8", "policy.n_action_steps=4"),
    ],
    "vqbet": [
        *("policy.crop_shape=[28,28]", "policy.gpt_input_dim=32", "policy.gpt_output_dim=32"),
        *("policy.gpt_hidden_dim=32", "policy.gpt_n_layer=1", "policy.vqvae_enc_hidden_dim=16"),
        *("policy.n_obs_steps=2", "policy.action_chunk_size=4", "policy.n_vqvae_training_steps=1"),
    ],
    "multi_task_dit": [
        *("policy.image_resize_shape=[84,84]", "policy.hidden_dim=32", "policy.num_layers=1", "policy.num_heads=2"),
        *("policy.num_inference_steps=2", "policy.n_obs_steps=2", "policy.n_action_steps=4"),
    ],
}
TRAIN = [
    *("preset=cpu", "device=cpu", "trainer.batch_size=4", "trainer.bf16=false", "trainer.num_threads=1", "logger=none"),
    *("trainer.log_every=1", "trainer.save_every=0", "workers=1", "eval.workers=1", "run_dir=run"),
]
EVALUATE = [
    *("env=metaworld", "env.tasks=[reach-v3]", f"env.cameras=[{CAMERA}]", f"env.image_size={SIZE}"),
    *("workers=1", "device=cpu"),
]


@dataclass(frozen=True)
class Original:
    """A folder with good files, and a command that reads them.

    Args:
        name: of the folder.
        write: makes the files in the present folder.
        read: the command, in the present folder.
        targets: files and folders that are mutated.
        keeps: folders that a command which ends with an error must leave as they were.
    """

    name: str
    write: Callable[[], Any]
    read: Callable[[], Any]
    targets: tuple[str, ...]
    keeps: tuple[str, ...] = (".",)


def entry_point(name: str, *arguments: str) -> None:
    """Run an entry point in this process, with the work of its worker processes."""
    sys.argv = [f"{name}.py", *arguments]
    main: Any = getattr(tinyvla_scripts, name).main
    with ExitStack() as stack:
        for module in (envs.evaluation, envs.demos.collect, envs.demos.dataset, envs.scenes.image_store):
            stack.enter_context(patch.object(module, "worker_pool", InThisProcess))
        for module in (envs.evaluation, envs.demos.collect, envs.demos.dataset):
            if hasattr(module, "count_cores"):
                stack.enter_context(patch.object(module, "count_cores", lambda: 1))
        stack.enter_context(patch("policies.training.trainable.count_cores", lambda: 0))  # frames are decoded here
        main()


# Policies


def write_dataset(root: Path, video: bool = False) -> None:
    """A LeRobotDataset of two episodes: two tasks, a camera, state and action of Meta-World's sizes."""
    from lerobot.datasets import LeRobotDataset

    image = {"dtype": "video" if video else "image", "shape": (SIZE, SIZE, 3), "names": ["height", "width", "channels"]}
    vector = {"dtype": "float32", "shape": (4,), "names": ["x", "y", "z", "gripper"]}
    features = {f"observation.images.{CAMERA}": image, "observation.state": vector, "action": vector}
    dataset = LeRobotDataset.create("local/data", FPS, features, root=root, video_backend="pyav")
    rng = np.random.default_rng(0)
    for episode, length in enumerate(LENGTHS):
        for _ in range(length):
            values = {name: rng.normal(0, 1, 4).astype(np.float32) for name in ("observation.state", "action")}
            image_array = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
            task = ("open the drawer", "press the red button")[episode]
            dataset.add_frame({f"observation.images.{CAMERA}": image_array, **values, "task": task})
        dataset.save_episode()
    dataset.finalize()


def train(policy: str, *settings: str) -> None:
    """Train for two steps on the dataset `data/set`; every validation scores 0.5."""
    settings_of_policy = [f"policy={policy}", "dataset.root=data/set", *POLICIES[policy], *TRAIN, "eval.episodes=0"]
    with patch.object(envs.evaluation, "validator", lambda *_: lambda folder: {"success_rate": 0.5}):
        entry_point("train", *settings_of_policy, "trainer.steps=2", "trainer.validate_every=2", *settings)


def train_a_step(*settings: str) -> None:
    """train.py until its first checkpoint would be written."""
    with patch("tinyvla.training.loop.CheckpointWriter", side_effect=SystemExit(0)):
        train("tinyvla", "trainer.steps=1", *settings)


def write_checkpoint(policy: str, *settings: str) -> None:
    """A trained policy as `checkpoint`."""
    write_dataset(Path("data/set"))
    train(policy, *settings)
    Path("run/checkpoints/000002/pretrained_model").rename("checkpoint")


def write_seeing_checkpoint() -> None:
    """A trained policy with a front-end as `checkpoint`."""
    write_wake(Path("wake"))
    write_checkpoint("tinyvla", "frontend=wake", "frontend.wake.checkpoint=wake")


class _Env:
    """The spaces of Meta-World, without its simulator."""

    observation_space = gymnasium.spaces.Dict(
        {
            f"observation.images.{CAMERA}": gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
            "observation.state": gymnasium.spaces.Box(-10, 10, (4,), np.float32),
        }
    )
    action_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)

    def close(self) -> None:
        pass


def evaluate(*settings: str) -> None:
    """evaluate.py until a policy has given its first action."""

    def act(env: _Env, runner: Any, seed: int, *_: Any) -> None:
        runner.reset(seed)
        runner.act({**env.observation_space.sample(), "task": "open the drawer"})
        raise SystemExit(0)

    with (
        patch.object(envs.evaluation, "make_env", lambda *_: _Env()),
        patch.object(envs.evaluation, "roll_out", act),
    ):
        entry_point("evaluate", "run_dir=result", "episodes=1", *EVALUATE, *settings)


def checkpoints() -> Iterator[Original]:
    """Checkpoints of policies, which evaluate.py loads."""

    for policy in POLICIES:
        yield Original(policy, partial(write_checkpoint, policy), CHECKPOINT, ("checkpoint",))
    yield Original("front-end", write_seeing_checkpoint, CHECKPOINT, ("checkpoint",))


CHECKPOINT = partial(evaluate, "checkpoint=checkpoint")


# Datasets


def datasets() -> Iterator[Original]:
    """Datasets, which train.py opens, decodes and trains on; collected ones; and a stream."""

    def original(name: str, video: bool, *settings: str) -> Original:
        return Original(name, partial(write_dataset, Path("data/set"), video), partial(train_a_step, *settings), _SET)

    yield original("images", False)
    yield original("videos", True)
    yield original("stream", False, "trainer.streaming=true")


_SET = ("data/set",)

# Runs


def resume(*settings: str) -> None:
    """Train for one more step and evaluate, which gives the stored result; then write the report."""
    result = json.loads(Path("good_eval.json").read_text())

    def write_result(*_: Any) -> dict[str, Any]:
        write_whole(Path("run/eval.json"), json.dumps(result))
        return result

    with (
        patch.object(envs.evaluation, "validator", lambda *_: lambda folder: {"success_rate": 0.5}),
        patch.object(envs.evaluation, "evaluate", write_result),
    ):
        entry_point("train", "run_dir=run", "resume=true", *settings)


def write_run(policy: str) -> None:
    """A run of train.py that has one step to go, an evaluation and a film in it."""
    write_dataset(Path("data/set"))
    train(policy)
    config = Path("run/config.yaml")
    config.write_text(
        config.read_text().replace("  steps: 2\n", "  steps: 3\n").replace("  episodes: 0\n", "  episodes: 2\n")
    )
    results = {
        Job("reach-v3", "reach-v3", i): Rollout(seed=i, success=i > 0, steps=9, action_ms=np.ones(9)) for i in (0, 1)
    }
    result = {"kind": "policy", **summarise(results), "split": "evaluation", "seed": 0, "shift": None}
    result |= {"checkpoint": "run/checkpoints/best/pretrained_model", "machine": "a machine"}
    for file in ("good_eval.json", "run/eval.json"):
        Path(file).write_text(json.dumps(result, indent=1))
    write_video(Path("run/videos/reach-v3-000-failure.mp4"), [np.zeros((SIZE, SIZE, 3), np.uint8)] * 4)


def evaluate_again() -> None:
    """evaluate.py in the folder of an evaluation that was stopped after its first episode."""
    with patch.object(envs.evaluation, "make_env", lambda *_: _Env()), patch.object(envs.evaluation, "roll_out", _play):
        entry_point("evaluate", "checkpoint=checkpoint", "run_dir=result", *EVALUATE, "episodes=2", "videos=0")


def _play(env: _Env, runner: Any, seed: int, *_: Any) -> Rollout:
    runner.reset(seed)
    runner.act({**env.observation_space.sample(), "task": "open the drawer"})
    return Rollout(seed=seed, success=True, steps=9, action_ms=np.ones(9))


def write_evaluation() -> None:
    write_checkpoint("tinyvla")
    evaluate_again()
    for name in ("eval.json", "report.html", "config.yaml"):
        Path("result", name).unlink()
    journal = Path("result/episodes.jsonl")
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:2]))


def runs() -> Iterator[Original]:
    """Runs of train.py: resumed, evaluated."""
    run, write = ("run",), partial(write_run, "tinyvla")
    yield Original("resume", write, resume, run)
    yield Original("resume act", partial(write_run, "act"), resume, run)
    yield Original("evaluate run", write, partial(evaluate, "checkpoint=run"), run)
    yield Original("evaluate again", write_evaluation, evaluate_again, ("result",))


# Caches


def retrain(*settings: str) -> None:
    """A new run on the dataset whose frames, and front-end's features, are kept."""
    train_a_step("frontend=wake", "frontend.wake.checkpoint=wake", *settings)


def write_caches() -> None:
    write_dataset(Path("data/set"))
    write_wake(Path("wake"))
    with contextlib.suppress(SystemExit):
        retrain("run_dir=first")


def write_wake(folder: Path) -> None:
    """A front-end of a few thousand weights."""
    torch.manual_seed(0)
    Wake(width=0.25, image_size=48).save(folder)


def collect() -> None:
    """collect.py for a dataset that is there."""
    small = ["env=metaworld", "env.tasks=[drawer-close-v3]", f"env.image_size={SIZE}", f"env.cameras=[{CAMERA}]"]
    entry_point("collect", *small, "env.max_steps=120", "episodes=1", "seed=0", "workers=1", "data_dir=data")


@contextmanager
def as_command() -> Iterator[None]:
    """Block that a UserError ends as it ends a command."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def draw_images() -> None:
    """Labelled images of an image store."""
    with as_command(), patch.object(envs.scenes.image_store, "worker_pool", InThisProcess):
        envs.scenes.image_store.open_labelled_images("room", "test", 1, SIZE, data_dir=Path("data"), workers=1)


def caches() -> Iterator[Original]:
    """Files beside a dataset that this stack has computed itself: broken ones are computed again."""
    yield Original("frames", write_caches, retrain, ("data/frames",))
    yield Original("features", write_caches, retrain, ("data/features",))
    yield Original("collection", collect, collect, ("data",))
    yield Original("images", draw_images, draw_images, ("data/scenes",))
