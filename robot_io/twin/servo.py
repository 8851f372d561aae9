"""One STS3215 servo: its memory, the effects of a write, and its protections."""

from dataclasses import dataclass

import numpy as np

from ..feetech.protocol import ErrorBit
from ..feetech.registers import (
    CENTRE_HERE,
    EEPROM_END,
    MEMORY_SIZE,
    READ_ONLY,
    REGISTERS,
    RESOLUTION,
    STEP_MODE,
    VELOCITY_MODE,
    PhaseBit,
    decode,
    encode,
)

AMBIENT = 25.0  # °C
_HEATING, _COOLING = 0.5, 1 / 120  # K/s at stall torque; share of the excess over AMBIENT lost per second
_CURRENT_UNIT = 0.0065  # A, of Present_Current and Protection_Current
_MOVING = 10  # steps/s above which Moving is 1
_COARSE_SPEED = 50  # steps/s of the unit of speed without PhaseBit.FINE_SPEED
_SATURATED = 1e-3  # share of the stall torque: a load so near to its limit is at it
_LATCHED = ErrorBit.OVERLOAD | ErrorBit.OVERCURRENT


@dataclass(frozen=True)
class ServoModel:
    """Version of the STS3215. All versions have the model number 777, so that software cannot tell them apart.

    Args:
        supply: nominal voltage, V.
        max_voltage: factory value of Max_Voltage_Limit, 0.1 V.
        stall: greatest torque at `supply`, N·m.
        stall_current: A.
        fastest: steps/s at `supply` without load.
    """

    supply: float = 7.4
    max_voltage: int = 80
    stall: float = 1.91
    stall_current: float = 2.4
    fastest: float = 3400.0


SERVO_MODELS = {
    # Memory table V3.6 (7.4 V, 50 turns per minute); Feetech's list of versions (19.5 kg·cm). Current: not verified.
    "C001": ServoModel(),
    # Feetech's product page (30 kg·cm, 2.7 A, 0.222 s per 60°); owners' readings of the voltage limit.
    "C018": ServoModel(supply=12.0, max_voltage=140, stall=2.94, stall_current=2.7, fastest=3072.0),
}


@dataclass(frozen=True)
class Firmware:
    """Behaviour on which sources differ or which no manual describes. Software must be safe with every value.

    Args:
        overload_latched: an overload or over-current lasts until the servo loses its power; False: until torque is
            switched off. Owners report the former: LeRobot fails to write Torque_Enable = 0 however often it tries,
            until the power is switched off and on (humancomputerlab/lelamp_runtime issue 9,
            open-edge-platform/physical-ai-studio issue 955).
        goal_follows: switching torque on sets the goal to the present position; False: the servo turns to the goal that
            it has in its memory, 0 after a start. Not verified: owners' arms hold still when LeRobot connects, but
            careful programs write the goal first.
        goal_enables_torque: writing a goal switches torque on. Several owners of firmware 3.10 report it, no manual.
    """

    overload_latched: bool = True
    goal_follows: bool = True
    goal_enables_torque: bool = False


@dataclass
class Measurements:
    """Measurements of a servo, in the direction of its shaft.

    position: steps, not wrapped, before the homing offset. velocity: steps/s. load: share of the stall torque, in
    [-1, 1]. voltage: V.
    """

    position: float = 0.0
    velocity: float = 0.0
    load: float = 0.0
    voltage: float = ServoModel.supply


