"""An arm in the layer's hands, for tests: time that only ticks, and servos that reach every pose."""

from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from robot_io.safety import ArmState, SafetyLayer, SafetyLimits

CONFIG = Path(__file__).parents[2] / "configs" / "safety" / "so101.yaml"
REST = np.array([0.0, -60.0, 60.0, 60.0, 0.0, 20.0])
TICK = 1 / 30


def make_limits(model=None, **sections):
    """The shipped limits with settings of some sections changed; without a model no geometry is loaded."""
    cfg = OmegaConf.to_container(OmegaConf.load(CONFIG)) | {"model": model}
    for section, values in sections.items():
        cfg[section] = cfg[section] | values if isinstance(values, dict) else values
    return SafetyLimits.decode(cfg)


class Arm:
    """Steps a layer tick by tick; what was sent is in `poses`."""

    def __init__(self, limits=None, start=REST):
        self.layer = SafetyLayer(limits or make_limits())
        self.now = 100.0
        self.poses = [np.array(start, float)]
        self.outside = self.layer.start(self.now, self.state())

    def state(self, load=0.1, temperature=35.0, **changes):
        state = ArmState.of(changes.get("position", self.poses[-1]), changes.get("time", self.now))
        state.load[:], state.temperature[:] = load, temperature
        return state

    def step(self, command, state="as sent", person=None, after=TICK):
        self.now += after
        command = None if command is None else np.asarray(command, float)
        sent = self.layer.step(self.now, command, self.state() if state == "as sent" else state, person)
        self.poses.append(sent.position.copy())
        return sent

    def run(self, command, ticks, **kwargs):
        for _ in range(ticks):
            sent = self.step(command, **kwargs)
        return sent

    def moved(self, ticks=1):
        """Greatest distance that a joint moved in the last ticks."""
        return np.abs(self.poses[-1] - self.poses[-1 - ticks]).max()

    def causes(self):
        return self.layer.report.to_dict()["causes"]
