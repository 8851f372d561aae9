"""Joint motion within limits of speed, acceleration and jerk, which can always be braked within them.

Time runs in ticks. A tick moves a joint by its velocity after the tick, and changes that by the acceleration after the
tick, so that limits hold exactly for the differences of successive positions. A joint's own unit, in which its jerk
limit is 1 per tick, spares every formula its constants: velocity `v` and acceleration `a` below are in it, and a joint
is described by its greatest velocity and acceleration alone.

A joint moves *recoverably* if braking, from its position, breaks no limit. Every function here preserves that. They
are written in scalars, because they run some hundred times per tick.
"""

from math import sqrt

DONE = 1e-9  # velocity and acceleration, in a joint's own unit, that count as standing still
NEAR = 1e-7  # distance, in the same unit, that counts as arrived


def ramp_from(total: float) -> float:
    """Acceleration from which a ramp to zero, 1 per tick, changes velocity by `total`, itself included."""
    if total < 0:
        return -ramp_from(-total)
    full = int((sqrt(1 + 8 * total) - 1) / 2)
    return (total + full * (full + 1) / 2) / (full + 1)


def brake(v: float, a: float, greatest: float) -> float:
    """Next acceleration of the quickest way to stand still."""
    return min(max(ramp_from(-v), a - 1, -greatest), a + 1, greatest)


def braking_distance(v: float, a: float, greatest: float) -> float:
    """Distance that a joint still moves while it brakes; signed."""
    distance = 0.0
    while True:
        # Size of the acceleration that braking would end with if it began now; it is directed against v.
        sign, speed = (1.0, v) if v >= 0 else (-1.0, -v)
        full = int((sqrt(1 + 8 * speed) - 1) / 2)
        size = (speed + full * (full + 1) / 2) / (full + 1)
        change = -sign * size - a
        if size <= greatest and -1 - DONE <= change <= 1 + DONE:
            # From here on it is a ramp down: its first moment is the distance that is left.
            full = int(size)
            return distance + sign * full * (full + 1) / 2 * (size - (2 * full + 1) / 3)
        a += 1 if change > 1 else -1 if change < -1 else change
        if a > greatest:
            a = greatest
        elif a < -greatest:
            a = -greatest
        v += a
        distance += v


def bounds(v: float, a: float, fastest: float, greatest: float) -> tuple[float, float]:
    """Lowest and highest next acceleration within all limits from which the joint is still recoverable."""
    low, high = max(a - 1, -greatest), min(a + 1, greatest)
    high = max(low, min(high, ramp_from(fastest - v)))
    return min(high, max(low, ramp_from(-fastest - v))), high


def towards(gap: float, drift: float, v: float, a: float, low: float, high: float, greatest: float) -> float:
    """Next acceleration that brings a joint to its target as fast as possible without passing it.

    Args:
        gap: from the joint to the target, in the joint's unit.
        drift: velocity of the target, 0 at rest.
        low, high: bounds of the result.
    """
    # `above` and `below`: distance behind the target at which the joint would come to rest. It rises with the
    # acceleration.
    v -= drift
    gap -= drift
    above = v + high - gap + braking_distance(v + high, high, greatest)
    if above <= 0:
        return high
    below = v + low - gap + braking_distance(v + low, low, greatest)
    if below >= 0:
        return low
    middle = low
    for _ in range(12):  # regula falsi, the stale end's value halved
        middle = high - above * (high - low) / (above - below)
        value = v + middle - gap + braking_distance(v + middle, middle, greatest)
        if -NEAR < value < NEAR:
            break
        if value > 0:
            high, above, below = middle, value, below / 2
        else:
            low, below, above = middle, value, above / 2
    return middle
