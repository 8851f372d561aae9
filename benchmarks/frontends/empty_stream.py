"""How often a person gate closes while nobody comes; for the benchmarks of detectors."""

from collections.abc import Iterable
from typing import Any

from tinyvla.frontends.wake import GateLimits, PersonGate


def watch_empty(limits: GateLimits, probabilities: Iterable[float], fps: float) -> dict[str, Any]:
    """Show a gate a detector's word on every frame of a stream without people; how often it closed, and for how long.

    That it is closed before the first frame is no raise.
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
