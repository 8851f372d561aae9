"""LeRobot's bus of Feetech servos over a `Line`, so that late answers do not become readings."""

import time
from collections.abc import Callable
from typing import Any

import serial
from lerobot.motors.feetech import FeetechMotorsBus, feetech
from lerobot.motors.feetech.tables import MODEL_NUMBER

from .line import Line, Memory, NoAnswer
from .registers import REGISTERS

_FRESH_S = 0.02  # seconds for which registers that came along with an answer count as new
_TORQUE, _LOCK = REGISTERS["Torque_Enable"].address, REGISTERS["Lock"].address
# Registers that are always read together: position, velocity, load, voltage and temperature.
_BLOCK = range(REGISTERS["Present_Position"].address, REGISTERS["Present_Temperature"].address + 1)


class FeetechBus(FeetechMotorsBus):
    """LeRobot's bus with its transport replaced: units, calibration and errors are LeRobot's.

    `sync_read` of one present value reads all of them from the servos. Each of the others is handed out once without
    another request, while it is fresh: a tick of the control loop asks once for positions, loads and temperatures.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._line = Line(self._patience_s)
        self._block: dict[int, Memory] = {}
        self._block_at = -float("inf")
        self._handed_out: set[int] = set()  # addresses

    @property
    def late_answers(self) -> int:
        """Number of answers so far that came late or twice, and were dropped."""
        return self._line.late

    def ping(self, motor: str | int, num_retry: int = 0, raise_on_error: bool = False) -> int | None:
        """Model number of a servo; None if it does not answer or reports a fault."""
        servo = self._get_motor_id(motor)
        address, length = MODEL_NUMBER
        model, comm, error = self._read(address, length, servo, num_retry=num_retry, raise_on_error=raise_on_error)
        return model if self._is_comm_success(comm) and not self._is_error(error) else None

    def enable_torque(self, motors: int | str | list[str] | None = None, num_retry: int = 0) -> None:
        """Switch torque on where the servos are.

        Whether a servo then sets its goal to its position by itself is not known for every firmware. Otherwise it would
        go to an old goal at full speed.
        """
        names = self._get_motors_list(motors)
        for motor, position in self.sync_read("Present_Position", names, normalize=False, num_retry=num_retry).items():
            self.write("Goal_Position", motor, position, normalize=False, num_retry=num_retry)
        super().enable_torque(motors, num_retry)

    def confirm_torque_off(self, motor: str, num_retry: int = 0) -> None:
        """Read back that a servo's torque is off, and switch it off if it is not, whatever fault the servo reports.

        The answer of a servo that names another's id counts, too. Raises ConnectionError if the torque is on or the
        servo does not answer.
        """
        servo = self.motors[motor].id
        message = f"Failed to switch off the torque of id_={servo}."
        if _retry(lambda: self._has_torque(servo), num_retry, message):
            _retry(lambda: self._line.write(self._port, servo, _TORQUE, b"\0"), num_retry, message)
            if _retry(lambda: self._has_torque(servo), num_retry, message):
                raise ConnectionError(f"{message} It stays on.")

    def error_byte(self, motor: str) -> int:
        """Error byte of a servo (`protocol.ErrorBit`). Raises ConnectionError if it does not answer."""
        return self._line.read_one(self._port, self.motors[motor].id, _TORQUE, 1).error

    @property
    def _port(self) -> serial.Serial:
        return self.port_handler.ser

    def _patience_s(self, length: int) -> float:
        self.port_handler.setPacketTimeout(length)  # LeRobot's
        return self.port_handler.packet_timeout / 1000

    def _has_torque(self, servo: int) -> bool:
        return self._line.read_one(self._port, servo, _TORQUE, 1, any_sender=True).value(_TORQUE, 1) != 0

    def _sync_read(
        self,
        addr: int,
        length: int,
        motor_ids: list[int],
        *,
        num_retry: int = 0,
        raise_on_error: bool = True,
        err_msg: str = "",
    ) -> tuple[dict[int, int], int]:
        present = addr in _BLOCK and addr + length <= _BLOCK.stop
        if present and self._is_fresh(addr, motor_ids):
            memories = self._block
        else:
            first, size = (_BLOCK.start, len(_BLOCK)) if present else (addr, length)
            try:
                memories = _retry(lambda: self._line.read(self._port, motor_ids, first, size), num_retry, err_msg)
            except ConnectionError:
                if raise_on_error:
                    raise
                return dict.fromkeys(motor_ids, 0), feetech.scs.COMM_RX_TIMEOUT
            if present:
                self._block, self._block_at, self._handed_out = memories, time.monotonic(), set()
        self._handed_out.add(addr)
        return {servo: memories[servo].value(addr, length) for servo in motor_ids}, self._comm_success

    def _is_fresh(self, address: int, ids: list[int]) -> bool:
        """True if the last block holds this register of these servos, new and not handed out yet."""
        new = time.monotonic() - self._block_at < _FRESH_S and address not in self._handed_out
        return new and set(ids) <= set(self._block)

    def _read(
        self,
        address: int,
        length: int,
        motor_id: int,
        *,
        num_retry: int = 0,
        raise_on_error: bool = True,
        err_msg: str = "",
    ) -> tuple[int, int, int]:
        try:
            memory = _retry(lambda: self._line.read_one(self._port, motor_id, address, length), num_retry, err_msg)
        except ConnectionError:
            if raise_on_error:
                raise
            return 0, feetech.scs.COMM_RX_TIMEOUT, 0
        if raise_on_error:
            self._check_error(memory.error, err_msg)
        return memory.value(address, length), self._comm_success, memory.error

    def _write(
        self,
        addr: int,
        length: int,
        motor_id: int,
        value: int,
        *,
        num_retry: int = 0,
        raise_on_error: bool = True,
        err_msg: str = "",
    ) -> tuple[int, int]:
        data = bytes(self._serialize_data(value, length))
        try:
            error = _retry(lambda: self._line.write(self._port, motor_id, addr, data), num_retry, err_msg)
        except ConnectionError:
            if raise_on_error:
                raise
            return feetech.scs.COMM_RX_TIMEOUT, 0
        if addr in (_TORQUE, _LOCK) and not value:
            error = 0  # a servo obeys whatever fault it reports, and has to be let go all the more
        if raise_on_error:
            self._check_error(error, err_msg)
        return self._comm_success, error

    def _check_error(self, error: int, message: str) -> None:
        """Raise RuntimeError if a servo has answered that it has a fault."""
        if self._is_error(error):
            raise RuntimeError(f"{message} {self.packet_handler.getRxPacketError(error)}")


def use_feetech_bus(device: Any) -> None:
    """Replace LeRobot's bus of a robot or leader with Feetech servos; other devices stay as they are."""
    bus = getattr(device, "bus", None)
    if bus is not None and type(bus) is FeetechMotorsBus and bus.protocol_version == 0:
        device.bus = FeetechBus(bus.port, bus.motors, bus.calibration, bus.protocol_version)


def _retry[T](exchange: Callable[[], T], num_retry: int, message: str) -> T:
    """Result of an exchange, tried again if there is no answer; ConnectionError with `message` after the last try."""
    while True:
        try:
            return exchange()
        except NoAnswer as error:
            if num_retry <= 0:
                raise ConnectionError(f"{message} {error}") from error
            num_retry -= 1
