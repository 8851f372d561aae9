"""Sessions of a policy server: one for each arm that has a policy open, until it closes it or falls silent."""

import secrets
import threading
import time
from collections.abc import Callable

from tinyvla.errors import UserError

from .policy_store import BusyError, PolicyStore, RandomState, ServedPolicy

Clock = Callable[[], float]
_SILENT_S = 60.0  # without a request; an arm that moves sends several per second


class SessionError(UserError):
    """A request that its session does not allow."""


class Session:
    """An arm's use of a policy.

    Attributes:
        sequence: number of the last request.
        random_state: of the policy's random numbers after the last chunk; None: there was none yet.
    """

    def __init__(self, name: str, policy: ServedPolicy, now: float) -> None:
        self.id = secrets.token_hex(16)
        self.name, self.policy, self.last_used = name, policy, now
        self.sequence = 0
        self.random_state: RandomState | None = None


class Sessions:
    """All sessions, of a bounded number."""

    def __init__(self, store: PolicyStore, size: int, idle_s: float, clock: Clock = time.monotonic) -> None:
        """size: greatest number. idle_s: seconds without a request after which a session ends."""
        self._store, self._size, self._idle_s, self._clock = store, size, idle_s, clock
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, name: str) -> Session:
        """New session for the checkpoint of a name. Raises UserError if it cannot be loaded, BusyError without room."""
        self._check_room()
        policy = self._store.open(name)
        session = Session(name, policy, self._clock())
        with self._lock:
            if len(self._sessions) < self._size:
                self._sessions[session.id] = session
                return session
        self._store.close(policy)  # another one was opened meanwhile
        self._check_room()
        raise BusyError("the policy server has just taken another arm; connect again")

    def use(self, session_id: str, sequence: int) -> Session:
        """The session of a request. Raises SessionError if it has ended, and for a late or repeated request."""
        self._end_idle()
        with self._lock:
            session = self._sessions.get(session_id)
            if session is None:
                raise SessionError("the policy server has no such session, it has ended; connect again")
            if sequence <= session.sequence:
                raise SessionError(
                    f"request {sequence} is late or repeated, the last one was {session.sequence}; connect again, and "
                    "use one connection per arm"
                )
            session.sequence, session.last_used = sequence, self._clock()
            return session

    def close(self, session_id: str) -> None:
        """End a session, unless it has ended already."""
        with self._lock:
            session = self._sessions.pop(session_id, None)
        if session is not None:
            self._store.close(session.policy)

    def _check_room(self) -> None:
        """Raise BusyError without room. An arm that was switched off gives way, though it never said so."""
        self._end_idle()
        if len(self._sessions) >= self._size:
            self._end_longest_silent()
        if len(self._sessions) >= self._size:
            raise BusyError(f"the policy server has {self._size} arms; close one, or start it with a larger sessions=")

    def _end_longest_silent(self) -> None:
        with self._lock:
            oldest = min(self._sessions.values(), key=lambda session: session.last_used, default=None)
        if oldest is not None and oldest.last_used < self._clock() - _SILENT_S:
            self.close(oldest.id)

    def _end_idle(self) -> None:
        since = self._clock() - self._idle_s
        with self._lock:
            idle = [session.id for session in self._sessions.values() if session.last_used < since]
        for session_id in idle:
            self.close(session_id)
