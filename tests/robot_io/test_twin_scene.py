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
from robot_io.twin.plant import Plant
from robot_io.twin.scene import JOINTS
from robot_io.twin.settings import TwinSettings
from tinyvla.errors import UserError

CONTROL_STEPS = 16  # of physics a thirtieth of a second


def make_plant(task):
    """The scene with servos that are set as LeRobot sets them."""
    settings = TwinSettings()
    servos = settings.make_servos()
    plant = Plant(TwinScene(task), servos, settings.mounting, settings.drivetrain)
    for servo in servos:
        for name, value in {"P_Coefficient": 16, "Acceleration": 254, "Torque_Enable": 1}.items():
            servo.write(REGISTERS[name].address, encode(REGISTERS[name], value))
    servos[-1].write(REGISTERS["Max_Torque_Limit"].address, encode(REGISTERS["Max_Torque_Limit"], 500))
    return plant


def play(plant, seed, steps=300):
    """Whether the scripted expert does the task through the servos' registers."""
    plant.reset(seed)
    simulation = plant.scene.simulation
    expert = Expert(simulation)
    for _ in range(steps):
        goals = plant.drives.encoder(simulation.units.to_radians(expert.action()))
        for servo, goal in zip(plant.servos, goals, strict=True):
            servo.write(REGISTERS["Goal_Position"].address, encode(REGISTERS["Goal_Position"], round(goal)))
        for _ in range(CONTROL_STEPS):
            plant.step()
        if plant.scene.success():
            return True
    return False


def test_an_episode_begins_as_in_the_environment():
    env, plant = SO101Env("reach"), make_plant("reach")
    env.reset(seed=7)
    plant.reset(7)
    assert (plant.data.qpos == env.data.qpos).all()
    assert plant.model.body("disc").pos == pytest.approx(env.model.body("disc").pos)
    picture = plant.scene.draw(plant.data, "front", 96, 96)
    assert (picture == env.observe()["observation.images.front"]).all()
    with pytest.raises(UserError, match="draws square pictures"):
        plant.scene.draw(plant.data, "front", 48, 64)
    env.close()
    plant.scene.close()


def test_a_new_episode_may_leave_the_arm_where_it_is():
    plant = make_plant("reach")
    plant.reset(1)
    for _ in range(100):
        plant.step()
    before, disc = plant.angles.copy(), plant.model.body("disc").pos.copy()
    plant.reset(2, move_arm=False)
    assert (plant.angles == before).all()
    assert (plant.model.body("disc").pos != disc).any()
    for _ in range(100):
        plant.step()
    assert plant.angles == pytest.approx(before, abs=0.01)


@pytest.mark.parametrize("task", ["reach", "pick-lift"])
def test_the_expert_does_the_task_through_the_servos(task):
    plant = make_plant(task)
    assert play(plant, seed=3)


class Wire:
    """LeRobot's bus to the servos of a plant, as far as `FeetechServos` uses it."""

    def __init__(self, plant):
        self.motors = dict(zip(JOINTS, plant.servos, strict=True))

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
    plant, now = make_plant("reach"), [0.0]
    monkeypatch.setattr("robot_io.feetech.servos.time", SimpleNamespace(monotonic=lambda: now[0]))
    wire = Wire(plant)
    gripper = wire.motors["gripper"]
    gripper.write(REGISTERS["Overload_Torque"].address, encode(REGISTERS["Overload_Torque"], 25))  # as LeRobot does
    plant.jam(JOINTS.index("gripper"))
    wire.sync_write("Goal_Position", {"gripper": gripper.position - 300}, False)
    servos = FeetechServos(wire)

    def live(ticks):
        for _ in range(ticks):
            if watched:
                servos.read()
            for _ in range(CONTROL_STEPS):
                plant.step()
            now[0] += 1 / 30

    live(150)
    overloaded = bool(gripper.error & ErrorBit.OVERLOAD)
    assert overloaded != watched
    assert gripper.torque_share == pytest.approx(0.24 if watched else 0.2)

    wire.sync_write("Goal_Position", {"gripper": gripper.position + 300}, False)
    plant.jam(JOINTS.index("gripper"), False)
    live(30)
    assert gripper.torque_share == pytest.approx(0.5 if watched else 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["reach", "pick-lift", "pick-place", "push"])
def test_the_expert_does_most_episodes_through_the_servos(task):
    plant = make_plant(task)
    done = [play(plant, seed) for seed in range(20)]
    print(task, sum(done), "of", len(done))
    assert np.mean(done) >= 0.8
