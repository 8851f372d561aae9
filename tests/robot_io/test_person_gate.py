"""The person gate on an arm: a trained detector between a camera and the safety layer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_arm import FakeArm, FakeRunner

from configs.composing import as_dict, decode, load_config
from robot_io.deployment import Deployment, Episode, watch_for_people
from robot_io.person_gate import GatedDetector, PersonGateSettings, load_person_gate
from robot_io.safety import SafetyLayer, SafetyLimits
from tinyvla.errors import UserError
from tinyvla.frontends.wake import GateLimits, PersonGate, Reason, Wake

START = (0.0, -90.0, 85.0, 60.0, 3.0, 10.0)


@pytest.fixture(scope="module")
def cfg():
    """deploy.yaml's, with a person gate that lets go soon, and without the arm's geometry."""
    cfg = as_dict(
        load_config("deploy", ["checkpoint=none", "safety.person.enabled=true", "safety.person.resume_s=0.1"])
    )
    cfg["safety"]["model"] = None
    return cfg


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A detector to which whatever is bright is a person."""
    folder = tmp_path_factory.mktemp("wake")
    torch.manual_seed(0)
    wake = Wake(width=0.1, image_size=48, on=0.7, off=0.6)
    wake.save(folder)
    return folder


class Clock:
    def __init__(self):
        self.now = 10.0

    def __call__(self):
        self.now += 0.1
        return self.now


def image(value):
    return np.full((16, 16, 3), value, np.uint8) + np.random.default_rng().integers(0, 5, (16, 16, 3), dtype=np.uint8)


def test_what_the_gate_says_is_what_the_watcher_is_told():
    detector = GatedDetector(lambda image: image.mean() / 255, PersonGate(GateLimits(0.6, 0.4, 2, hold_s=0.0)), Clock())
    assert [detector(image(value)) for value in (10, 200, 200, 120, 10)] == [0, 0, 1, 1, 0]
    assert not detector.person_in_view(detector._clock.now)
    assert detector.person_in_view(detector._clock.now + 1)  # no frame since


def test_a_detector_that_fails_and_a_camera_that_is_frozen_are_people():
    def detect(image):
        if image.mean() > 100:
            raise RuntimeError("no memory")
        return 0.0

    detector = GatedDetector(detect, PersonGate(GateLimits(hold_s=0.0, repeat_s=0.25)), Clock())
    assert [detector(image(value)) for value in (10, 200, 10)] == [0, 1, 0]
    assert detector.gate.reason(detector._clock.now) == Reason.EMPTY
    same = image(10)
    assert [detector(same) for _ in range(5)] == [0, 0, 0, 1, 1]


def test_it_comes_from_a_checkpoint(cfg, checkpoint):
    limits, settings = SafetyLimits.decode(cfg["safety"]), decode(PersonGateSettings, cfg["person_gate"])
    assert settings == PersonGateSettings()  # deploy.yaml lists the defaults
    assert load_person_gate(settings, limits) is None
    gate = load_person_gate(replace(settings, checkpoint=checkpoint), limits).gate
    assert gate.limits == GateLimits(0.7, 0.6, 2, hold_s=0.0, stale_s=0.5, repeat_s=1.0)
    changed = replace(settings, checkpoint=checkpoint, from_probability=0.9, on_count=1)
    assert load_person_gate(changed, limits, simulated=True).gate.limits == GateLimits(0.9, 0.6, 1, 0.0, 0.5, None)
    assert load_person_gate(replace(changed, repeat_s=2.0), limits, simulated=True).gate.limits.repeat_s == 2.0


def test_mistakes(cfg, checkpoint, tmp_path):
    limits, settings = SafetyLimits.decode(cfg["safety"]), decode(PersonGateSettings, cfg["person_gate"])
    off = SafetyLimits.decode(cfg["safety"] | {"person": cfg["safety"]["person"] | {"enabled": False}})
    with pytest.raises(UserError, match=r"add safety\.person\.enabled=true"):
        load_person_gate(replace(settings, checkpoint=checkpoint), off)
    with pytest.raises(UserError, match="there is no front-end at"):
        load_person_gate(replace(settings, checkpoint=tmp_path), limits)
    with pytest.raises(UserError, match=r"0 <= off <= on <= 1"):
        load_person_gate(replace(settings, checkpoint=checkpoint, from_probability=0.2), limits)
    with watch_for_people(lambda image: 0.0, "side", limits) as person:
        run = Deployment(FakeArm(), FakeRunner(), SafetyLayer(limits), person=person)
        with pytest.raises(UserError, match=r"'side'; set person_gate\.camera to one of front"):
            run.run([Episode("go", 1.0, START)], tmp_path)


class Log:
    """Shows the arm's camera a person from a tick on."""

    def __init__(self, arm, tick):
        self.arm, self.tick, self.sent = arm, tick, []

    def begin(self, episode):
        pass

    def observe(self, tick):
        self.sent.append(tick.sent[0])
        self.arm._image[:] = image(200 if len(self.sent) >= self.tick else 10)

    def end(self, result):
        pass

    def report(self):
        return {}


def test_the_arm_stops_for_a_person(cfg, tmp_path):
    limits = SafetyLimits.decode(cfg["safety"])
    gate = PersonGate(GateLimits(0.6, 0.4, 2, hold_s=0.0, repeat_s=None))
    arm, layer = FakeArm(), SafetyLayer(limits)
    log = Log(arm, tick=15)
    with watch_for_people(GatedDetector(lambda image: image.mean() / 255, gate), "front", limits) as person:
        run = Deployment(arm, FakeRunner(step=1.0), layer, [log], approach_speed=1.0, person=person)
        report = run.run([Episode("go", 1.5, START)], tmp_path)
    assert log.sent[14] > log.sent[0] + 1
    assert np.ptp(log.sent[-8:]) == 0
    assert "person" in report["safety"]["causes"]
