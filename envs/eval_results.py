"""eval.json: the result of a policy's closed-loop evaluation, and the metrics in it.

A metric is one entry of METRICS; the summary, the terminal's table and the report page all go by that list.

Keys of eval.json that every kind of evaluation has:

- `kind`: "policy" (this module) or "frontend" (`tinyvla.frontends.training`); files written before have no `kind`.
- `checkpoint`: the evaluated checkpoint's folder. `machine`: the machine that evaluated it.

Keys of a policy's: `success_rate`, `successes`, `episodes` and `ci95` (Wilson's 95% interval of the success rate) of
all tasks together, and the metrics; the same of each task under `tasks`, with `seeds`, `outcomes` (1 is success) and
`lengths` (control steps) of its episodes; `wrong_instructions`, see `summarise`; `split` and `seed` of the episodes;
`shift`, the shifted axes and their severity, or null.

Keys of a front-end's: `task`, `measure` (name of the score), `score`, and `figures`, by name with `value`, `n`, `ci95`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyvla.intervals import wilson_interval

from .rollout import Rollout

POLICY = "policy"


class Job(NamedTuple):
    """One episode to play.

    task: task of the environment. instructed: task whose instruction the policy is given. episode: its number in the
    split.
    """

    task: str
    instructed: str
    episode: int

    @property
    def is_own(self) -> bool:
        """True if the policy is given the instruction of the environment's own task."""
        return self.task == self.instructed


class Metric(NamedTuple):
    """A metric of episodes, besides their success.

    name: key in eval.json. title: heading of its column. compute: from the rollouts, in the unit shown. digits:
    decimals in eval.json. shown: decimals in tables.
    """

    name: str
    title: str
    compute: Callable[[Sequence[Rollout]], float]
    digits: int
    shown: int

    def text(self, figures: Mapping[str, Any]) -> str:
        """Value for a table; "-" in an eval.json that was written before the metric existed."""
        return f"{figures[self.name]:.{self.shown}f}" if self.name in figures else "-"


def _action_times(rollouts: Sequence[Rollout]) -> np.ndarray:
    return np.concatenate([rollout.action_ms for rollout in rollouts])


METRICS = (
    Metric("episode_length", "steps", lambda rollouts: np.mean([rollout.steps for rollout in rollouts]).item(), 1, 1),
    Metric("ms_per_action", "ms/action", lambda rollouts: _action_times(rollouts).mean().item(), 3, 2),
    Metric("ms_per_action_p95", "p95", lambda rollouts: np.percentile(_action_times(rollouts), 95).item(), 3, 2),
)


def summarise(results: Mapping[Job, Rollout]) -> dict[str, Any]:
    """Success and metrics of episodes, together and per task, as eval.json has them.

    `wrong_instructions`, by environment's task and by the task whose instruction was given instead, counts in how many
    episodes the environment's own task was solved all the same.
    """
    instructed = {job: rollout for job, rollout in results.items() if job.is_own}
    tasks: dict[str, Any] = {}
    for task in dict.fromkeys(job.task for job in instructed):
        rollouts = [rollout for job, rollout in instructed.items() if job.task == task]
        tasks[task] = _figures(rollouts) | {
            "seeds": [rollout.seed for rollout in rollouts],
            "outcomes": [int(rollout.success) for rollout in rollouts],
            "lengths": [rollout.steps for rollout in rollouts],
        }
    wrong: dict[str, dict[str, dict[str, int]]] = {}
    for job, rollout in results.items():
        if not job.is_own:
            cell = wrong.setdefault(job.task, {}).setdefault(job.instructed, {"successes": 0, "episodes": 0})
            cell["successes"] += rollout.success
            cell["episodes"] += 1
    return _figures(list(instructed.values())) | {"tasks": tasks} | ({"wrong_instructions": wrong} if wrong else {})


def _figures(rollouts: list[Rollout]) -> dict[str, Any]:
    successes, count = sum(rollout.success for rollout in rollouts), len(rollouts)
    return {
        "success_rate": successes / count,
        "successes": successes,
        "episodes": count,
        "ci95": [round(limit, 4) for limit in wilson_interval(successes, count)],
    } | {metric.name: round(float(metric.compute(rollouts)), metric.digits) for metric in METRICS}
