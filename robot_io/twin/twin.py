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

from .bus import Bus
from .control import Commands, ControlServer
from .eyes import Eyes
from .faults import Faults
from .plant import Plant
from .port import Port, wait
from .scene import JOINTS
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
        self._eyes = Eyes(settings.scene, settings.scene_options, drawn, folder) if drawn else None
        servos = settings.make_servos()
        scene = make_scene(**settings.scene_options)
        self.plant = Plant(scene, servos, settings.mounting, settings.drivetrain)
        if settings.calibrated:
            calibrate(
                servos,
                settings.calibration(self.plant.limits.tolist()),
                folder / "calibration" / f"{settings.robot_id}.json",
            )
        for servo in servos:
            servo.power_up()
        self.plant.reset(settings.seed, move_arm=False)  # the arm as it was switched off
        self.bus = Bus(servos)
        self.port = Port(self.bus, folder / "port", np.random.default_rng(settings.seed))
        if self._eyes:
            self._eyes.open(scene)
        self.faults = Faults(self.plant, self.bus, self.port, self._eyes)
        self._control = ControlServer(Commands(self), folder, typed)
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
                due = min(self._simulated + _STEPS_A_TICK * self.plant.timestep, self.port.next_due)
                port = [self.port.fileno] if self.port.plugged else []
                readable = wait(port + self._control.filenos, due - self.now)
                self._advance(sense=bool(readable))
                if self.port.plugged and self.port.fileno in readable:
                    self.port.receive(self.now)
                self.faults.expire(self.now)
                self._control.serve(readable)
                self.port.send(self.now)
                if self._eyes:
                    if self._eyes.failed:
                        raise RuntimeError("the process that draws what the cameras see has ended")
                    self._eyes.show(self.plant.scene)
        finally:
            self.port.unplug()
            self._control.close()
            if self._eyes:
                self._eyes.close()

    def stop(self) -> None:
        """Let `run` end."""
        self._stopping = True

    def state(self) -> dict[str, Any]:
        """What is true, whatever the servos say: time, qpos and qvel of the whole scene; whether its task is done; for
        each joint its angle in degrees, speed in degrees/s, load as a share of the stall torque, °C, torque (the share
        it may use) and error byte; the faults in force; what went over the wire, and seconds missed."""
        plant, data = self.plant, self.plant.data
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
                JOINTS, plant.angles, plant.speeds, plant.load, plant.servos, strict=True
            )
        }
        return {
            "time": float(data.time),
            "qpos": data.qpos.tolist(),
            "qvel": data.qvel.tolist(),
            "success": plant.scene.success(),
            "joints": joints,
            "hand_arrived": plant.hand_arrived,
            "faults": [[fault.kind, fault.target, fault.value] for fault in self.faults.active],
            "wire": dict(self.port.counts),
            "missed": self.missed,
        }

    def _advance(self, sense: bool) -> None:
        """Bring the simulation up to now."""
        timestep = self.plant.timestep
        behind = self.now - self._simulated
        if behind > _MOST_BEHIND:
            self.missed += behind
            self._simulated, behind = self.now, 0.0
        steps = int(behind / timestep)
        for _ in range(steps):
            self.plant.step()
        if sense:
            self.plant.sense()
        self._simulated += steps * timestep
