"""False alarms of a person gate on a stream without people, for the benchmarks of detectors."""

from collections.abc import Iterable
from typing import Any

from tinyvla.frontends.wake import GateLimits, PersonGate


def count_false_alarms(limits: GateLimits, probabilities: Iterable[float], fps: float) -> dict[str, Any]:
    """Number, times and total duration of the closures of a gate on a stream without people.

    probabilities: the detector's output per frame. A gate that is closed before the first frame is not counted.
    """
    gate, closed, raises, closed_frames = PersonGate(limits), True, [], 0
    for frame, probability in enumerate(probabilities):
        gate.see(frame / fps, float(probability))
        now = gate.person_in_view(frame / fps)
        if now and not closed:
            raises.append(round(frame / fps, 1))
        closed_frames += now
        closed = now
    return {"raises": len(raises), "raised_at_s": raises, "closed_s": round(closed_frames / fps, 1)}
