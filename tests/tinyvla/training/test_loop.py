"""Arithmetic of the training loop, by hand: clipped gradients, decay and averages of weights as the settings say."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tinyvla.training import Tracker, Trainable, TrainerConfig, fit, make_accelerator, read_metrics

RATE = 0.1


class Slope(nn.Module):
    """A loss with the same gradient wherever its weights are; its bias has none."""

    def __init__(self):
        super().__init__()
        self.weights, self.bias = nn.Parameter(torch.ones(1, 2)), nn.Parameter(torch.ones(1))

    def forward(self, batch):
        return (self.weights @ batch["gradient"] + 0 * self.bias).sum() + 100, None


class Descent(Trainable):
    """Plain gradient descent on a slope, so that every step can be computed by hand."""

    def __init__(self, gradient):
        self.module, self.gradient = Slope(), torch.tensor(gradient)

    def batch(self, step):
        return {"gradient": self.gradient}

    def make_optimizer(self, lr, weight_decay):
        return torch.optim.SGD(self.module.parameters(), lr=lr, weight_decay=weight_decay)

    def save(self, folder, weights=None):
        folder.mkdir()
        save_file(self.module.state_dict(), folder / "weights.safetensors")


class AdamDescent(Descent):
    make_optimizer = Trainable.make_optimizer


def train(run_dir, trainable, validate=None, **settings):
    trainer = TrainerConfig(lr=RATE, warmup_ratio=0, num_threads=1, log_every=1, **settings)
    with Tracker(run_dir, {"wandb": {"mode": "disabled"}}) as tracker:
        fit(trainable, trainer, run_dir, 0, make_accelerator("cpu", False), tracker, validate)
    return trainable.module


@pytest.mark.parametrize(("grad_clip", "step"), [(1.0, [0.6, 0.8]), (2.5, [1.5, 2.0]), (10.0, [3.0, 4.0])])
def test_a_long_gradient_is_shortened_and_a_short_one_is_not(grad_clip, step, tmp_path):
    module = train(tmp_path, Descent([3.0, 4.0]), steps=1, grad_clip=grad_clip)
    torch.testing.assert_close(module.weights.data, 1 - RATE * torch.tensor([step]))
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["train/grad_norm"] == pytest.approx(5)  # as it was


def test_matrices_decay_and_vectors_do_not(tmp_path):
    module = train(tmp_path, AdamDescent([0.0, 0.0]), steps=1, weight_decay=0.5)
    torch.testing.assert_close(module.weights.data, torch.full((1, 2), 1 - RATE * 0.5))
    assert module.bias.item() == 1


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.6])
def test_a_checkpoint_has_the_average_with_the_decay_of_the_settings(decay, tmp_path):
    """Half-way, when the lower decays of the first steps are forgotten."""
    steps, averages = 80, []

    def validate(folder):
        averages.append(load_file(folder / "weights.safetensors")["weights"][0, 0].item())
        return {"score": 0.0}

    gradient = 0.5
    train(tmp_path, Descent([gradient, 0.0]), validate, steps=steps, validate_every=steps // 2, ema_decay=decay)
    weight = average = 1.0
    for step in range(steps // 2):
        weight -= RATE * (1 + math.cos(math.pi * step / steps)) / 2 * gradient
        average = decay * average + (1 - decay) * weight
    assert averages[0] == pytest.approx(average, abs=1e-5)
