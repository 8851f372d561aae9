"""The twin of an arm: one loop that answers the bus, moves the simulation in real time and obeys commands."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np

from tinyvla.errors import UserError

from .bare_arm import JOINTS
from .bus import Bus
from .camera_rendering import CameraProcess
from .commands import Commands, ControlServer
from .faults import Faults
from .physics import ArmPhysics
from .serial_port import SerialPort, wait
from .settings import TwinSettings, calibrate

_PRIORITY = -10  # of the loop's thread; 0 is a program's usual one
_STEPS_A_TICK = 2  # physics steps between two looks at the clock when nobody asks
_MOST_BEHIND = 0.25  # seconds of lag that are made up for; more is time that the twin has missed


class Twin:
    """An SO-101 behind a serial port. In `folder` lie `port`, the terminal to connect to; `control`, the socket for
    commands; `calibration/<robot id>.json` in LeRobot's format; and a file of pictures for each camera.

    Nothing happens outside `run`, which belongs to one thread; other threads and processes use `TwinControl`.

    Args:
        settings: what it is made of.
        folder: an existing one.
        typed: obey lines on stdin too.
    """

    def __init__(self, settings: TwinSettings, folder: Path, typed: bool = False):
        make_scene: Any = locate(settings.scene)
        if make_scene is None:
            raise UserError(f"robot.twin.scene={settings.scene} does not exist; name a class, as module.Class")
        drawn = settings.cameras
        self._cameras_process = CameraProcess(settings.scene, settings.scene_options, drawn, folder) if drawn else None
        servos = settings.make_servos()
        scene = make_scene(**settings.scene_options)
        self.physics = ArmPhysics(scene, servos, settings.mounting, settings.drivetrain)
        if settings.calibrated:
            calibrate(
                servos,
                settings.calibration(self.physics.limits.tolist()),
                folder / "calibration" / f"{settings.robot_id}.json",
            )
        for servo in servos:
            servo.power_up()
        self.physics.reset(settings.seed, move_arm=False)  # the arm as it was switched off
        self.bus = Bus(servos)
        self.port = SerialPort(self.bus, folder / "port", np.random.default_rng(settings.seed))
        if self._cameras_process:
            self._cameras_process.open(scene)
        self.faults = Faults(self.physics, self.bus, self.port, self._cameras_process)
        self.commands = Commands(self.physics, self.bus, self.faults, lambda: self.now, self.state, self.stop)
        self._control = ControlServer(self.commands, folder, typed)
        self._stopping = False
        self._simulated = 0.0  # up to when the simulation has come, on the clock of `now`
        self.missed = 0.0  # seconds that the simulation was not given

    @property
    def now(self) -> float:
        """The twin's clock, in seconds."""
        return time.perf_counter()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Live until `stop`; `ready` is called at the start. Ends everything that the twin has opened."""
        with contextlib.suppress(OSError):  # where it is allowed: servos do not wait for other programs
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _PRIORITY)
        try:
            self._simulated = self.now
            ready()
            while not self._stopping:
                due = min(self._simulated + _STEPS_A_TICK * self.physics.timestep, self.port.next_due)
                port = [self.port.fileno] if self.port.plugged else []
                readable = wait(port + self._control.filenos, due - self.now)
                self._advance(sense=bool(readable))
                if self.port.plugged and self.port.fileno in readable:
                    self.port.receive(self.now)
                self.faults.expire(self.now)
                self._control.serve(readable)
                self.port.send(self.now)
                if self._cameras_process:
                    if self._cameras_process.failed:
                        raise RuntimeError("the process that draws what the cameras see has ended")
                    self._cameras_process.show(self.physics.scene)
        finally:
            self.port.unplug()
            self._control.close()
            if self._cameras_process:
                self._cameras_process.close()

    def stop(self) -> None:
        """Let `run` end."""
        self._stopping = True

    def state(self) -> dict[str, Any]:
        """What is true, whatever the servos say: time, qpos and qvel of the whole scene; whether its task is done; for
        each joint its angle in degrees, speed in degrees/s, load as a share of the stall torque, °C, torque (the share
        it may use) and error byte; the faults in force; what went over the wire, and seconds missed."""
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
                JOINTS, physics.angles, physics.speeds, physics.load, physics.servos, strict=True
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
        """Bring the simulation up to now."""
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
