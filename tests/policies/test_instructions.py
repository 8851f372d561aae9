"""Long instructions: a policy reads the longest of its dataset, its checkpoint remembers, and what is cut is said."""

import json

import pytest
from tiny import tiny_policy

from benchmarks.odd_recordings import LONG
from configs.composing import as_dict, load_config
from policies import decode_policy_config, load_checkpoint, offline_models, save_checkpoint_files
from policies.instructions import fit_instructions
from policies.tinyvla.modeling_tinyvla import TinyVLAPolicy
from tinyvla.backbones.tokenizer import MAX_WORDS, WORDS

LONGER = LONG.replace("have it under the gripper", "have it, after a while, under the gripper of the arm")
TEXTS = [LONGER.format("red cube"), LONGER.format("green ball")]
ENDLESS = ["slowly " * 300 + side for side in ("left", "right")]


def nano(dataset, backbone="nano"):
    """A fresh policy with a tokenizer of hashed words, and its pipelines."""
    from policies import make_policy, make_processors

    cfg = load_config("train", [f"backbone={backbone}", "preset=cpu", "backbone.image_size=32"])
    policy = make_policy(decode_policy_config(as_dict(cfg.policy), "cpu"), dataset.meta)
    return policy, *make_processors(policy, dataset.meta.stats)


@pytest.mark.parametrize("backbone", ["nano", "film"])
def test_the_longest_instruction_is_read_and_remembered(dataset, tmp_path, backbone):
    policy, *pipelines = nano(dataset, backbone)
    assert isinstance(policy, TinyVLAPolicy)
    assert policy.model.backbone.tokenizer.max_length == WORDS
    first, second = (policy.model.backbone.tokenizer.encode(text) for text in TEXTS)
    assert first == second
    assert fit_instructions(policy, pipelines[0], TEXTS) is None
    save_checkpoint_files(policy, *pipelines, tmp_path)
    tokenizer = load_checkpoint(tmp_path, "cpu")[0].model.backbone.tokenizer
    assert tokenizer.encode(TEXTS[0]) != tokenizer.encode(TEXTS[1])
    assert WORDS < tokenizer.max_length <= MAX_WORDS


def test_a_checkpoint_without_the_length_keeps_48(dataset, tmp_path):
    policy, *pipelines = nano(dataset)
    save_checkpoint_files(policy, *pipelines, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["backbone"].pop("max_words") == WORDS
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(tmp_path, "cpu")[0].model.backbone.tokenizer.max_length == 48


def test_short_instructions_change_nothing(dataset):
    policy, *pipelines = nano(dataset)
    assert fit_instructions(policy, pipelines[0], ["open", "close"]) is None
    assert policy.model.backbone.tokenizer.max_length == WORDS


def test_instructions_that_are_one_are_named(dataset):
    policy, *pipelines = nano(dataset)
    warning = fit_instructions(policy, pipelines[0], [*ENDLESS, "stop"])
    assert warning is not None
    assert warning.startswith("2 instructions are one to the policy, which reads 256 tokens")
    assert "slowly left'" in warning
    assert "slowly right'" in warning
    assert "\n" not in warning


@pytest.mark.parametrize("name", ["smolvla", "multi_task_dit"])
def test_peers_read_them_too(dataset, tmp_path, name, monkeypatch):
    monkeypatch.setattr(offline_models, "HOME", tmp_path / "home")
    policy, *pipelines = tiny_policy(dataset, name)
    (step,) = [step for step in pipelines[0].steps if hasattr(step, "input_tokenizer")]
    before = step.max_length
    texts = [" ".join(["go"] * before + [end]) for end in ("left", "right")]
    warning = fit_instructions(policy, pipelines[0], texts)
    bound = MAX_WORDS
    if name == "multi_task_dit":
        bound = policy.observation_encoder.text_encoder.text_encoder.config.max_position_embeddings
    assert before < step.max_length <= bound
    assert policy.config.tokenizer_max_length == step.max_length
    assert (warning is None) == (step.max_length < bound)
    assert fit_instructions(policy, pipelines[0], ENDLESS) is not None
    assert step.max_length == bound


def test_a_policy_that_reads_no_instructions_says_so_if_there_are_several(dataset):
    policy, *pipelines = tiny_policy(dataset, "act")
    assert fit_instructions(policy, pipelines[0], ENDLESS[:1]) is None
    assert fit_instructions(policy, pipelines[0], ENDLESS).startswith("policy=act reads no instructions")
