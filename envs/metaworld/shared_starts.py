"""Starts that both tasks of a mechanism share, so that only the instruction tells them apart: the suite `language`.

Meta-World gives the two tasks of a mechanism other ranges of its place, another place of the hand, or the position of
its joint in which the other task is solved. Here one range, one hand and one position between the ends of the joint
hold for both: neither task is solved at the start, and a seed gives both the same scene. All values lie within those of
Meta-World; its experts and its criteria of success stay.

Tasks of one model that are not pairs:

- reach, push and pick-place; stick-push and stick-pull; coffee-push and coffee-pull; plate-slide and plate-slide-back,
  also sideways: nothing but a marker shows the goal of one or of all, and its colour, place or presence names the task;
- assembly and disassemble: the nut lies on the table or on the peg, and no start is between.
"""

from typing import NamedTuple

Point = tuple[float, float, float]


class SharedStart(NamedTuple):
    """Start of a mechanism.

    low, high: range of its place in metres. joint: position of its joint in radians or metres. hand: place of the hand
    in metres; None: that of both tasks in Meta-World.
    """

    low: Point
    high: Point
    joint: float
    hand: Point | None = None


PAIRS: dict[tuple[str, str], SharedStart] = {
    ("faucet-open-v3", "faucet-close-v3"): SharedStart((-0.05, 0.8, 0.0), (0.05, 0.85, 0.0), 0.0),
    ("drawer-open-v3", "drawer-close-v3"): SharedStart((-0.1, 0.9, 0.0), (0.1, 0.9, 0.0), -0.07),
    ("window-open-v3", "window-close-v3"): SharedStart((-0.1, 0.75, 0.16), (0.1, 0.9, 0.16), 0.11),
    ("door-open-v3", "door-close-v3"): SharedStart((0.0, 0.85, 0.15), (0.1, 0.95, 0.15), -0.9, (-0.5, 0.6, 0.2)),
    # Half of Meta-World's range: nearer to the hand, the half-turned lock would touch it.
    ("door-unlock-v3", "door-lock-v3"): SharedStart((-0.1, 0.83, 0.15), (0.1, 0.85, 0.15), 0.79),
    ("handle-pull-v3", "handle-press-v3"): SharedStart((-0.1, 0.8, 0.0), (0.1, 0.9, 0.0), -0.06),
    ("handle-pull-side-v3", "handle-press-side-v3"): SharedStart((-0.35, 0.65, 0.0), (-0.25, 0.75, 0.0), -0.06),
}
SHARED_STARTS = {task: start for pair, start in PAIRS.items() for task in pair}
