"""One STS3215 servo: its memory, the effects of a write, and its protections."""

from dataclasses import dataclass

from ..feetech.protocol import ErrorBit
from ..feetech.registers import CENTRE_HERE, EEPROM_END, MEMORY_SIZE, READ_ONLY, REGISTERS, RESOLUTION, decode, encode

AMBIENT = 25.0  # °C
SUPPLY = 7.4  # V
_HEATING, _COOLING = 0.5, 1 / 120  # K/s at stall torque; share of the excess over AMBIENT lost per second
_STALL_CURRENT = 2.4 / 0.0065  # in the units of Present_Current
_MOVING = 10  # steps/s above which Moving is 1


@dataclass
class Measurements:
    """Measurements of a servo.

    position: steps, not wrapped, before the homing offset. velocity: steps/s. load: share of the stall torque, in
    [-1, 1]. voltage: V.
    """

    position: float = 0.0
    velocity: float = 0.0
    load: float = 0.0
    voltage: float = SUPPLY


class Servo:
    """Registers and protections of one servo; `physics.PositionControl` moves its joint.

    A servo fresh from the factory has the id 1. `changed` is set by every write, for code that caches registers.
    heated_to: °C below which the servo does not cool.
    """

    def __init__(self, id: int = 1):
        self.measurements = Measurements()
        self.temperature = AMBIENT
        self.heated_to = 0.0
        self.changed = True
        self._memory = bytearray(MEMORY_SIZE)
        for name, register in REGISTERS.items():
            self._store(name, register.factory)
        self._store("ID", id)
        self._eeprom = bytes(self._memory[:EEPROM_END])
        self._factory_sram = bytes(self._memory[EEPROM_END:])
        self._pending: tuple[int, bytes] | None = None
        self._overloaded_for = 0.0
        self._starting_for = 0.0

    # --- bus ---

    @property
    def id(self) -> int:
        return self.get("ID")

    @property
    def error(self) -> int:
        """Error byte of every answer."""
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
        self.changed = True

    def write_later(self, address: int, data: bytes) -> None:
        """Store a write until `write_pending`."""
        self._pending = address, data

    def write_pending(self) -> None:
        """Execute the stored write, if there is one."""
        if self._pending is not None:
            self.write(*self._pending)
            self._pending = None

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
        """Present position in steps, in [0, 4095]."""
        return round(self.measurements.position - self.get("Homing_Offset")) % RESOLUTION

    @property
    def torque_share(self) -> float:
        """Torque that it may use, as a share of the stall torque: 0 with torque off, little after an overload."""
        if not self.get("Torque_Enable") or self.error & self.get("Unloading_Condition") & ~ErrorBit.OVERLOAD:
            return 0.0
        share = min(self.get("Torque_Limit"), self.get("Max_Torque_Limit")) / 1000
        return min(share, self.get("Protective_Torque") / 100) if self.error & ErrorBit.OVERLOAD else share

    def power_up(self, silent_for: float = 0.0) -> None:
        """Restart after a loss of power: EEPROM as last saved, other registers as from the factory, torque off.

        silent_for: seconds of the start, in which the servo does not answer.
        """
        self._memory = bytearray(self._eeprom + self._factory_sram)
        self._store("Torque_Limit", self.get("Max_Torque_Limit"))
        self._pending, self._overloaded_for, self._starting_for = None, 0.0, silent_for
        self.changed = True

    def update(self, dt: float, measurements: Measurements) -> None:
        """Advance temperature, overload timer and error bits by `dt` seconds."""
        self.measurements = measurements
        self._starting_for = max(0.0, self._starting_for - dt)
        self.temperature += dt * (_HEATING * measurements.load**2 - _COOLING * (self.temperature - AMBIENT))
        self.temperature = max(self.temperature, self.heated_to)
        overload = abs(measurements.load) * 100 > self.get("Overload_Torque")
        self._overloaded_for = self._overloaded_for + dt if overload else 0.0
        error = self.error & ErrorBit.OVERLOAD
        if self._overloaded_for * 100 > self.get("Protection_Time"):
            error |= ErrorBit.OVERLOAD
        if self.temperature > self.get("Max_Temperature_Limit"):
            error |= ErrorBit.OVERHEAT
        if not self.get("Min_Voltage_Limit") <= measurements.voltage * 10 <= self.get("Max_Voltage_Limit"):
            error |= ErrorBit.VOLTAGE
        if error != self.error:
            self._store("Status", error)
            self.changed = True

    def _switch_torque(self, value: int) -> None:
        if value == CENTRE_HERE:
            self._store("Homing_Offset", round(self.measurements.position) % RESOLUTION - RESOLUTION // 2)
            return
        if value and not self.get("Torque_Enable"):
            self._store("Goal_Position", self.position)  # so that it holds its position
        if not value:  # switching torque off ends an overload
            self._store("Status", self.error & ~ErrorBit.OVERLOAD)
            self._overloaded_for = 0.0
        self._store("Torque_Enable", int(value > 0))

    def _refresh(self) -> None:
        self._store("Present_Position", self.position)
        self._store("Present_Velocity", round(self.measurements.velocity))
        self._store("Present_Load", round(self.measurements.load * 1000))
        self._store("Present_Voltage", min(255, max(0, round(self.measurements.voltage * 10))))
        self._store("Present_Temperature", min(255, max(0, round(self.temperature))))
        self._store("Present_Current", round(self.measurements.load * _STALL_CURRENT))
        self._store("Moving", int(abs(self.measurements.velocity) > _MOVING))
        self._store("Goal_Position_2", abs(self.get("Goal_Position")))

    def _store(self, name: str, value: int) -> None:
        register = REGISTERS[name]
        self._memory[register.address : register.address + register.size] = encode(register, value)
