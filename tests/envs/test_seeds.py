"""Training, validation and evaluation never share an episode."""

from typing import get_args

import numpy as np
import pytest

from envs.lerobot_env import evaluation_seed
from envs.seeds import EPISODES_PER_SEED, SEEDS, EpisodeSplit, episode_seed
from tinyvla.errors import UserError

SPLITS = get_args(EpisodeSplit)
LAST_SEED, LAST_EPISODE = SEEDS - 1, EPISODES_PER_SEED - 1


def test_every_episode_of_every_split_and_seed_has_a_seed_of_its_own():
    rng = np.random.default_rng(0)
    corners = [(seed, index) for seed in (0, 1, LAST_SEED) for index in (0, 1, LAST_EPISODE)]
    drawn = {(int(seed), int(index)) for seed, index in rng.integers(0, SEEDS, (5000, 2))}
    episodes = [(split, *pair) for split in SPLITS for pair in drawn | set(corners)]
    seeds = [episode_seed(*episode) for episode in episodes]
    assert len(set(seeds)) == len(episodes)
    assert min(seeds) >= 0
    assert max(seeds) < 2**32  # what numpy's generators take


def test_splits_are_disjoint_as_a_whole():
    """A seed grows with (seed, index), so that a split is the range from its first to its last episode."""
    ranges = sorted((episode_seed(split, 0, 0), episode_seed(split, LAST_SEED, LAST_EPISODE)) for split in SPLITS)
    assert all(ranges[i][1] < ranges[i + 1][0] for i in range(len(SPLITS) - 1))
    assert all(last - first + 1 == SEEDS * EPISODES_PER_SEED for first, last in ranges)
    for split in SPLITS:
        assert episode_seed(split, 3, LAST_EPISODE) + 1 == episode_seed(split, 4, 0)


@pytest.mark.parametrize(
    ("seed", "index", "message"),
    [(0, EPISODES_PER_SEED, "fewer episodes"), (0, -1, "fewer episodes"), (SEEDS, 0, "from 0 to"), (-1, 0, "from 0")],
)
def test_seeds_out_of_range_are_refused(seed, index, message):
    with pytest.raises(UserError, match=message):
        episode_seed("train", seed, index)


def test_whatever_seed_lerobot_passes_is_one_of_the_evaluation_split():
    assert evaluation_seed(0) == episode_seed("evaluation", 0, 0)
    assert evaluation_seed(1000) == episode_seed("evaluation", 0, 1000)
    assert evaluation_seed(SEEDS * EPISODES_PER_SEED - 1) == episode_seed("evaluation", LAST_SEED, LAST_EPISODE)
    for number in (-1, SEEDS * EPISODES_PER_SEED):
        with pytest.raises(UserError):
            evaluation_seed(number)