class Servo:
    """Registers and protections of one servo; `physics.PositionControl` moves its joint.

    A servo fresh from the factory has the id 1. `changed` is set by every write, for code that caches registers.
    heated_to: °C below which the servo does not cool.

    Args:
        id: on the bus.
        model: version of the servo.
        firmware: what is uncertain about its behaviour.
    """

    def __init__(self, id: int = 1, model: ServoModel = SERVO_MODELS["C001"], firmware: Firmware = Firmware()):
        self.model, self.firmware = model, firmware
        self.measurements = Measurements(voltage=model.supply)
        self.temperature = AMBIENT
        self.heated_to = 0.0
        self.changed = True
        self._memory = bytearray(MEMORY_SIZE)
        for name, register in REGISTERS.items():
            self._store(name, register.factory)
        self._store("Max_Voltage_Limit", model.max_voltage)
        self._factory = bytes(self._memory)
        self._store("ID", id)
        self._eeprom = bytes(self._memory[:EEPROM_END])
        self._pending: tuple[int, bytes] | None = None
        self._overloaded_for = self._overcurrent_for = 0.0
        self._starting_for = 0.0
        self._duty = 0.0
        self._turns = 0.0  # steps of the turns that are not counted, with full-angle feedback
        self._step_goal = 0.0  # goal of the step mode

    # --- bus ---

    @property
    def id(self) -> int:
        return self.get("ID")

    @property
    def error(self) -> int:
        """Error byte of every answer, also of the answer to Torque_Enable = 0."""
        return self.get("Status")

    @property
    def answers(self) -> bool:
        """False while the servo starts."""
        return self._starting_for <= 0

    def read(self, address: int, length: int) -> bytes:
        """Present values of registers. Beyond the last address there are zeros, as in the servo."""
        self._refresh()
        return bytes(self._memory[address : address + length]).ljust(length, b"\0")

    def write(self, address: int, data: bytes) -> None:
        """Write registers. Read-only ones keep their value; EEPROM survives a loss of power only if Lock is 0."""
        torque = REGISTERS["Torque_Enable"].address
        if address <= torque < address + len(data):
            self._switch_torque(data[torque - address])
        for register, value in enumerate(data, address):
            if register < MEMORY_SIZE and register not in READ_ONLY and register != torque:
                self._memory[register] = value
        if not self.get("Lock"):
            self._eeprom = bytes(self._memory[:EEPROM_END])
        self._react(range(address, address + len(data)))
        self.changed = True

    def write_later(self, address: int, data: bytes) -> None:
        """Store a write until `write_pending`."""
        self._pending = address, data
        self._store("Async_Write_Flag", 1)

    def write_pending(self) -> None:
        """Execute the stored write, if there is one."""
        if self._pending is not None:
            self.write(*self._pending)
            self._pending = None
            self._store("Async_Write_Flag", 0)

    def recover(self) -> None:
        """Set the EEPROM to its factory values except for the id, if it is unlocked.

        The manual of the protocol: "restore other parameters of the servo except the ID number", "unlock the EPROM
        parameters before". Not verified on an STS3215: that the id stays, and that a locked servo changes nothing.
        """
        if not self.get("Lock"):
            servo_id = self.id
            self._memory[:EEPROM_END] = self._factory[:EEPROM_END]
            self.set("ID", servo_id)

    def reset_turns(self) -> None:
        """Count turns from the present one ("number of turns cleared command"), as after a loss of power (V3.6)."""
        self._turns = float(np.floor(self._counted / RESOLUTION) * RESOLUTION)
        self.changed = True

    # --- physics ---

    def get(self, name: str) -> int:
        register = REGISTERS[name]
        return decode(register, bytes(self._memory[register.address : register.address + register.size]))

    def set(self, name: str, value: int) -> None:
        """Set a register, read-only ones too; EEPROM survives a loss of power."""
        self._store(name, value)
        if REGISTERS[name].address < EEPROM_END:
            self._eeprom = bytes(self._memory[:EEPROM_END])
        self.changed = True

    @property
    def position(self) -> int:
        """Present position in steps: in [0, 4095], or with full-angle feedback over all turns, negative ones too."""
        steps = round(self._counted - self._offset)
        return round(steps - self._turns) if self._phase(PhaseBit.FULL_ANGLE) else steps % RESOLUTION

    @property
    def polarity(self) -> int:
        """1 if the motor turns towards the goal, -1 if Phase lets it turn away."""
        return self._sense * self._drive

    def shaft_goal(self, position: float) -> float:
        """Goal in steps of the shaft, not wrapped, for a shaft at `position`.

        Without full-angle feedback it lies in the present turn of the shaft. Limits that are both 0 are none ("multi
        turn absolute position control").
        """
        low, high, offset = self.get("Min_Position_Limit"), self.get("Max_Position_Limit"), self._offset
        turns = self._turns
        if not self._phase(PhaseBit.FULL_ANGLE):
            turns = np.floor((self._sense * position - offset) / RESOLUTION) * RESOLUTION
        stepping = self.get("Operating_Mode") == STEP_MODE
        goal = self._step_goal - turns - offset if stepping else self.get("Goal_Position")
        if low < high:
            goal = min(max(goal, low), high)
        return self._sense * (goal + turns + offset)

    @property
    def goal_speed(self) -> float:
        """Goal_Velocity in steps/s of the shaft, signed; inf for the greatest speed."""
        if speed := self.get("Goal_Velocity"):
            return self._sense * speed * self._speed_unit
        # In velocity mode owners stop a wheel with 0, with the factory's Phase.
        fastest = self._phase(PhaseBit.ZERO_IS_FASTEST) and self.get("Operating_Mode") != VELOCITY_MODE
        return np.inf if fastest else 0.0

    @property
    def goal_duty(self) -> float:
        """Duty cycle that the PWM mode asks for, in the direction of the shaft, within the limit of torque."""
        share = self.torque_share
        return self._drive * min(max(self.get("Goal_Time") / 1000, -share), share)

    def hold(self) -> None:
        """Set the goal to the present position."""
        self._store("Goal_Position", self.position)
        self._step_goal = self._counted
        self.changed = True

    @property
    def torque_share(self) -> float:
        """Torque that it may use, as a share of the stall torque: 0 with torque off, little after an overload.

        Unloading_Condition names the faults that take torque away (V3.6: "enable corresponding protection"): an
        overload leaves Protective_Torque, the others nothing. That the others leave nothing is not verified.
        """
        unloading = self.error & self.get("Unloading_Condition")
        if not self.get("Torque_Enable") or unloading & ~ErrorBit.OVERLOAD:
            return 0.0
        share = min(self.get("Torque_Limit"), self.get("Max_Torque_Limit"), 1000) / 1000
        return min(share, self.get("Protective_Torque") / 100) if unloading & ErrorBit.OVERLOAD else share

    def power_up(self, silent_for: float = 0.0) -> None:
        """Restart after a loss of power: EEPROM as last saved, other registers as from the factory, torque off.

        silent_for: seconds of the start, in which the servo does not answer.
        """
        self._memory = bytearray(self._eeprom + self._factory[EEPROM_END:])
        self._store("Torque_Limit", self.get("Max_Torque_Limit"))
        self._pending, self._starting_for = None, silent_for
        self._overloaded_for = self._overcurrent_for = 0.0
        self.reset_turns()

    def update(self, dt: float, measurements: Measurements) -> None:
        """Advance temperature, timers of protections and error bits by `dt` seconds."""
        self.measurements = measurements
        self._starting_for = max(0.0, self._starting_for - dt)
        share, duty = self.torque_share, measurements.load
        if abs(duty) < share - _SATURATED:  # a motor that turns needs voltage for its speed, too
            duty += measurements.velocity / self.model.fastest
        self._duty = self._drive * min(max(duty, -share), share)
        self.temperature += dt * (_HEATING * measurements.load**2 - _COOLING * (self.temperature - AMBIENT))
        self.temperature = max(self.temperature, self.heated_to)
        error = self.error & _LATCHED | self._protect(dt)
        if self.temperature > self.get("Max_Temperature_Limit"):
            error |= ErrorBit.OVERHEAT
        if not self.get("Min_Voltage_Limit") <= measurements.voltage * 10 <= self.get("Max_Voltage_Limit"):
            error |= ErrorBit.VOLTAGE
        if error != self.error:
            self._store("Status", error)
            self.changed = True

    def _protect(self, dt: float) -> int:
        """Error bits of the protections that act after a time."""
        overload = abs(self._duty) * 100 > self.get("Overload_Torque")
        overcurrent = abs(self._current) > self.get("Protection_Current")
        self._overloaded_for = self._overloaded_for + dt if overload else 0.0
        self._overcurrent_for = self._overcurrent_for + dt if overcurrent else 0.0
        error = 0
        if self._overloaded_for * 100 > self.get("Protection_Time"):
            error |= ErrorBit.OVERLOAD
        if self._overcurrent_for * 100 > self.get("Over_Current_Protection_Time"):
            error |= ErrorBit.OVERCURRENT
        return error

    def _react(self, written: range) -> None:
        """Effects of a write beyond its registers."""
        mode = self.get("Operating_Mode")
        if REGISTERS["Phase"].address in written:
            self.reset_turns()
        if REGISTERS["Operating_Mode"].address in written:
            self._step_goal = self._counted
        goal = REGISTERS["Goal_Velocity" if mode == VELOCITY_MODE else "Goal_Position"].address in written
        if goal and mode == STEP_MODE:  # steps from the last goal; that it is not the present position is not verified
            self._step_goal += self.get("Goal_Position")
        if goal and self.firmware.goal_enables_torque:
            self._store("Torque_Enable", 1)

    def _switch_torque(self, value: int) -> None:
        if value == CENTRE_HERE:
            self._store("Homing_Offset", round(self._counted) % RESOLUTION - RESOLUTION // 2)
            return
        if value and not self.get("Torque_Enable") and self.firmware.goal_follows:
            self.hold()
        if not value and not self.firmware.overload_latched:
            self._store("Status", self.error & ~_LATCHED)
            self._overloaded_for = self._overcurrent_for = 0.0
        self._store("Torque_Enable", int(value > 0))

    # --- Phase ---

    def _phase(self, bit: PhaseBit) -> bool:
        return bool(self.get("Phase") & bit)

    @property
    def _sense(self) -> int:
        """1 if the reading grows with the shaft's angle, -1 if it falls."""
        return -1 if self._phase(PhaseBit.SENSOR_REVERSED) else 1

    @property
    def _drive(self) -> int:
        """1 if a positive duty cycle turns the shaft forward, -1 if back."""
        return -1 if self._phase(PhaseBit.MOTOR_REVERSED) else 1

    @property
    def _counted(self) -> float:
        """Reading of the sensor in steps, not wrapped, before the homing offset."""
        return self._sense * self.measurements.position

    @property
    def _offset(self) -> int:
        """Steps between the sensor's reading and the position.

        Owners report that the velocity mode goes without the homing offset (matthieuvigne/STS_servos issue 9, LeRobot's
        automatic calibration for firmware 3.10).
        """
        return 0 if self.get("Operating_Mode") == VELOCITY_MODE else self.get("Homing_Offset")

    @property
    def _speed_unit(self) -> int:
        """steps/s of the unit of Goal_Velocity and Present_Velocity."""
        return 1 if self._phase(PhaseBit.FINE_SPEED) else _COARSE_SPEED

    @property
    def _current(self) -> float:
        """Current in the unit of Present_Current, signed."""
        return self._drive * self.measurements.load * self.model.stall_current / _CURRENT_UNIT

    # --- memory ---

    def _refresh(self) -> None:
        velocity = self._sense * self.measurements.velocity
        self._store("Present_Position", self.position)
        self._store("Present_Velocity", round(velocity / self._speed_unit))
        self._store("Present_Load", round(self._duty * 1000))
        self._store("Present_Voltage", min(255, max(0, round(self.measurements.voltage * 10))))
        self._store("Present_Temperature", min(255, max(0, round(self.temperature))))
        self._store("Present_Current", round(self._current))
        self._store("Moving", int(abs(velocity) > _MOVING))
        self._store("Goal_Position_2", abs(self.get("Goal_Position")))

    def _store(self, name: str, value: int) -> None:
        register = REGISTERS[name]
        self._memory[register.address : register.address + register.size] = encode(register, value)
