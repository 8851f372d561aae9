"""Operators: people who take over from the policy by leader arm, keyboard or gamepad.

The pose that an operator asks for passes the safety layer like any other command.
"""

import contextlib
import importlib
import math
import pkgutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, cast

import draccus
import lerobot.teleoperators
import numpy as np
from lerobot.motors import MotorNormMode
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig
from lerobot.teleoperators.utils import make_teleoperator_from_config
from lerobot.utils.import_utils import register_third_party_plugins

from tinyvla.errors import UserError, did_you_mean, one_line

from ..arms import prepare_bus
from ..safety import EmergencyStop
from ..terminal import KeyListener
from .gamepad import GamepadOperator

TOGGLE, STOP = "t", " "
JOGS = ("qa", "ws", "ed", "rf", "yh", "uj")  # keys that turn a joint up and down, one pair per joint, in their order
_HOLD_S = 0.5  # seconds without an answer of the leader arm, in which its last pose counts, until it has failed
_JOG = 2.0  # LeRobot's units per key press; terminals repeat a key that is held about 30 times per second

# Decoded section `takeover`: keyboard, gamepad, LeRobot's configuration of a leader arm, or None for no operator.
type Takeover = Literal["keyboard", "gamepad"] | TeleoperatorConfig | None


class KeyedOperator(Protocol):
    """Operator as the control loop and the terminal use it."""

    def __call__(self, observation: Mapping[str, Any]) -> np.ndarray | None:
        """Pose that the person asks for, (joints,) in LeRobot's units; None while the policy acts."""

    def keys(self) -> dict[str, Callable[[], object]]:
        """Actions by key of the terminal."""


class LeaderOperator:
    """Leader arm: while the person has taken over, the arm goes to the leader's pose.

    Raises UserError if the leader has other joints.
    """

    def __init__(self, leader: Teleoperator, joints: Sequence[str]) -> None:
        self._keys = [f"{joint}.pos" for joint in joints]
        self._leader = leader
        self._pose: np.ndarray | None = None
        self._read_at = -math.inf
        self.active = False
        if set(self._keys) - set(leader.action_features):
            raise UserError(
                f"the device {leader.name} does not give {', '.join(self._keys)}; use the leader of this arm, such as "
                "so101_leader"
            )
        _check_units(leader)

    def toggle(self) -> None:
        """Take over, or let the policy go on."""
        self.active = not self.active

    def __call__(self, observation: Mapping[str, Any]) -> np.ndarray | None:
        if not self.active:
            return None
        try:
            action = self._leader.get_action()
        except (OSError, RuntimeError) as error:  # one lost packet must not end the run
            if self._pose is None or time.monotonic() - self._read_at > _HOLD_S:
                raise UserError(f"the leader arm failed: {one_line(error)}; check its cable and power") from error
            return self._pose
        self._pose, self._read_at = np.array([action[key] for key in self._keys], dtype=float), time.monotonic()
        return self._pose

    def keys(self) -> dict[str, Callable[[], object]]:
        return {TOGGLE: self.toggle}


def _check_units(leader: Teleoperator) -> None:
    """Raise UserError for a leader whose joints are in shares of their ranges, which would be followed as degrees."""
    motors = getattr(getattr(leader, "bus", None), "motors", {})
    if any(motor.norm_mode is MotorNormMode.RANGE_M100_100 for motor in motors.values()):
        raise UserError(
            f"the device {leader.name} gives -100 to 100 for a joint and the arm is steered in degrees; leave out its "
            "use_degrees=false, or use a leader that can give degrees"
        )


class KeyboardOperator:
    """Keys that turn one joint each, up or down: the first one takes over, from the arm's pose.

    Raises UserError for an arm with more joints than there are pairs of keys.
    """

    def __init__(self, joints: Sequence[str]) -> None:
        if len(joints) > len(JOGS):
            raise UserError(f"takeover.type=keyboard is for up to {len(JOGS)} joints; use a leader arm")
        self._keys = [f"{joint}.pos" for joint in joints]
        self._offset = np.zeros(len(joints))  # from the start pose; the thread that reads keys adds to it
        self._start: np.ndarray | None = None
        self.active = False

    def toggle(self) -> None:
        """Take over, or let the policy go on."""
        self.active = not self.active

    def jog(self, joint: int, step: float) -> None:
        """Turn a joint, and take over if that has not happened yet."""
        if not self.active:
            self._offset[:] = 0.0
            self._start = None
            self.active = True
        self._offset[joint] += step

    def __call__(self, observation: Mapping[str, Any]) -> np.ndarray | None:
        if not self.active:
            self._start = None
            self._offset[:] = 0.0
            return None
        if self._start is None:
            self._start = np.array([observation[key] for key in self._keys], dtype=float)
        return self._start + self._offset

    def keys(self) -> dict[str, Callable[[], object]]:
        def turn(joint: int, step: float) -> Callable[[], object]:
            return lambda: self.jog(joint, step)

        pairs = list(enumerate(JOGS[: len(self._keys)]))
        up = {pair[0]: turn(joint, _JOG) for joint, pair in pairs}
        down = {pair[1]: turn(joint, -_JOG) for joint, pair in pairs}
        return {TOGGLE: self.toggle, **up, **down}


