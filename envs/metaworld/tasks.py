"""The 50 Meta-World v3 tasks: their instructions, and the suites that group them.

Randomisation: at each reset, coordinates of the object and of the goal are drawn uniformly from the task's box
(`_random_reset_space` of its class in `metaworld.envs`). All other coordinates are fixed, as is the start of the hand.

| object | goal  | tasks                                                                                             |
| ------ | ----- | ------------------------------------------------------------------------------------------------- |
| x, y   | moves | button-press(-topdown, -topdown-wall), dial-turn, door-*, faucet-*, hammer, handle-pull-side,     |
|        | along | lever-pull, sweep, window-open                                                                    |
| x      | along | drawer-*                                                                                          |
| y      | along | window-close                                                                                      |
| x y z  | along | button-press-wall, coffee-button, handle-press(-side), handle-pull, peg-unplug-side               |
| x, y   | x y z | bin-picking, hand-insert, peg-insert-side, pick-place(-wall), push(-back, -wall), reach(-wall),   |
|        |       | sweep-into                                                                                        |
| x y z  | x y z | coffee-pull, coffee-push, disassemble, shelf-place, stick-pull, stick-push                        |
| x y z  | x, y  | basketball                                                                                        |
| x, y   | x, y  | box-close, soccer                                                                                 |
| fixed  | x, y  | assembly, plate-slide, plate-slide-side                                                           |
| fixed  | x     | plate-slide-back, plate-slide-back-side                                                           |
| fixed  | x y z | pick-out-of-hole                                                                                  |

Success: Meta-World's own criterion of the task (`info["success"]`), such as an object near its goal or a mechanism at
its end. The first step that fulfils it ends the episode; the object need not stay there.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

from tinyvla.errors import UserError

from ..task_suites import expand_tasks, read_paraphrases
from .shared_starts import PAIRS, SHARED_STARTS

INSTRUCTIONS: dict[str, str] = {
    "assembly-v3": "pick up the nut by its handle and put it over the peg",
    "basketball-v3": "pick up the basketball and dunk it into the hoop",
    "bin-picking-v3": "move the puck from the first bin into the second bin",
    "box-close-v3": "pick up the lid and put it on the box",
    "button-press-topdown-v3": "press the button down from above",
    "button-press-topdown-wall-v3": "reach over the wall and press the button down from above",
    "button-press-v3": "push the button in from the front",
    "button-press-wall-v3": "reach around the wall and push the button in",
    "coffee-button-v3": "press the button of the coffee machine",
    "coffee-pull-v3": "pull the mug away from the coffee machine",
    "coffee-push-v3": "push the mug under the coffee machine",
    "dial-turn-v3": "turn the dial half a turn",
    "disassemble-v3": "lift the nut off the peg",
    "door-close-v3": "close the door of the safe",
    "door-lock-v3": "lock the door by turning the lock clockwise",
    "door-open-v3": "open the door of the safe by its handle",
    "door-unlock-v3": "unlock the door by turning the lock counter-clockwise",
    "drawer-close-v3": "push the drawer closed",
    "drawer-open-v3": "pull the drawer open by its handle",
    "faucet-close-v3": "turn the faucet off, clockwise",
    "faucet-open-v3": "turn the faucet on, counter-clockwise",
    "hammer-v3": "pick up the hammer and drive the screw into the wall",
    "hand-insert-v3": "move the block into the hole in the table",
    "handle-press-side-v3": "press the handle down from the side",
    "handle-press-v3": "press the handle down",
    "handle-pull-side-v3": "pull the handle up from the side",
    "handle-pull-v3": "pull the handle up",
    "lever-pull-v3": "pull the lever up a quarter turn",
    "peg-insert-side-v3": "insert the peg into the hole from the side",
    "peg-unplug-side-v3": "pull the peg out of the hole sideways",
    "pick-out-of-hole-v3": "lift the puck out of the hole and bring it to the goal marker",
    "pick-place-v3": "pick up the puck and bring it to the goal marker",
    "pick-place-wall-v3": "pick up the puck and bring it over the wall to the goal marker",
    "plate-slide-back-side-v3": "slide the plate out of the cabinet to the side",
    "plate-slide-back-v3": "slide the plate back out of the cabinet",
    "plate-slide-side-v3": "slide the plate sideways into the cabinet",
    "plate-slide-v3": "slide the plate forward into the cabinet",
    "push-back-v3": "pull the puck back to the goal marker",
    "push-v3": "push the puck to the goal marker",
    "push-wall-v3": "push the puck around the wall to the goal marker",
    "reach-v3": "move the gripper to the goal marker",
    "reach-wall-v3": "move the gripper past the wall to the goal marker",
    "shelf-place-v3": "pick up the puck and put it on the shelf",
    "soccer-v3": "push the ball into the goal",
    "stick-pull-v3": "grasp the stick and pull the container with it",
    "stick-push-v3": "grasp the stick and push the container with it",
    "sweep-into-v3": "sweep the puck into the hole",
    "sweep-v3": "sweep the puck off the table",
    "window-close-v3": "slide the window closed",
    "window-open-v3": "slide the window open",
}


def _v3(names: str) -> list[str]:
    return [f"{name}-v3" for name in names.split()]


# The four difficulty groups are those of the TinyVLA paper's Meta-World table (after Seo et al., arXiv 2206.14244).
SUITES: dict[str, list[str]] = {
    "default": _v3("button-press-topdown drawer-open faucet-open faucet-close"),
    "mt10": _v3(
        "reach push pick-place door-open drawer-open drawer-close button-press-topdown peg-insert-side window-open "
        "window-close"
    ),
    "mt50": list(INSTRUCTIONS),
    "medium": _v3(
        "basketball bin-picking box-close coffee-pull coffee-push hammer peg-insert-side push-wall soccer sweep "
        "sweep-into"
    ),
    "hard": _v3("assembly hand-insert pick-out-of-hole pick-place push push-back"),
    "very_hard": _v3("shelf-place disassemble stick-pull stick-push pick-place-wall"),
}
SUITES["language"] = [task for pair in PAIRS for task in pair]
SUITES["easy"] = [t for t in INSTRUCTIONS if t not in {*SUITES["medium"], *SUITES["hard"], *SUITES["very_hard"]}]

# Tasks whose goal is drawn on its own, so that nothing else than its marker shows where it is.
GOAL_IS_MARKER = _v3(
    "coffee-pull hand-insert pick-out-of-hole pick-place pick-place-wall plate-slide-back plate-slide-back-side "
    "plate-slide-side push push-back push-wall reach reach-wall stick-pull stick-push"
)

paraphrases = functools.partial(read_paraphrases, Path(__file__).with_name("paraphrases.yaml"))


def resolve_tasks(names: str | Iterable[str]) -> list[str]:
    """Task names in the order given, suites expanded, each once. Unknown names raise a UserError with the nearest."""
    return expand_tasks(names, INSTRUCTIONS, SUITES, "Meta-World")


def check_shared_start(names: str | Iterable[str]) -> None:
    """Raise UserError unless all tasks have a start that they share with another one."""
    if alone := [task for task in resolve_tasks(names) if task not in SHARED_STARTS]:
        raise UserError(
            f"env.shared_start=true, but {alone[0]} shares its start with no task; use env.tasks=[language], or leave "
            "env.shared_start out"
        )
