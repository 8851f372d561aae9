"""Live view of an arm's cameras and motion in the Rerun viewer."""

import logging
import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyvla.errors import UserError

if TYPE_CHECKING:
    from .deployment import Episode
    from .deployment.episodes import Tick

logger = logging.getLogger(__name__)
_WAITING = 4  # ticks that may wait to be shown; more are dropped, so that the view stays live


class LiveView:
    """Shows images, joint positions, and the poses of arm and policy, from a thread of its own. Close it in the end.

    Args:
        joints: names of the joints.
        file: .rrd file to write instead of opening the viewer.

    Raises UserError if Rerun is not installed or its viewer does not start.
    """

    def __init__(self, joints: Sequence[str], file: Path | None = None) -> None:
        try:
            import rerun
            from lerobot.utils.rerun_visualization import init_rerun

            if file is None:
                init_rerun("tinyvla")
            else:
                rerun.init("tinyvla")
                rerun.save(file)
        except (ImportError, RuntimeError, OSError) as error:
            raise UserError(
                f"the live view does not start: {error}; use display=false, or install rerun-sdk: uv sync --extra robot"
            ) from error
        self._joints = list(joints)
        self._left_out = 0
        self._queue: queue.Queue[Tick | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name="live view", daemon=True)
        self._thread.start()

    def __enter__(self) -> "LiveView":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, episode: "Episode") -> None:
        pass

    def observe(self, tick: "Tick") -> None:
        try:
            self._queue.put_nowait(tick)
        except queue.Full:
            self._left_out += 1

    def end(self, result: Mapping[str, Any]) -> None:
        pass

    def report(self) -> dict[str, Any]:
        return {"display": {"left_out": self._left_out}}

    def close(self) -> None:
        """Show the ticks that still wait, and disconnect from the viewer, which stays open."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        import rerun
        from lerobot.utils.rerun_visualization import log_rerun_data

        while (tick := self._queue.get()) is not None:
            try:
                rerun.set_time("time", duration=tick.due)
                poses = {f"{joint}.sent": value for joint, value in zip(self._joints, tick.sent.tolist(), strict=True)}
                poses |= {
                    f"{joint}.wanted": v for joint, v in zip(self._joints, tick.policy_pose.tolist(), strict=True)
                }
                log_rerun_data(dict(tick.observation), {**poses, "intervention": float(tick.intervention)})
            except Exception as error:  # a view that fails must not stop an arm
                logger.warning("the live view failed: %s", error)
        rerun.disconnect()
