"""One STS3215 as the bus sees it: its memory, what a write does, and how it protects itself."""

from dataclasses import dataclass

from ..feetech.protocol import ErrorBit
from ..feetech.registers import CENTRE_HERE, EEPROM_END, MEMORY_SIZE, READ_ONLY, REGISTERS, RESOLUTION, decode, encode

AMBIENT = 25.0  # °C
SUPPLY = 7.4  # V
_HEATING, _COOLING = 0.5, 1 / 120  # K/s at stall torque; share of the excess over AMBIENT lost a second
_STALL_CURRENT = 2.4 / 0.0065  # in the units of Present_Current
_MOVING = 10  # steps/s above which Moving is 1


@dataclass
class Measurements:
    """What the servo measures. position: steps, not wrapped, before the homing offset. load: share of the stall
    torque, in [-1, 1]."""

    position: float = 0.0
    velocity: float = 0.0  # steps/s
    load: float = 0.0
    voltage: float = SUPPLY


class Servo:
    """Registers and protections of one servo. `control.py` reads from it how to move.

    A servo fresh from the factory has the id 1. `changed` is set by every write, for whoever caches registers.
    """

    def __init__(self, id: int = 1):
        self.measurements = Measurements()
        self.temperature = AMBIENT
        self.heated_to = 0.0  # °C below which it does not cool
        self.changed = True
        self._memory = bytearray(MEMORY_SIZE)
        for name, register in REGISTERS.items():
            self._store(name, register.factory)
        self._store("ID", id)
        self._eeprom = bytes(self._memory[:EEPROM_END])
        self._factory_sram = bytes(self._memory[EEPROM_END:])
        self._staged: tuple[int, bytes] | None = None
        self._overloaded_for = 0.0
        self._off_for = 0.0

    # --- the bus's side ---

    @property
    def id(self) -> int:
        return self.get("ID")

    @property
    def error(self) -> int:
        """The error byte of every answer."""
        return self.get("Status")

    @property
    def answers(self) -> bool:
        """Not so while it starts."""
        return self._off_for <= 0

    def read(self, address: int, length: int) -> bytes:
        """Registers as they are now. Beyond the last address there are zeros, as in the servo."""
        self._refresh()
        return bytes(self._memory[address : address + length]).ljust(length, b"\0")

    def write(self, address: int, data: bytes) -> None:
        """Write registers. Read-only ones keep their value; EEPROM is only kept for good while Lock is 0."""
        torque = REGISTERS["Torque_Enable"].address
        if address <= torque < address + len(data):
            self._switch_torque(data[torque - address])
        for here, value in enumerate(data, address):
            if here < MEMORY_SIZE and here not in READ_ONLY and here != torque:
                self._memory[here] = value
        if not self.get("Lock"):
            self._eeprom = bytes(self._memory[:EEPROM_END])
        self.changed = True

    def stage(self, address: int, data: bytes) -> None:
        """Keep a write until `act`."""
        self._staged = address, data

    def act(self) -> None:
        """Do the staged write, if there is one."""
        if self._staged is not None:
            self.write(*self._staged)
            self._staged = None

    # --- the inside ---

    def get(self, name: str) -> int:
        register = REGISTERS[name]
        return decode(register, bytes(self._memory[register.address : register.address + register.size]))

    def set(self, name: str, value: int) -> None:
        """Set a register from inside, read-only ones too, for good if it is EEPROM."""
        self._store(name, value)
        if REGISTERS[name].address < EEPROM_END:
            self._eeprom = bytes(self._memory[:EEPROM_END])
        self.changed = True

    @property
    def position(self) -> int:
        """The present position in steps, in [0, 4095]."""
        return round(self.measurements.position - self.get("Homing_Offset")) % RESOLUTION

    @property
    def torque_share(self) -> float:
        """The torque it may use, as a share of the stall torque: 0 with torque off, little after an overload."""
        if not self.get("Torque_Enable") or self.error & self.get("Unloading_Condition") & ~ErrorBit.OVERLOAD:
            return 0.0
        share = min(self.get("Torque_Limit"), self.get("Max_Torque_Limit")) / 1000
        return min(share, self.get("Protective_Torque") / 100) if self.error & ErrorBit.OVERLOAD else share

    def power_up(self, silent_for: float = 0.0) -> None:
        """Lose power and get it again: EEPROM as last saved, everything else as at the start, torque off. It says
        nothing for `silent_for` seconds, while it starts."""
        self._memory = bytearray(self._eeprom + self._factory_sram)
        self._store("Torque_Limit", self.get("Max_Torque_Limit"))
        self._staged, self._overloaded_for, self._off_for = None, 0.0, silent_for
        self.changed = True

    def live(self, dt: float, measurements: Measurements) -> None:
        """Let `dt` seconds pass: temperature, overload timer and the error bits that follow from them."""
        self.measurements = measurements
        self._off_for = max(0.0, self._off_for - dt)
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
            self._store("Goal_Position", self.position)  # so that it holds where it is
        if not value:  # an overload is over when the servo gives in
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
