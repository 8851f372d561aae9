"""The twin at the table of env=so101: the same world, moved by servos. Simulated time only, no port."""

from types import SimpleNamespace

import numpy as np
import pytest

from envs.so101.env import SO101Env
from envs.so101.expert import Expert
from envs.so101.twin import TwinScene
from robot_io.feetech import FeetechServos
from robot_io.feetech.protocol import ErrorBit
from robot_io.feetech.registers import REGISTERS, decode, encode
from robot_io.twin.physics import ArmPhysics
from robot_io.twin.settings import TwinSettings
from tinyvla.arms.so101 import SO101

CONTROL_STEPS = 16  # of physics a thirtieth of a second


def make_physics(task):
    """The scene with servos that are set as LeRobot sets them."""
    settings = TwinSettings()
    servos = settings.make_servos()
    physics = ArmPhysics(TwinScene(task), servos, settings.mounting, settings.drivetrain)
    for servo in servos:
        for name, value in {"P_Coefficient": 16, "Acceleration": 254, "Torque_Enable": 1}.items():
            servo.write(REGISTERS[name].address, encode(REGISTERS[name], value))
    servos[-1].write(REGISTERS["Max_Torque_Limit"].address, encode(REGISTERS["Max_Torque_Limit"], 500))
    return physics


def play(physics, seed, steps=300):
    """Return whether the scripted expert solves the task through the servos' registers."""
    physics.reset(seed)
    simulation = physics.scene.simulation
    expert = Expert(simulation)
    for _ in range(steps):
        goals = physics.control.encoder(SO101.to_radians(expert.action()))
        for servo, goal in zip(physics.servos, goals, strict=True):
            servo.write(REGISTERS["Goal_Position"].address, encode(REGISTERS["Goal_Position"], round(goal)))
        for _ in range(CONTROL_STEPS):
            physics.step()
        if physics.scene.success():
            return True
    return False


def test_an_episode_begins_as_in_the_environment():
    env, physics = SO101Env("reach"), make_physics("reach")
    env.reset(seed=7)
    physics.reset(7)
    assert (physics.data.qpos == env.data.qpos).all()
    assert physics.model.body("disc").pos == pytest.approx(env.model.body("disc").pos)
    image = physics.scene.draw(physics.data, "front", 96, 96)
    assert (image == env.observe()["observation.images.front"]).all()
    env.close()
    physics.scene.close()


def test_a_new_episode_may_leave_the_arm_where_it_is():
    physics = make_physics("reach")
    physics.reset(1)
    for _ in range(100):
        physics.step()
    before, disc = physics.angles.copy(), physics.model.body("disc").pos.copy()
    physics.reset(2, move_arm=False)
    assert (physics.angles == before).all()
    assert (physics.model.body("disc").pos != disc).any()
    for _ in range(100):
        physics.step()
    assert physics.angles == pytest.approx(before, abs=0.01)


@pytest.mark.parametrize("task", ["reach", "pick-lift"])
def test_the_expert_does_the_task_through_the_servos(task):
    physics = make_physics(task)
    assert play(physics, seed=3)


class Wire:
    """LeRobot's bus to the servos of an arm, as far as `FeetechServos` uses it."""

    def __init__(self, physics):
        self.motors = dict(zip(SO101.joints, physics.servos, strict=True))

    def sync_read(self, name, normalize):
        register = REGISTERS[name]
        return {
            joint: decode(register, servo.read(register.address, register.size)) for joint, servo in self.motors.items()
        }

    def sync_write(self, name, values, normalize):
        for joint, value in values.items():
            self.motors[joint].write(REGISTERS[name].address, encode(REGISTERS[name], value))


@pytest.mark.parametrize("watched", [True, False])
def test_a_gripper_that_holds_something_keeps_its_torque_where_it_is_watched(watched, monkeypatch):
    physics, now = make_physics("reach"), [0.0]
    monkeypatch.setattr("robot_io.feetech.servos.time", SimpleNamespace(monotonic=lambda: now[0]))
    wire = Wire(physics)
    gripper = wire.motors["gripper"]
    gripper.write(REGISTERS["Overload_Torque"].address, encode(REGISTERS["Overload_Torque"], 25))  # as LeRobot does
    physics.jam(SO101.joints.index("gripper"))
    wire.sync_write("Goal_Position", {"gripper": gripper.position - 300}, False)
    servos = FeetechServos(wire)

    def live(ticks):
        for _ in range(ticks):
            if watched:
                servos.read()
            for _ in range(CONTROL_STEPS):
                physics.step()
            now[0] += 1 / 30

    live(150)
    overloaded = bool(gripper.error & ErrorBit.OVERLOAD)
    assert overloaded != watched
    assert gripper.torque_share == pytest.approx(0.24 if watched else 0.2)

    wire.sync_write("Goal_Position", {"gripper": gripper.position + 300}, False)
    physics.jam(SO101.joints.index("gripper"), False)
    live(30)
    assert gripper.torque_share == pytest.approx(0.5 if watched else 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["reach", "pick-lift", "pick-place", "push"])
def test_the_expert_does_most_episodes_through_the_servos(task):
    physics = make_physics(task)
    done = [play(physics, seed) for seed in range(20)]
    print(task, sum(done), "of", len(done))
    assert np.mean(done) >= 0.8


def test_another_process_draws_the_cube_in_its_size(tmp_path):
    from robot_io.twin.camera_rendering import SharedScene

    shown, drawn = TwinScene(cube_sides=(0.02, 0.06)), TwinScene(cube_sides=(0.02, 0.06))
    try:
        shown.reset(1)
        drawn.reset(2)
        shared = SharedScene(tmp_path / "scene", shown.model, 1, create=True)
        shared.write(shown.model, shown.data)
        shared.read(drawn.model, drawn.data)
        images = [scene.draw(scene.data, "front", 48, 48).astype(int) for scene in (shown, drawn)]
        assert np.abs(images[0] - images[1]).max() == 0
    finally:
        shown.close()
        drawn.close()
