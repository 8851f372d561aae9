"""Small stand-ins that tests train and run: a dataset, a backbone of a few thousand weights."""

from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.datasets import LeRobotDataset
from torch import nn

from configs.composing import as_dict, load_config
from envs import evaluation
from policies import decode_policy_config, make_policy, make_processors, save_checkpoint_files
from policies.tinyvla.modeling_tinyvla import TinyVLAPolicy
from tinyvla.backbones import Backbone, BackboneConfig, Features
from tinyvla.backbones.tokenizer import HashTokenizer
from tinyvla.training.checkpoint import CheckpointWriter

CAMERAS, SIZE, FPS = ("left", "right"), 32, 20
TASKS = ("open the drawer", "press the red button")
LENGTHS = (20, 23, 26, 30)  # frames of the episodes; tasks alternate
SO101_LOW, SO101_HIGH = (-20.0, -70.0, 10.0, 60.0, -20.0, 10.0), (20.0, -20.0, 60.0, 90.0, 30.0, 70.0)


@BackboneConfig.register_subclass("tiny")
@dataclass
class TinyConfig(BackboneConfig):
    """A backbone for tests: a token a camera and a token a word, without any mixing."""

    width: int = 32

    def build(self) -> "TinyBackbone":
        return TinyBackbone(self.width)


class TinyBackbone(Backbone):
    def __init__(self, width):
        super().__init__()
        self.hidden_size = width
        self.tokenizer = HashTokenizer(vocab_size=64)
        self.see = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, width))
        self.words = nn.Embedding(64, width)

    def get_input_embeddings(self):
        return self.words

    def encode(self, images, words):
        image_tokens = self.see(images.flatten(0, 1).to(self.words.weight.dtype)).unflatten(0, images.shape[:2])
        mask = torch.cat([words.mask.new_ones(image_tokens.shape[:2]), words.mask], dim=1)
        return Features(torch.cat([image_tokens, words.embedded.to(image_tokens.dtype)], dim=1), mask)


def write_dataset(root: Path, video: bool = False) -> Path:
    """A LeRobotDataset of four episodes: two tasks, two cameras of 32 pixels, 4-d state and action."""
    image_feature = {
        "dtype": "video" if video else "image",
        "shape": (SIZE, SIZE, 3),
        "names": ["height", "width", "channels"],
    }
    vector = {"dtype": "float32", "shape": (4,), "names": ["x", "y", "z", "gripper"]}
    features = {f"observation.images.{camera}": image_feature for camera in CAMERAS}
    dataset = LeRobotDataset.create(
        f"local/{root.name}",
        FPS,
        features | {"observation.state": vector, "action": vector},
        root=root,
        video_backend="pyav",
    )
    rng = np.random.default_rng(0)
    for episode, length in enumerate(LENGTHS):
        for step in range(length):
            # Images and actions depend on each other and on the task, so that there is something to learn.
            phase = np.float32(step / length)
            state = rng.normal(5, 2, 4).astype(np.float32)
            action = np.array([phase, 1 - phase, episode % 2, rng.random()], np.float32)
            camera_images = rng.integers(0, 80, (2, SIZE, SIZE, 3), dtype=np.uint8)
            camera_images[:, :, : int(phase * SIZE)] += 100 + 50 * (episode % 2)
            frame = {f"observation.images.{camera}": camera_images[i] for i, camera in enumerate(CAMERAS)}
            dataset.add_frame(frame | {"observation.state": state, "action": action, "task": TASKS[episode % 2]})
        dataset.save_episode()
    dataset.finalize()
    return root


