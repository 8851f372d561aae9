"""The search of peers' rates and prediction types: the same cells for every policy, as settings of train.py."""

import dataclasses

import pytest
from omegaconf import OmegaConf

from benchmarks.harness import POLICIES
from benchmarks.peer_search import (
    PREDICTION_SETTINGS,
    PREDICTIONS,
    RATES,
    Choice,
    best_of,
    grid,
    table,
    values_of_preset,
)
from configs.composing import as_dict, load_config
from policies import decode_policy_config


def config_of(*settings):
    return decode_policy_config(as_dict(load_config("train", ["preset=cpu", *settings]).policy), "cpu")


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_gets_every_rate_and_every_prediction_that_it_has(policy):
    cells = grid(policy, RATES, PREDICTIONS)
    config = config_of(f"policy={policy}")
    fields = {field.name for field in dataclasses.fields(getattr(config, "decoder", config))}
    assert ("prediction_type" in fields) == (policy in PREDICTION_SETTINGS)
    assert len(cells) == len(set(cells)) == len(RATES) * (len(PREDICTIONS) if policy in PREDICTION_SETTINGS else 1)
    for choice in (cells[0], cells[-1]):
        cfg = load_config("train", [f"policy={policy}", "preset=cpu", *choice.overrides])
        assert cfg.trainer.lr == cfg.policy.optimizer_lr == choice.rate
        if choice.prediction:
            assert OmegaConf.select(cfg, PREDICTION_SETTINGS[policy]) == choice.prediction
        decode_policy_config(as_dict(cfg.policy), "cpu")


@pytest.mark.parametrize("policy", POLICIES)
def test_no_other_rate_of_a_preset_is_left_behind(policy):
    """A rate that the preset sets to the same value as the searched one moves with it."""
    rate = values_of_preset(policy)["rate"]
    before = vars(config_of(f"policy={policy}"))
    after = vars(config_of(f"policy={policy}", *Choice(policy, 7e-5).overrides))
    same = {name for name, value in before.items() if "lr" in name and value == rate}
    assert {name for name in same if after[name] != 7e-5} == set()


def counts(successes):
    return {"steps": 10, "successes": successes, "episodes": 8, "success_rate": successes / 8, "ci95": [0.1, 0.9]}


def test_the_best_cell_and_the_table():
    figures = {
        Choice("act", 1e-4): counts(2),
        Choice("act", 1e-3): counts(2),
        Choice("diffusion", 1e-4, "epsilon"): counts(0),
        Choice("diffusion", 1e-3, "epsilon"): counts(1),
        Choice("diffusion", 1e-4, "sample"): counts(5),
    }
    best = best_of(figures)
    assert (best["act"]["rate"], best["act"]["successes"]) == (1e-4, 2)
    assert (best["diffusion"]["rate"], best["diffusion"]["prediction"]) == (1e-4, "sample")
    header, _, act, epsilon, sample = table(figures).splitlines()
    assert header == "| policy | prediction | steps | rate 0.0001 | rate 0.001 |"
    assert act.startswith("| act |  | 10 | 2/8")
    assert epsilon.startswith("| diffusion | epsilon | 10 | 0/8")
    assert sample == "| diffusion | sample | 10 | 5/8 (10–90%) |  |"
