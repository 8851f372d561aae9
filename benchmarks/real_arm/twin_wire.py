"""Latency and CPU time of the twin on its serial port.

    uv run python -m benchmarks.real_arm.twin_wire seconds=20 cameras=2

Reads all positions and writes all goals at 30 Hz over the serial port, as a control loop does, from this process; the
twin runs in another. Writes results/twin_wire.json and .md; the last line is one JSON object.
"""

import json
import resource
import time
from dataclasses import dataclass

import numpy as np
import serial

import envs.rendering  # noqa: F401  selects MuJoCo's renderer, here and in the twin
from benchmarks.machine import keep, markdown
from benchmarks.settings import setting, start
from envs.so101.twin import TwinScene
from robot_io.feetech.protocol import BROADCAST, Instruction, Packet, pack
from robot_io.twin import TwinSettings, start_twin
from robot_io.twin.camera_rendering import CameraView

IDS = range(1, 7)
READ = pack(Packet(BROADCAST, Instruction.SYNC_READ, bytes([56, 2, *IDS])))
ANSWER = 8 * len(IDS)  # bytes


def goals(steps: int) -> bytes:
    """Packet that sends all servos to a position in encoder steps."""
    low, high = steps.to_bytes(2, "little")
    values = bytes(value for number in IDS for value in (number, low, high))
    return pack(Packet(BROADCAST, Instruction.SYNC_WRITE, bytes([42, 2]) + values))


@dataclass
class Settings:
    """Settings of the command line."""

    seconds: float = setting(20.0, "seconds of control at 30 Hz")
    cameras: int = setting(2, "cameras that the twin renders")


def main(settings: Settings) -> None:
    cameras = {f"camera{number}": CameraView("front", 96, 96, 30) for number in range(settings.cameras)}
    delays, missing = [], 0
    twin_settings = TwinSettings(scene=TwinScene, cameras=cameras)
    with start_twin(twin_settings) as twin, serial.Serial(twin.port, 1_000_000) as line:
        line.timeout = 0.05  # LeRobot's for a servo
        for number in IDS:
            for address, value in ((7, 0), (40, 1)):  # return delay, torque
                line.write(pack(Packet(number, Instruction.WRITE, bytes([address, value]))))
                line.read(6)
        due = time.perf_counter()
        for tick in range(round(settings.seconds * 30)):
            line.reset_input_buffer()
            start = time.perf_counter()
            line.write(READ)
            missing += len(line.read(ANSWER)) != ANSWER
            delays.append(time.perf_counter() - start)
            line.write(goals(2048 + round(200 * np.sin(tick / 30))))
            due += 1 / 30
            time.sleep(max(0.0, due - time.perf_counter()))
        state = twin.state()
    cost = resource.getrusage(resource.RUSAGE_CHILDREN)
    p50, p99, worst = np.percentile(np.array(delays) * 1000, [50, 99, 100])
    read_ms = {"p50": round(p50, 2), "p99": round(p99, 2), "max": round(worst, 2)}
    result = {
        "reads": len(delays),
        "unanswered_in_50_ms": missing,
        "read_ms": read_ms,
        "twin_cpu_s": round(cost.ru_utime + cost.ru_stime, 1),
        "simulated_s": round(state["time"], 1),
        "missed_s": round(state["missed"], 2),
        "cameras": settings.cameras,
    }
    keep("twin_wire", result, markdown([read_ms], {"p50": "read, p50 (ms)", "p99": "p99", "max": "worst"}))
    print(json.dumps(result))


if __name__ == "__main__":
    start(main, Settings, __doc__)
