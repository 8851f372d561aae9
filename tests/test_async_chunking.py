"""Benchmark of asynchronous chunks: rows execute chunks as they are named, and a repeated trajectory counts once."""

import numpy as np
import pytest
from scripted import SoftlyGuided, seen, unchanged

from benchmarks.async_chunking import ROWS, Trajectory, WatchedRunner, count_distinct, figures, play
from tinyvla.errors import UserError


class Line:
    """Environment of 60 control steps that shows only their number."""

    arm_actions = None

    def reset(self, seed):
        self.step = 0
        return self.observe(), {}

    def observe(self):
        return seen(self.step)

    def apply(self, action):
        self.step += 1
        return 0.0, False, self.step == 60, {"success": False}


def modes(step):
    """Two chunks that are 2 apart, in turns."""
    return [1.0 if step // 8 % 2 else -1.0] * 16


def trajectory_of(name):
    runner = WatchedRunner(SoftlyGuided(modes), unchanged, unchanged, ROWS[name], latency_steps=3)
    return play(runner, Line(), 0, hz=1e4)


def trajectory(arm, borders=(2,), late_ms=0.0):
    return Trajectory(np.array(arm, np.float32)[:, None], borders, np.full(len(arm) - 1, late_ms), False)


def test_joining_and_guidance_make_the_jumps_at_borders_and_the_jerk_smaller():
    unjoined, joined, guided = (trajectory_of(name) for name in ("unjoined", "joined", "guided"))
    assert unjoined.borders == joined.borders == guided.borders == [11, 19, 27, 35, 43, 51, 59]
    assert unjoined.border_jump == pytest.approx(2)
    assert joined.border_jump == pytest.approx(2 / 6, abs=0.01)  # five steps of both chunks
    assert joined.border_jump < guided.border_jump < 0.45 * 2
    assert joined.jerk < guided.jerk < unjoined.jerk / 2


def test_a_trajectory_that_is_played_twice_counts_once():
    first, second = trajectory([0, 0, 1, 1]), trajectory([0, 0, 1, 0])
    assert count_distinct([first, trajectory([0, 0, 1, 1]), second]) == 2


def test_figures_are_means_over_trajectories_and_ratios_of_pairs():
    rows = [trajectory([0, 0, 1, 1], late_ms=1), trajectory([0, 0, 3, 3], late_ms=9)]
    unjoined = [trajectory([0, 0, 2, 2]), trajectory([0, 0, 6, 6])]
    result = figures(rows, 0, 5.0, unjoined)
    assert (result["steps"], result["late_steps"], result["max_late_ms"]) == (6, 3, 9)
    assert result["border_jump"] == 2
    assert result["border_jump_ci95"] == [1, 3]
    assert result["border_jump_of_unjoined"] == 0.5
    assert result["border_jump_of_unjoined_ci95"] == [0.5, 0.5]


def test_trajectories_without_a_second_chunk_are_refused():
    with pytest.raises(UserError, match="long enough for border_jump; use more steps="):
        figures([trajectory([0, 0, 1], borders=())], 0, 5.0, None)