def decode_takeover(section: Mapping[str, Any], name: str = "takeover") -> Takeover:
    """Decode a `takeover` section: `type` is null, keyboard, gamepad, or LeRobot's name of a leader arm.

    The other settings are those of the leader arm. Raises UserError for an unknown type or setting, or a missing port.

    name: of the section, for messages.
    """
    kind = section.get("type")
    if kind in (None, "keyboard", "gamepad"):
        return cast(Takeover, kind)
    known: Mapping[str, type] = TeleoperatorConfig.get_known_choices()
    if kind not in known:
        for module in pkgutil.iter_modules(lerobot.teleoperators.__path__, "lerobot.teleoperators."):
            with contextlib.suppress(ImportError):  # it needs packages of its own
                importlib.import_module(module.name)
        register_third_party_plugins()
        known = TeleoperatorConfig.get_known_choices()
    if kind not in known:
        raise UserError(f"LeRobot knows no teleoperator {kind!r}; {did_you_mean(str(kind), known)}")
    if "port" in section and not section["port"]:
        raise UserError(f"{name}.port is not given; add {name}.port=/dev/ttyACM1 or alike (robot_setup.py step=find)")
    try:
        return draccus.decode(TeleoperatorConfig, dict(section))
    except (draccus.utils.DecodingError, ValueError, TypeError, ImportError) as error:
        raise UserError(f"{kind} cannot be built from these settings: {error}; fix {name}.*") from error


@contextlib.contextmanager
def connect_operator(
    takeover: Takeover, joints: Sequence[str], stop: EmergencyStop, keys: Mapping[str, Callable[[], bool]] | None = None
) -> Iterator[KeyedOperator | None]:
    """Connect an operator for the block, and the keys: t takes over and gives back, space stops the arm.

    keys: further actions by key; they return True if they used the key, which is the operator's otherwise.

    Raises UserError for a device that does not exist, does not fit or does not connect.
    """
    operator: KeyedOperator | None = None
    with contextlib.ExitStack() as stack:
        if takeover == "keyboard":
            operator = KeyboardOperator(joints)
        elif takeover == "gamepad":
            pad = _make_teleoperator(_gamepad_config())
            operator = GamepadOperator(pad, joints)
            _connect_gamepad(pad)
            stack.callback(pad.disconnect)
        elif takeover is not None:
            leader = _make_teleoperator(takeover)
            operator = LeaderOperator(leader, joints)
            _connect_leader(leader)
            stack.callback(leader.disconnect)
        actions = {STOP: lambda: stop.press("key")} | (operator.keys() if operator is not None else {})
        for key, action in (keys or {}).items():
            actions[key] = _either(action, actions.get(key))
        stack.enter_context(KeyListener(actions).listen())
        yield operator


def _either(first: Callable[[], bool], second: Callable[[], object] | None) -> Callable[[], object]:
    return lambda: first() or (second is not None and second())


def _make_teleoperator(config: TeleoperatorConfig) -> Teleoperator:
    try:
        teleoperator = make_teleoperator_from_config(config)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"{config.type} cannot be built from these settings: {error}; fix them") from error
    prepare_bus(teleoperator)
    return teleoperator


def _gamepad_config() -> TeleoperatorConfig:
    from lerobot.teleoperators.gamepad import GamepadTeleopConfig

    return GamepadTeleopConfig()


def _connect_leader(leader: Teleoperator) -> None:
    try:
        leader.connect(calibrate=False)
    except (ConnectionError, OSError, RuntimeError) as error:
        reason = one_line(error, None)
        raise UserError(f"the leader arm does not connect: {reason}; check its port, cable and power") from error
    if not leader.is_calibrated:
        leader.disconnect()
        raise UserError("the leader arm is not calibrated; calibrate it: robot_setup.py robot=<leader> step=calibrate")


def _connect_gamepad(pad: Any) -> None:
    try:
        with contextlib.redirect_stdout(None):  # LeRobot prints keys, some of which have no meaning here
            pad.connect()
    except ImportError as error:
        raise UserError("a gamepad needs pygame; install it: uv sync --extra gamepad") from error
    if not pad.gamepad.running:
        pad.disconnect()
        raise UserError("there is no gamepad; plug one in, or use takeover.type=keyboard")
