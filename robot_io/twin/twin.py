"""Twin of an arm: one loop that answers the bus, advances the simulation in real time and obeys commands."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinyvla.arms.so101 import SO101

from ..real_time import raise_priority
from .bus import Bus
from .camera_rendering import CameraProcess
from .commands import Commands, CommandServer
from .faults import Faults
from .physics import ArmPhysics
from .serial_port import SerialPort, wait
from .settings import TwinSettings, write_calibration

_STEPS_PER_TICK = 2  # physics steps between two looks at the clock while the bus is silent
_MOST_BEHIND = 0.25  # seconds of delay that are made up for; a longer delay is counted as missed


class Twin:
    """SO-101 behind a serial port.

    `folder` holds `port`, the terminal to connect to; `control`, the socket for commands;
    `calibration/<robot id>.json` in LeRobot's format; and a file of images per camera.

    Nothing happens outside of `run`, which belongs to one thread. Other threads and processes use `TwinControl`.

    Args:
        settings: of the arm and its scene.
        folder: an existing one.
        typed: obey lines on stdin too.
    """

    def __init__(self, settings: TwinSettings, folder: Path, typed: bool = False):
        views = settings.cameras
        self._cameras = CameraProcess(settings.scene, views, folder) if views else None  # starts while this one does
        servos = settings.make_servos()
        scene = settings.scene()
        self.physics = ArmPhysics(scene, servos, settings.mounting, settings.drivetrain)
        if settings.calibrated:
            write_calibration(
                servos,
                settings.calibration(self.physics.limits.tolist()),
                folder / "calibration" / f"{settings.robot_id}.json",
            )
        for servo in servos:
            servo.power_up()
        self.physics.reset(settings.seed, move_arm=False)  # the arm as it was switched off
        self.bus = Bus(servos)
        self.port = SerialPort(self.bus, folder / "port", np.random.default_rng(settings.seed))
        if self._cameras:
            self._cameras.open(scene)
        self.faults = Faults(self.physics, self.bus, self.port, self._cameras, lambda: self.now)
        self.commands = Commands(self.physics, self.bus, self.faults, lambda: self.now, self.state, self.stop)
        self._command_server = CommandServer(self.commands, folder, typed)
        self._stopping = False
        self._simulated = 0.0  # time up to which the simulation has advanced, on the clock of `now`
        self.missed = 0.0  # seconds by which the simulation has fallen behind for good

    @property
    def now(self) -> float:
        """Clock of the twin, in seconds."""
        return time.perf_counter()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Run until `stop`, then close everything that the twin has opened. `ready` is called at the start."""
        raise_priority()  # servos do not wait for other programs
        try:
            self._simulated = self.now
            ready()
            while not self._stopping:
                due = min(self._simulated + _STEPS_PER_TICK * self.physics.timestep, self.port.next_due)
                port = [self.port.fileno] if self.port.plugged else []
                readable = wait(port + self._command_server.filenos, due - self.now)
                self._advance(sense=bool(readable))
                if self.port.plugged and self.port.fileno in readable:
                    self.port.receive(self.now)
                self.faults.expire(self.now)
                self._command_server.serve(readable)
                self.port.send(self.now)
                if self._cameras:
                    if self._cameras.failed:
                        raise RuntimeError("the process that draws the cameras has ended")
                    self._cameras.show(self.physics.scene)
        finally:
            self.close()

    def stop(self) -> None:
        """Let `run` end."""
        self._stopping = True

    def close(self) -> None:
        """Close port, socket and cameras; `run` does it at its end."""
        self.port.unplug()
        self._command_server.close()
        if self._cameras:
            self._cameras.close()

    def state(self) -> dict[str, Any]:
        """True state, whatever the servos report.

        time, qpos and qvel of the whole scene; success of its task; per joint its angle in degrees, speed in degrees/s,
        load as a share of the stall torque, temperature in °C, torque (the share that it may use) and error byte;
        active faults; counts of the wire; missed seconds.
        """
        physics, data = self.physics, self.physics.data
        joints = {
            joint: {
                "angle": round(float(np.degrees(angle)), 3),
                "speed": round(float(np.degrees(speed)), 2),
                "load": round(float(load), 3),
                "temperature": round(servo.temperature, 1),
                "torque": servo.torque_share,
                "error": servo.error,
            }
            for joint, angle, speed, load, servo in zip(
                SO101.joints, physics.angles, physics.speeds, physics.load, physics.servos, strict=True
            )
        }
        return {
            "time": float(data.time),
            "qpos": data.qpos.tolist(),
            "qvel": data.qvel.tolist(),
            "success": physics.scene.success(),
            "joints": joints,
            "hand_arrived": physics.hand_arrived,
            "faults": [[fault.kind, fault.target, fault.value] for fault in self.faults.active],
            "wire": dict(self.port.counts),
            "missed": self.missed,
        }

    def _advance(self, sense: bool) -> None:
        """Advance the simulation to the present. sense: let the servos measure afterwards."""
        timestep = self.physics.timestep
        behind = self.now - self._simulated
        if behind > _MOST_BEHIND:
            self.missed += behind
            self._simulated, behind = self.now, 0.0
        steps = int(behind / timestep)
        for _ in range(steps):
            self.physics.step()
        if sense:
            self.physics.sense()
        self._simulated += steps * timestep
