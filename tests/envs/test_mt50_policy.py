"""The policy of Meta-World MT50's row, which the repository holds: it loads, and does what its row says."""

from pathlib import Path

import pytest

from envs import evaluate
from envs.evaluation import EvaluationOptions

POLICY = Path(__file__).parents[2] / "benchmarks/mt50_policy"


@pytest.mark.parametrize("task", ["drawer-close-v3", "button-press-topdown-v3"])
def test_it_does_an_easy_task(task, in_process):
    result = evaluate(POLICY, "metaworld", EvaluationOptions(2, seed=9, workers=1), tasks=[task])
    assert result["successes"] == 2