# Settings that make every policy small enough for tests. Chunks of 8 actions or more, 4 of which are executed.
SETTINGS = {
    "tinyvla": [
        *("decoder.network.widths=[16,32]", "decoder.network.step_embedding=16"),
        *("policy.chunk_size=8", "policy.n_action_steps=4"),
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
    "vqbet": [
        *("policy.crop_shape=[28,28]", "policy.gpt_input_dim=32", "policy.gpt_output_dim=32"),
        *("policy.gpt_hidden_dim=32", "policy.gpt_n_layer=1", "policy.vqvae_enc_hidden_dim=16"),
        *("policy.n_obs_steps=2", "policy.action_chunk_size=4", "policy.n_vqvae_training_steps=3"),
    ],
    "smolvla": [
        *("policy.resize_imgs_with_padding=[32,32]", "policy.num_vlm_layers=2", "policy.num_steps=2"),
        *("policy.chunk_size=8", "policy.n_action_steps=4"),
    ],
    "multi_task_dit": [
        *("policy.image_resize_shape=[84,84]", "policy.hidden_dim=32", "policy.num_layers=1", "policy.num_heads=2"),
        *("policy.num_inference_steps=2", "policy.n_obs_steps=2", "policy.n_action_steps=4"),
    ],
}


def run_config(policy: str = "tinyvla", *settings: str):
    """The configuration of train.py for a policy small enough for tests."""
    defaults = ["trainer.batch_size=4", "trainer.bf16=false", "trainer.num_threads=1", "wandb.mode=disabled"]
    cfg = load_config("train", [f"policy={policy}", "preset=cpu", *SETTINGS[policy], *defaults, *settings])
    if policy == "tinyvla":
        cfg.policy.backbone = {"type": "tiny"}
    return cfg


def tiny_policy(dataset: LeRobotDataset, policy: str = "tinyvla", *settings: str):
    """A fresh policy with its two pipelines, always the same weights."""
    torch.manual_seed(0)
    config = decode_policy_config(as_dict(run_config(policy, *settings).policy), "cpu")
    fresh_policy = make_policy(config, dataset.meta).eval()
    return fresh_policy, *make_processors(fresh_policy, dataset.meta.stats)


def write_metaworld_policy(folder: Path) -> Path:
    """A fresh policy for Meta-World with one camera of 32 pixels. Worker processes can load it."""
    return _write_fresh_policy(folder, ["corner2"], -torch.ones(4), torch.ones(4), "policy.n_action_steps=4")


def write_so101_policy(folder: Path, low=SO101_LOW, high=SO101_HIGH, cameras=("front", "wrist")) -> Path:
    """A fresh policy for the SO-101 with cameras of 32 pixels, whose actions lie about `low` and `high`."""
    return _write_fresh_policy(folder, cameras, torch.tensor(low), torch.tensor(high), "policy.chunk_size=16")


def _write_fresh_policy(folder, cameras, low, high, *settings):
    settings = ["backbone.image_size=32", *SETTINGS["tinyvla"], *settings]
    config = decode_policy_config(as_dict(load_config("train", settings).policy), "cpu")
    config.input_features = {
        f"observation.images.{camera}": PolicyFeature(FeatureType.VISUAL, (3, 32, 32)) for camera in cameras
    } | {"observation.state": PolicyFeature(FeatureType.STATE, (len(low),))}
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (len(low),))}
    torch.manual_seed(0)
    statistics = {"min": low, "max": high, "mean": (low + high) / 2, "std": (high - low) / 2}
    policy = TinyVLAPolicy(config)
    pipelines = make_processors(policy, {"observation.state": statistics, "action": statistics})
    save_checkpoint_files(policy, *pipelines, folder)
    return folder


def write_checkpoint(run_dir: Path, step: int, is_best: bool = False, during=None) -> None:
    """A run's checkpoint without a policy worth the name; `during(folder)` is called while it is written."""

    def save(folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        if during:
            during(folder)

    with CheckpointWriter(run_dir, step) as checkpoint:
        checkpoint.add_model(save)
        checkpoint.finish({"step": step, "weights": torch.arange(step)}, is_best)


class SerialPool:
    """Stands in for `envs.workers.worker_pool`; like its processes, what it has loaded goes when it ends."""

    def __init__(self, workers, launcher=None):
        assert workers >= 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if "env" in evaluation._WORKER:
            evaluation._WORKER["env"].close()
        evaluation._WORKER.clear()

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    map = staticmethod(map)
