"""Benchmark of evaluation: all rows play the same start states, and the factors multiply to the whole."""

from concurrent.futures import Executor, Future

import pytest

from benchmarks import eval_throughput
from benchmarks.eval_throughput import FIRST, LEROBOT, OURS, ROWS, Row, compare, factors, lerobot_turn, our_turn


class Recorder(Executor):
    """Pool whose processes take turns; notes the episodes."""

    def __init__(self, processes):
        self.processes, self.episodes = processes, []

    def submit(self, function, setting, job, row):
        future = Future()
        future.set_result((10, len(self.episodes) % self.processes))
        self.episodes.append(job.episode)
        return future


@pytest.mark.parametrize("processes", [1, 2])
def test_every_tool_counts_the_same_episodes(processes, monkeypatch):
    pool = Recorder(processes)
    turn = our_turn(pool, None, Row(OURS, processes, videos=False), "reach-v3", 4)
    assert pool.episodes[-4:] == [FIRST, FIRST + 1, FIRST + 2, FIRST + 3]
    assert (turn.steps, turn.episodes) == (40, 4)

    lerobot_settings = {}

    def in_own_process(function, arguments, videos):
        lerobot_settings.update(argument.removeprefix("--").split("=") for argument in arguments)
        return {"steps": 40, "episodes": 4, "seconds": 1.0, "start": 0.0}

    monkeypatch.setattr(eval_throughput, "in_own_process", in_own_process)
    lerobot_turn(Row(LEROBOT, processes, videos=True), [], 4)
    # lerobot-eval's episodes have the seeds from --seed on, and its first batch is not counted.
    assert int(lerobot_settings["seed"]) + int(lerobot_settings["eval.batch_size"]) == FIRST
    assert int(lerobot_settings["eval.n_episodes"]) == int(lerobot_settings["eval.batch_size"]) + 4


def rates(fastest):
    """Figures of all rows: `fastest` is the fastest row of lerobot-eval."""
    rows = {row: {"steps_per_s": 10.0 + 3 * number, "episodes_per_s": 1.0} for number, row in enumerate(ROWS)}
    rows[fastest]["steps_per_s"] = 29.0
    return rows


@pytest.mark.parametrize("fastest", [row for row in ROWS if row.tool == LEROBOT])
def test_the_factors_multiply_to_the_whole_whichever_row_is_the_fastest(fastest):
    result = factors(rates(fastest))
    assert result.pop("from") == fastest.name
    product = result.pop("product")
    whole = 1.0
    for factor in result.values():
        whole *= factor
    assert whole == pytest.approx(product, rel=0.005)
    assert product == pytest.approx(rates(fastest)[Row(OURS, 2, videos=False)]["steps_per_s"] / 29.0, rel=0.001)
    assert ("no videos" in result, "two workers" in result) == (fastest.videos, fastest.processes == 1)


def test_like_is_compared_with_like():
    rows = rates(Row(LEROBOT, 2, videos=False, every_step=True))
    with_videos = compare(rows, videos=True)
    assert (with_videos["from"], with_videos["to"]) == ("lerobot-eval, 2 per batch, videos", "ours, 2 at once, videos")
    assert compare(rows, videos=False)["from"] == "lerobot-eval, 2 per batch"


def test_all_ways_of_lerobot_eval_have_a_row():
    ways = {(row.processes, row.videos) for row in ROWS if row.tool == LEROBOT}
    assert ways == {(1, True), (1, False), (2, True), (2, False)}
    assert len({row.name for row in ROWS}) == len(ROWS) == 10
