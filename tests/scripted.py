"""Policies without weights whose action chunks a test writes by hand."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from lerobot.policies.rtc import RTCProcessor
from lerobot.utils.constants import OBS_STATE


class Script:
    """A policy without images: `predict(step)` is its chunk (H, 1) for what it sees at a step."""

    def __init__(self, predict, interval=8, n_obs_steps=1):
        self.config = SimpleNamespace(n_obs_steps=n_obs_steps, n_action_steps=interval, image_features={}, device="cpu")
        self.predict = predict
        self.calls = []

    def reset(self):
        pass

    def supports_rtc(self):
        return False

    def predict_action_chunk(self, batch):
        self.calls.append(int(batch[OBS_STATE][0]))
        return torch.as_tensor(self.predict(self.calls[-1]), dtype=torch.float32).reshape(1, -1, 1)


class SoftlyGuided(Script):
    """Policy that follows the previous chunk under LeRobot's soft mask, and else has its own way."""

    def supports_rtc(self):
        return True

    def predict_action_chunk(self, batch, inference_delay=0, prev_chunk_left_over=None, execution_horizon=None):
        chunk = super().predict_action_chunk(batch)
        if prev_chunk_left_over is None:
            return chunk
        length = chunk.shape[1]
        mask = RTCProcessor(self.config.rtc_config).get_prefix_weights(inference_delay, execution_horizon, length)
        previous = F.pad(prev_chunk_left_over, (0, 0, 0, length - prev_chunk_left_over.shape[1]))
        return torch.lerp(chunk, previous, mask[None, :, None])


def unchanged(value):
    """Pipeline that normalises nothing."""
    return value


def seen(step):
    """Observation of a control step."""
    return {OBS_STATE: [step], "task": ""}
