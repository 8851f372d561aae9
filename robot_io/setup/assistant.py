"""Assistant that guides a person through the setup of an arm or a leader: ids, calibration, and their check."""

import time
from collections.abc import Callable
from typing import Any

from lerobot.robots import Robot
from lerobot.teleoperators import Teleoperator

from tinyvla.errors import UserError

from ..calibration_file import read_calibration
from ..diagnosis import arm_errors, ping
from ..gripper import gripper_degrees
from . import hand_calibration
from .calibration import check_calibration, moved_joint, turned
from .kinds import MODEL_GRIPPER_DEGREES, arm_kind
from .line import open_bus, read_positions, repeat, silent_joints
from .person import Person
from .progress import Progress, as_json

_POLL = 0.05  # seconds between two readings while a joint is moved by hand
_REST, _AT_REST = 0.3, 1.0  # seconds between two readings; degrees of turn below which the arm is at rest
_FACTORY_ID, _PINGS = 1, 3
_SAME_OPENING = 5.0  # degrees by which the openings of two grippers may differ


class Assistant:
    """Steps of the setup of one arm or leader. Results are stored where LeRobot's own programs look.

    Args:
        device: of LeRobot, not connected.
        person: who moves the arm.
        patience: seconds that the person has to move a joint, and that the servos have to answer again.
        command: returns the command line of a step.
    """

    def __init__(
        self,
        device: Robot | Teleoperator,
        person: Person | None = None,
        patience: float = 60.0,
        command: Callable[[str], str] = "robot_setup.py step={}".format,
    ):
        if not hasattr(device, "bus"):
            raise UserError(f"{device} has no bus of servos; its maker's program, or LeRobot's, sets it up")
        self._device: Any = device
        self._kind = arm_kind(device.name)
        self._person, self._patience, self._command = person or Person(), patience, command
        self._progress = Progress.of(device)

    def run(self, step: str) -> None:
        """Do one step: motors, calibrate or check; or all."""
        match step:
            case "motors":
                self.name_motors()
                self._person.say(f"Connect all servos. Next: {self._command('calibrate')}")
            case "calibrate":
                self.calibrate()
                self._person.say(f"Next: {self._command('check')}")
            case "check":
                self.check_ranges()
                self.check_joints()
                self._say_opening()
            case _:
                self.set_up()

    # --- all ---

    def set_up(self) -> None:
        """Do every step that is not yet done: ids, calibration, check. The same command resumes it."""
        self._ensure_ids()
        if self._is_calibrated():
            self._person.say(f"It is calibrated: {self._device.calibration_fpath}.")
        else:
            self.calibrate()
        if self._progress.is_checked(self._device.calibration):
            self._person.say("Every joint was checked with this calibration.")
        else:
            self.check_joints()
        self._say_opening()
        self._person.say(f"{self._device} is set up.")

    def _ensure_ids(self) -> None:
        """Have every servo answer under its id. Raises UserError if only some do not."""
        with arm_errors(self._device, connecting=True):
            while not self._ids_answer():
                self.name_motors()
                self._person.ask("Connect all servos to each other and the first to the controller, and press ENTER ")
        self._person.say("Every servo answers under its id.")

    def _ids_answer(self) -> bool:
        """True if every servo answers under its id; False if they have to get their ids first."""
        if 0 < len(self._progress.named) < len(self._motors):
            return False  # begun, and interrupted
        while len(silent := silent_joints(self._device)) == len(self._motors):
            if self._has_new_servos():
                return False
            answer = self._person.ask(
                "No servo answers. If the servos are new and have no ids yet, type m and press ENTER. Otherwise switch "
                "the power supply on, check the cables, and press ENTER "
            )
            if answer.strip().lower() == "m":
                return False
        if silent:
            with open_bus(self._device):  # raises the diagnosis
                pass
        return True

    def _has_new_servos(self) -> bool:
        """True if several Feetech servos answer at once under the id that they have from the factory."""
        if type(self._device.bus).__name__ != "FeetechMotorsBus":
            return False
        return all(ping(self._device.bus.port, _FACTORY_ID) == "garbled" for _ in range(_PINGS))

    def _is_calibrated(self) -> bool:
        """True if the stored calibration is plausible and that of the servos."""
        if not self._device.calibration:
            return False
        if problems := self._problems():
            self._person.say(f"The calibration {self._device.calibration_fpath} cannot be right: {'; '.join(problems)}")
            return False
        with arm_errors(self._device, connecting=True), open_bus(self._device) as bus:
            if repeat(lambda: bus.is_calibrated, bus):
                return True
        self._person.say(
            f"The servos hold another calibration than {self._device.calibration_fpath}. If that is another arm's, "
            "press Ctrl-C and give this one its own robot.id."
        )
        return False

    # --- motors ---

    def name_motors(self) -> None:
        """Give every servo its id, with one connected at a time. Once for a new arm; the ids stay in the servos."""
        progress = self._progress
        if not hasattr(self._device, "setup_motors"):
            raise UserError(f"LeRobot has no way to give the motors of {self._device} ids; use their maker's program")
        if len(progress.named) == len(self._motors):
            progress.named = []
        with arm_errors(self._device, connecting=True), open_bus(self._device, handshake=False) as bus:
            for joint in reversed(self._motors):
                if joint in progress.named:
                    self._person.say(f"The servo of the {joint} has its id.")
                    continue
                self._name_motor(bus, joint)
                progress.named.append(joint)
                progress.save()

    def _name_motor(self, bus: Any, joint: str) -> None:
        while True:
            self._person.ask(f"Connect the controller board to the servo of the {joint} alone, and press ENTER ")
            try:
                bus.set_baudrate(bus.default_baudrate)
                if len(answering := bus.broadcast_ping(num_retry=2) or {}) > 1:
                    ids = ", ".join(map(str, answering))
                    self._person.say(f"Servos with the ids {ids} answer; connect that of the {joint} alone.")
                    continue
                bus.setup_motor(joint)
            except (ConnectionError, RuntimeError) as error:
                self._person.say(f"That did not work: {' '.join(str(error).split())} Check its cable and the power.")
                continue
            self._person.say(f"The servo of the {joint} has the id {self._motors[joint].id} now.")
            return

    # --- calibration ---

    def calibrate(self) -> None:
        """Calibrate, and store the result under robot.id and in the servos, then check it."""
        device = self._device
        with arm_errors(device, connecting=True), open_bus(device) as bus:
            if self._kind.operating_mode is None:
                device.calibrate()  # asks and shows by itself
            else:
                hand_calibration.calibrate(device, bus, self._kind, self._progress, self._person, self._patience)
        self.check_ranges()

    def check_ranges(self) -> None:
        """Raise UserError if the stored calibration cannot be this kind of arm's."""
        if problems := self._problems():
            raise UserError(
                f"the calibration {self._device.calibration_fpath} cannot be right: {'; '.join(problems)}; "
                "run step=calibrate"
            )
        self._person.say(f"The ranges in {self._device.calibration_fpath} are plausible.")

    def _problems(self) -> list[str]:
        calibration = read_calibration(self._device.calibration_fpath)
        return check_calibration(calibration, self._kind, {joint: motor.id for joint, motor in self._motors.items()})

    # --- check ---

    def check_joints(self) -> None:
        """Ask for every joint to be moved by hand, and check that only the servo of that name turns."""
        with arm_errors(self._device, connecting=True), open_bus(self._device) as bus:
            repeat(lambda: bus.disable_torque(num_retry=2), bus)
            for joint in bus.motors:
                self._check_joint(bus, joint)
        self._progress.checked = as_json(self._device.calibration)
        self._progress.save()
        self._person.say("Every servo moves the joint that it is named after.")

    def _check_joint(self, bus: Any, joint: str) -> None:
        before = self._still(bus)
        self._person.say(f"Move the {joint} by hand, that joint alone.")
        end = time.monotonic() + self._patience
        while (moved := moved_joint(before, repeat(lambda: read_positions(bus), bus))) is None:
            if time.monotonic() > end:
                raise UserError(
                    f"no servo turned alone in {self._patience:.0f} s; move the {joint} and hold the rest, or check "
                    "that its horn is screwed on"
                )
            time.sleep(_POLL)
        if moved != joint:
            raise UserError(
                f"the {joint} was moved but the servo named {moved} turned: their cables or ids are swapped; swap the "
                "cables, or give both their ids again with step=motors"
            )

    def _still(self, bus: Any) -> dict[str, int]:
        """Reading of the arm at rest: a person may still hold the last joint."""
        end = time.monotonic() + self._patience
        before: dict[str, int] = {}
        now = repeat(lambda: read_positions(bus), bus)
        while not before or turned(before, now) > _AT_REST:
            if time.monotonic() > end:
                raise UserError("the arm does not come to rest; hold it, or lay it down")
            time.sleep(_REST)
            before, now = now, repeat(lambda: read_positions(bus), bus)
        return now

    # --- words ---

    @property
    def _motors(self) -> dict[str, Any]:
        return self._device.bus.motors

    def _say_opening(self) -> None:
        """Say how far the gripper of an SO follower opens, if that is not what it does in simulation."""
        degrees = gripper_degrees(self._device) if self._device.name == "so_follower" else None
        if degrees is not None and abs(degrees - MODEL_GRIPPER_DEGREES) > _SAME_OPENING:
            self._person.say(
                f"Gripper: 100 means {degrees:.0f} degrees on this arm and {MODEL_GRIPPER_DEGREES:.0f} in simulation. "
                f"For a policy that was trained in simulation add robot.gripper_degrees={MODEL_GRIPPER_DEGREES:.0f}."
            )
