"""What a person's pose is while they have taken over; whatever they ask for passes the safety layer as all else."""

import contextlib
import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import draccus
import lerobot.teleoperators
import numpy as np
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig
from lerobot.teleoperators.utils import make_teleoperator_from_config
from lerobot.utils.import_utils import register_third_party_plugins

from tinyvla.errors import UserError

from ..safety import EmergencyStop
from ..terminal import Keys
from .gamepad import GamepadOperator

TOGGLE, STOP = "t", " "
JOGS = ("qa", "ws", "ed", "rf", "yh", "uj")  # up and down, a pair a joint, in the joints' order
_JOG = 2.0  # LeRobot's units a key press; terminals repeat a key that is held about 30 times a second

Operator = Callable[[Mapping[str, Any]], np.ndarray | None]


class LeaderOperator:
    """A leader arm: while taken over, the arm goes where the leader is held."""

    def __init__(self, leader: Teleoperator, joints: Sequence[str]) -> None:
        """Raises UserError if the leader has other joints."""
        self._keys = [f"{joint}.pos" for joint in joints]
        self._leader = leader
        self.active = False
        if set(self._keys) - set(leader.action_features):
            raise UserError(
                f"takeover.type={leader.name} does not give {', '.join(self._keys)}; use the leader of this arm, such "
                "as so101_leader, or takeover.type=keyboard"
            )

    def toggle(self) -> None:
        """Take over, or let the policy go on."""
        self.active = not self.active

    def __call__(self, observation: Mapping[str, Any]) -> np.ndarray | None:
        if not self.active:
            return None
        action = self._leader.get_action()
        return np.array([action[key] for key in self._keys], dtype=float)

    def keys(self) -> dict[str, Callable[[], object]]:
        return {TOGGLE: self.toggle}


class KeyboardOperator:
    """Keys that turn one joint each, up or down: the first one takes over, from where the arm is."""

    def __init__(self, joints: Sequence[str]) -> None:
        """Raises UserError for an arm with more joints than there are pairs of keys."""
        if len(joints) > len(JOGS):
            raise UserError(f"takeover.type=keyboard is for up to {len(JOGS)} joints; use a leader arm")
        self._keys = [f"{joint}.pos" for joint in joints]
        self._moved = np.zeros(len(joints))  # since the arm's pose was taken; other threads add to it
        self._from: np.ndarray | None = None
        self.active = False

    def toggle(self) -> None:
        """Take over, or let the policy go on."""
        self.active = not self.active

    def jog(self, joint: int, by: float) -> None:
        """Turn a joint, and take over if that has not happened yet."""
        if not self.active:
            self._moved[:] = 0.0
            self._from = None
            self.active = True
        self._moved[joint] += by

    def __call__(self, observation: Mapping[str, Any]) -> np.ndarray | None:
        if not self.active:
            self._from = None
            self._moved[:] = 0.0
            return None
        if self._from is None:
            self._from = np.array([observation[key] for key in self._keys], dtype=float)
        return self._from + self._moved

    def keys(self) -> dict[str, Callable[[], object]]:
        def turn(joint: int, by: float) -> Callable[[], object]:
            return lambda: self.jog(joint, by)

        pairs = list(enumerate(JOGS[: len(self._keys)]))
        up = {pair[0]: turn(joint, _JOG) for joint, pair in pairs}
        down = {pair[1]: turn(joint, -_JOG) for joint, pair in pairs}
        return {TOGGLE: self.toggle, **up, **down}


@contextlib.contextmanager
def connect_operator(
    settings: Mapping[str, Any], joints: Sequence[str], stop: EmergencyStop
) -> Iterator[Operator | None]:
    """A person who may take over for the while, and the keys: t takes over and gives back, space stops the arm.

    settings: the `takeover` configuration: `type` is null for nobody, keyboard, gamepad, or the name of a leader arm of
    LeRobot's, whose settings the others are. Raises UserError for one that does not exist, does not fit or does not
    connect.
    """
    kind = settings.get("type")
    person: LeaderOperator | KeyboardOperator | GamepadOperator | None = None
    with contextlib.ExitStack() as stack:
        if kind == "keyboard":
            person = KeyboardOperator(joints)
        elif kind == "gamepad":
            pad = make_teleoperator({"type": "gamepad"})
            person = GamepadOperator(pad, joints)
            _connect_gamepad(pad)
            stack.callback(pad.disconnect)
        elif kind is not None:
            leader = make_teleoperator(settings)
            person = LeaderOperator(leader, joints)
            _connect(leader)
            stack.callback(leader.disconnect)
        actions = person.keys() if person is not None else {}
        stack.enter_context(Keys({STOP: lambda: stop.press("key"), **actions}).read())
        yield person


def make_teleoperator(settings: Mapping[str, Any]) -> Teleoperator:
    """The LeRobot teleoperator of a `takeover` configuration, not yet connected."""
    kind = str(settings["type"])
    known: Callable[[], dict[str, type]] = TeleoperatorConfig.get_known_choices
    if kind not in known():
        for module in pkgutil.iter_modules(lerobot.teleoperators.__path__, "lerobot.teleoperators."):
            with contextlib.suppress(ImportError):  # it needs packages of its own
                importlib.import_module(module.name)
        register_third_party_plugins()
    if kind not in known():
        near = " or ".join(difflib.get_close_matches(kind, known())) or ", ".join(sorted(known()))
        raise UserError(f"LeRobot knows no teleoperator {kind!r}; did you mean {near}?")
    if "port" in settings and not settings["port"]:
        raise UserError("takeover.port is not given; add takeover.port=/dev/ttyACM1 or alike (lerobot-find-port)")
    try:
        return make_teleoperator_from_config(draccus.decode(TeleoperatorConfig, dict(settings)))
    except (draccus.utils.DecodingError, ValueError, TypeError, ImportError) as error:
        raise UserError(f"{kind} cannot be made of these settings: {error}; mend takeover.*") from error


def _connect(leader: Teleoperator) -> None:
    try:
        leader.connect(calibrate=False)
    except (ConnectionError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the leader arm does not connect: {reason}; check takeover.port, cable and power") from error
    if not leader.is_calibrated:
        leader.disconnect()
        raise UserError("the leader arm is not calibrated; calibrate it with lerobot-calibrate --teleop.type=...")


def _connect_gamepad(pad: Any) -> None:
    try:
        with contextlib.redirect_stdout(None):  # LeRobot prints keys, some of which have no meaning here
            pad.connect()
    except ImportError as error:
        raise UserError("a gamepad needs pygame; install it: uv sync --extra gamepad") from error
    if not pad.gamepad.running:
        pad.disconnect()
        raise UserError("no gamepad is there; plug one in, or use takeover.type=keyboard")
