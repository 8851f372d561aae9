"""The limits: the shipped ones are sane, and nonsense is refused with the setting's name."""

import copy

import pytest
from omegaconf import OmegaConf

from configs.composing import CONFIG_DIR
from robot_io.safety import SafetyLimits
from tinyvla.errors import UserError

SHIPPED = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "safety" / "so101.yaml"))


def changed(where, value):
    cfg = copy.deepcopy(SHIPPED)
    *path, name = where.split(".")
    section = cfg
    for part in path:
        section = section[part]
    section[name] = value
    return cfg


def test_the_shipped_limits_are_within_the_arm_s_own_ranges():
    import mujoco
    import numpy as np

    from tinyvla.arms.so101 import SO101

    limits = SafetyLimits.decode(SHIPPED)
    model = mujoco.MjSpec.from_file(str(SO101.mjcf()))
    for joint in model.joints:
        low, high = np.rad2deg(joint.range) if joint.name != "gripper" else (0, 100)
        assert low <= limits.joints[joint.name].min < limits.joints[joint.name].max <= high, joint.name
    assert limits.emergency_stop.torque_off_s == 1.0
    assert limits.workspace.x == (-0.25, 0.5)


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("joints.elbow_flex.min", 200, "swap or widen"),
        ("joints.elbow_flex.speed", 0, "forbids every motion"),
        ("joints.elbow_flex.jerk", -5, "forbids every motion"),
        ("joints.elbow_flex.acceleration", 1, "raise it"),
        ("joints.elbow_flex.jerk", 1, "raise jerk"),
        ("joints.elbow_flex.speed", float("nan"), "finite number"),
        ("joints.elbow_flex.speed", "fast", "is not a number"),
        ("joints.elbow_flex", 3, "is a section, not a value"),
        ("joints", {}, "list every joint"),
        ("model", "so102", "so101"),
        ("rate_hz", 0, "control loop"),
        ("workspace.x", [0.5, -0.5], "empty"),
        ("workspace.x", [0.5], "give 2"),
        ("workspace.x", "wide", "not a list"),
        ("workspace.z_max", -1, "above the table"),
        ("self_collision.clearance", 3, "0 to 0.1"),
        ("servo.load", 80, "share"),
        ("servo.temperature_resume", 70, "temperature_resume"),
        ("servo.required", 1, "true or false"),
        ("watchdog.hold_s", 0.01, "shorter than a tick"),
        ("watchdog.retreat_s", 0.1, "hold_s"),
        ("watchdog.then", "flee", "hold, retreat"),
        ("watchdog.retreat_pose", [0, 0, 0], "shoulder_pan"),
        ("watchdog.retreat_pose", [0, 0, 0, 0, 0, 150], "gripper"),
        ("person.probability", 0, "share"),
        ("emergency_stop.torque_off_s", -1, "null"),
        ("emergency_stop.delay", 1, "unknown setting 'safety.emergency_stop.delay'"),
    ],
)
def test_nonsense_is_refused_in_one_line(where, value, words):
    with pytest.raises(UserError, match=r"^(unknown setting ')?safety\.") as refusal:
        SafetyLimits.decode(changed(where, value))
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_setting_without_a_default_is_named():
    cfg = copy.deepcopy(SHIPPED)
    del cfg["joints"]["elbow_flex"]["max"]
    with pytest.raises(UserError, match=r"safety\.joints\.elbow_flex\.max is not given"):
        SafetyLimits.decode(cfg)
    del cfg["model"]
    with pytest.raises(UserError, match=r"safety\.model is not given"):
        SafetyLimits.decode(cfg)


def test_a_file_from_before_a_limit_was_added_gets_its_default():
    old = {
        "joints": SHIPPED["joints"],
        "model": "so101",
        "watchdog": {"retreat_pose": SHIPPED["watchdog"]["retreat_pose"]},
    }
    assert SafetyLimits.decode(old) == SafetyLimits.decode(SHIPPED)


def test_an_arm_that_never_retreats_needs_no_pose_for_that():
    assert SafetyLimits.decode(changed("watchdog.retreat_pose", [])).watchdog.retreat_pose == ()
    cfg = changed("watchdog.retreat_pose", [])
    cfg["watchdog"]["then"] = "retreat"
    with pytest.raises(UserError, match="retreat_pose has 0 numbers"):
        SafetyLimits.decode(cfg)
