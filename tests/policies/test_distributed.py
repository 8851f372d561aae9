"""Processes that share a batch compute what one process computes with all of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from released import save_llava_pythia
from safetensors.torch import load_file
from test_training_loop import curve
from tiny import tiny_policy

from policies.data import TrainingData, cache_frames
from tinyvla.augment import AugmentConfig, augment_images
from tinyvla.training.checkpoint import last_step, read_last_state
from tinyvla.training.distributed import DrawsOfWholeBatch

ROOT = Path(__file__).parents[2]
# Not `accelerate launch`, which starts several processes on accelerators only.
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
WEIGHTS = "checkpoints/last/pretrained_model/model.safetensors"
STRENGTHS = AugmentConfig(shift=4, brightness=0.2, contrast=0.2, saturation=0.2)


@pytest.mark.parametrize("frames", [(), (2,)])
def test_parts_of_a_batch_are_augmented_as_in_the_whole(frames):
    images = torch.rand(12, *frames, 3, 16, 16)
    whole = augment_images(images, STRENGTHS, torch.Generator().manual_seed(1))
    batch_parts = [
        augment_images(part, STRENGTHS, torch.Generator().manual_seed(1), (index, 3))
        for index, part in enumerate(images.chunk(3))
    ]
    torch.testing.assert_close(torch.cat(batch_parts), whole)
    assert not torch.equal(whole, images)


def test_parts_of_a_batch_draw_the_noise_of_the_whole():
    def draw(samples):
        x = torch.ones(samples, 5)
        torch.manual_seed(2)
        return [
            *(torch.randn_like(x), torch.rand_like(x), F.dropout(x, 0.5), torch.nn.Dropout(0.3)(x)),
            *(torch.randn(samples, 3), torch.rand((samples,)), torch.randn(size=(2 * samples, 2))),
            *(
                torch.randint(9, (samples,)),
                torch.randint(low=2, high=7, size=(samples, 2)),
                torch.randint(2, 7, (samples,)),
            ),
        ]

    whole, batch_parts = draw(8), []
    for index in range(2):
        with DrawsOfWholeBatch(4, index, 2):
            batch_parts.append(draw(4))
    for number, values in enumerate(whole):
        torch.testing.assert_close(torch.cat([part[number] for part in batch_parts]), values, rtol=0, atol=0)


@pytest.mark.parametrize("decoder", ["diffusion", "flow"])
def test_gradients_of_parts_add_up_to_that_of_the_whole(decoder, dataset):
    policy, preprocess, _ = tiny_policy(dataset, "tinyvla", f"decoder={decoder}", "decoder.noise_repeats=2")
    data = TrainingData(dataset, policy.config, cache_frames(dataset, 0))
    samples = torch.tensor([0, 19, 18, 40, 43, 70, 96, 98])  # some reach past their episode's end

    def gradient(batch, scale):
        policy.zero_grad()
        torch.manual_seed(3)
        (policy.forward(batch)[0] * scale).backward()
        return torch.cat([parameter.grad.flatten() for parameter in policy.parameters()])

    whole = preprocess(data.batch(samples))
    expected = gradient(whole, 1.0)
    total, added = policy.loss_weight(whole), 0.0
    for index, part in enumerate(samples.chunk(2)):
        batch = preprocess(data.batch(part))
        with DrawsOfWholeBatch(len(part), index, 2):
            added += gradient(batch, policy.loss_weight(batch) / total)
    torch.testing.assert_close(added, expected, rtol=1e-4, atol=1e-6)


SETTINGS = [
    *("preset=cpu", "backbone.image_size=32", "policy.chunk_size=8", "policy.n_action_steps=4"),
    "decoder.noise_repeats=2",
    *("decoder.network.widths=[16,32]", "decoder.network.step_embedding=16", "trainer.steps=20", "trainer.log_every=1"),
    *("trainer.bf16=false", "trainer.num_threads=1", "trainer.save_every=0", "trainer.validate_every=0"),
    *("eval.episodes=0", "logger=none", "device=cpu"),
]


def assert_close(run, other):
    """Two runs have the same curve and weights but for the order in which numbers are added up.

    Adam makes whole steps of 1e-3 of gradients that are next to nothing, and so of their rounding: other noise would
    show as 1e-2.
    """
    for ours, theirs in zip(curve(run), curve(other), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)
    ours, theirs = (load_file(folder / WEIGHTS) for folder in (run, other))
    assert ours.keys() == theirs.keys()
    # The normalisation behind this bias takes it out again, so that its gradient is nothing but rounding.
    without_effect = "model.backbone.vision_tower.stem.3.bias"
    for name, weight in ours.items():
        if name == without_effect:
            continue
        torch.testing.assert_close(
            weight, theirs[name], rtol=1e-3, atol=3e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def train(*command, **environment):
    result = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=500
    )
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_train_as_one_does_with_the_same_batch(dataset_root, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    settings = [*SETTINGS, f"dataset.root={dataset_root}"]
    train("train.py", *settings, "trainer.batch_size=8", f"run_dir={one}")
    train(*LAUNCH, "train.py", *settings, "trainer.batch_size=4", f"run_dir={two}")
    assert len(curve(one)) == 20
    assert_close(two, one)
    cores = tmp_path / "cores"
    settings.append("device=auto")  # a CPU here, for which processes have to be asked for
    arguments = ["trainer.batch_size=8", "trainer.processes=2", f"run_dir={cores}"]
    train("train.py", *settings, *arguments, CUDA_VISIBLE_DEVICES="")
    assert_close(cores, one)


@pytest.mark.slow
def test_a_sharded_run_is_the_same_and_resumes_sharded_or_not(dataset_root, tmp_path):
    """FSDP as docs/fsdp.yaml sets it up, on two CPU processes."""
    save_llava_pythia(tmp_path / "hub")
    script = str(ROOT / "tests/policies/fsdp_on_cpu.py")
    paths = {"PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in (".", "tests"))}

    def run(name, sharded, stop=0):
        settings = ["trainer.validate_every=0", "trainer.log_every=1", "trainer.save_every=0", "trainer.steps=8"]
        settings += [f"trainer.batch_size={4 if sharded else 8}", f"run_dir={tmp_path / name}"]
        arguments = ["sharded" if sharded else "whole", stop, tmp_path / "hub", dataset_root, *settings]
        train(*(LAUNCH if sharded else []), script, *map(str, arguments), **paths)

    run("one", sharded=False)
    run("stopped", sharded=True, stop=3)
    assert last_step(tmp_path / "stopped") == 4
    shutil.copytree(tmp_path / "stopped", tmp_path / "merged", symlinks=True)
    run("stopped", sharded=True)
    run("merged", sharded=False)
    for name in ("stopped", "merged"):
        assert_close(tmp_path / name, tmp_path / "one")
        assert read_last_state(tmp_path / name)["step"] == 8
