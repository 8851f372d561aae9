"""Shared by the tests of arms: LeRobot that waits for a busy machine, and twins."""

import contextlib
import time

import pytest


@pytest.fixture
def patient(monkeypatch):
    """LeRobot gives a servo 50 ms, which a test machine without a core to spare may miss; here it gives it longer."""
    from lerobot.motors.feetech import feetech

    set_timeout = feetech.patch_setPacketTimeout

    def longer(self, length):
        set_timeout(self, length)
        self.packet_timeout += 300

    monkeypatch.setattr(feetech, "patch_setPacketTimeout", longer)


@pytest.fixture(scope="module")
def twin():
    """A running twin with a calibration and no cameras; every test gets it without faults."""
    from robot_io.twin import TwinSettings, start_twin

    with start_twin(TwinSettings(mounting=(-38, 112, -67, 25, 301, -140)), in_thread=True) as control:
        yield control


@pytest.fixture(scope="session")
def switch_off_and_on():
    """Function that interrupts the power of a twin's servos, which ends an overload, until they have started again."""

    def interrupt(twin):
        twin.send("brown_out")
        time.sleep(0.5)
        twin.send("clear")

    return interrupt


@pytest.fixture
def sound_twin(twin, switch_off_and_on):
    twin.send("clear")
    twin.send("attach all")
    if any(joint["error"] for joint in twin.state()["joints"].values()):
        switch_off_and_on(twin)
    twin.send("reset")
    yield twin
    with contextlib.suppress(Exception):
        twin.send("clear")
