"""The released recipe: every value of its page is the preset's, and each part does what the authors' code does."""

import re

import numpy as np
import pytest
import torch
import yaml
from lerobot.policies import make_pre_post_processors
from test_compatibility import leaves
from test_runner import observation
from test_training_loop import curve, run
from tiny import SIZE, tiny_policy

from configs.composing import CONFIG_DIR, as_dict, load_config
from policies import PolicyRunner, decode_policy_config, load_policy, make_processors, save_checkpoint_files
from policies.export import export_policy
from policies.training import check_settings, decode_run
from policies.training.trainable import make_optimizer
from tinyvla.crop import centre_crop
from tinyvla.errors import UserError

PAGE = CONFIG_DIR.parent / "docs/released-recipe.md"
ROW = re.compile(r"^\| `([\w.]+)` \| `([^`]*)` \|", re.MULTILINE)
CROP = "policy.crop_ratio=0.5"
# Settings of the trainer that change no result of a step, and those that are the policy's.
OF_THE_MACHINE = ("num_threads", "processes", "compile", "streaming", "validate_", "save_every", "log_every")
OF_THE_POLICY = ("lr", "weight_decay")


def table():
    """Setting -> value of the page's first table."""
    return {name: yaml.safe_load(value) for name, value in ROW.findall(PAGE.read_text())}


@pytest.mark.parametrize("size", ["s", "b", "h"])
def test_the_presets_have_the_values_of_the_page(size):
    cfg = as_dict(load_config("train", [f"preset=paper_{size}"]))
    sections = {name: cfg[name] for name in ("backbone", "decoder", "env", "trainer")}
    sections["policy"] = {key: value for key, value in cfg["policy"].items() if key not in ("backbone", "decoder")}
    settings = leaves(sections)
    assert {name: settings[name] for name in table()} == table()
    assert settings["backbone.size"] == size


def test_the_page_leaves_no_setting_of_the_model_or_its_training_out():
    cfg = as_dict(load_config("train", ["preset=paper_s"]))
    policy = {key for key in cfg["policy"] if key not in ("type", "backbone", "decoder", "frontend")}
    trainer = {key for key in leaves(cfg["trainer"]) if not key.startswith(OF_THE_MACHINE) and key not in OF_THE_POLICY}
    expected = {f"policy.{key}" for key in policy} | {f"trainer.{key}" for key in trainer}
    for group in ("backbone", "decoder"):
        expected |= {f"{group}.{key}" for key in leaves(cfg[group])} - {"backbone.size"}
    assert set(table()) == expected | {"env.image_size"}


def inputs_of(model, monkeypatch):
    """Images that a TinyVLA model is given from now on, in a list."""
    images, sample = [], model.sample
    monkeypatch.setattr(model, "sample", lambda first, *a, **k: images.append(first) or sample(first, *a, **k))
    return images


def test_every_way_to_run_a_policy_crops_the_middle(dataset, tmp_path, monkeypatch):
    policy, *pipelines = tiny_policy(dataset, "tinyvla", CROP)
    save_checkpoint_files(policy, *pipelines, tmp_path)
    frames = {key: value for key, value in observation().items() if "images" in key}
    expected = torch.stack([torch.from_numpy(image).permute(2, 0, 1) / 255 for image in frames.values()])[None]
    expected = centre_crop(expected, 0.5)
    assert expected.shape == (1, 2, 3, SIZE, SIZE)

    ours = load_policy(tmp_path, "cpu")
    images = inputs_of(ours.policy.model, monkeypatch)
    ours.act(observation())
    torch.testing.assert_close(images[0], expected)

    theirs = type(policy).from_pretrained(tmp_path)  # as LeRobot's tools do
    preprocess, _ = make_pre_post_processors(theirs.config, pretrained_path=str(tmp_path))
    images = inputs_of(theirs.model, monkeypatch)
    batch = {key: torch.from_numpy(image).permute(2, 0, 1) / 255 for key, image in frames.items()}
    state = torch.from_numpy(observation()["observation.state"]).float()
    theirs.select_action(preprocess(batch | {"observation.state": state, "task": "open the drawer"}))
    torch.testing.assert_close(images[0], expected)


def test_a_policy_in_training_crops_at_random_places(dataset, monkeypatch):
    policy, *_ = tiny_policy(dataset, "tinyvla", CROP)
    batch = {key: torch.rand(3, 3, SIZE, SIZE) for key in policy.config.image_features}
    batch |= {"observation.state": torch.zeros(3, 4), "action": torch.zeros(3, policy.config.chunk_size, 4)}
    batch["task"] = ["open"] * 3
    images, loss = [], policy.model.loss
    monkeypatch.setattr(policy.model, "loss", lambda x, *a, **k: images.append(x) or loss(x, *a, **k))
    policy.train()
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        policy(batch)
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    policy.eval()
    policy(batch)
    stacked = torch.stack([batch[key] for key in policy.config.image_features], dim=1)
    torch.testing.assert_close(images[3], centre_crop(stacked, 0.5))


def test_a_cropping_policy_is_not_exported_or_trained_on_cached_features(dataset, tmp_path):
    save_checkpoint_files(*tiny_policy(dataset, "tinyvla", CROP), tmp_path / "policy")
    with pytest.raises(UserError, match=r"policy\.crop_ratio cannot be exported"):
        export_policy(tmp_path / "policy", tmp_path / "exported")
    chosen = ["preset=paper_s", "backbone.pretrained=null"]
    chosen += ["backbone.freeze_vision=true", "backbone.cache_features=true"]
    with pytest.raises(UserError, match=r"add .* policy\.crop_ratio=1 policy\.random_rotation=0, or leave out"):
        check_settings(decode_run(as_dict(load_config("train", [*chosen, f"run_dir={tmp_path / 'run'}"]))))


def test_the_states_deviation_has_a_floor_and_the_actions_range_a_margin(dataset):
    zeros, ones = np.zeros(4), np.ones(4)
    statistics = {
        "observation.state": {"mean": zeros, "std": np.array([1e-5, 0.01, 0.5, 2.0]), "min": zeros, "max": ones},
        "action": {"min": np.array([0.0, -1, -1, -1]), "max": np.array([0.0, 1, 1, 3]), "mean": zeros, "std": ones},
    }
    policy, *_ = tiny_policy(dataset, "tinyvla", "policy.min_state_std=0.01", "policy.action_margin=1e-4")
    preprocess, postprocess = make_processors(policy, statistics)
    action = torch.tensor([0.0, -1, 1, 3])
    batch = preprocess({"observation.state": torch.full((4,), 0.02), "action": action})
    torch.testing.assert_close(batch["observation.state"][0], torch.tensor([2.0, 2.0, 0.04, 0.01]))
    # ((a - min) / (max - min)) * 2 - 1 with 1e-4 on either side, as the released loader computes
    low, high = torch.tensor([-1e-4, -1.0001, -1.0001, -1.0001]), torch.tensor([1e-4, 1.0001, 1.0001, 3.0001])
    torch.testing.assert_close(batch["action"][0], (action - low) / (high - low) * 2 - 1, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(postprocess(batch["action"])[0], action, rtol=1e-4, atol=1e-5)
    assert statistics["action"]["min"][0] == 0  # the dataset's own are unchanged


def test_the_optimizer_has_the_epsilon_of_the_options(dataset):
    policy, *_ = tiny_policy(dataset, "tinyvla", "policy.optimizer_eps=1e-7")
    assert {group["eps"] for group in make_optimizer(policy, 1e-3, 0.0).param_groups} == {1e-7}


def test_gradients_of_any_size_pass_without_a_limit(dataset_root, tmp_path):
    losses = {}
    for limit in ("null", "1e6", "1e-4"):
        settings = [f"trainer.grad_clip={limit}", "trainer.steps=6", "trainer.lr=1e-2", "trainer.save_every=0"]
        settings += ["policy.optimizer_eps=1e-3", "trainer.validate_every=0", "trainer.ema_decay=0"]
        run(tmp_path / limit, dataset_root, *settings, validate=None)
        losses[limit] = [record["train/loss"] for record in curve(tmp_path / limit)]
    assert losses["null"] == losses["1e6"]
    assert losses["null"] != losses["1e-4"]


def released_ensemble(chunks, k=0.01):
    """Actions by the released evaluation: a table of what every chunk says about every step, averaged by column."""
    steps, length, size = chunks.shape
    all_time_actions = np.zeros((steps, steps + length, size))
    actions = []
    for t, chunk in enumerate(chunks):
        all_time_actions[t, t : t + length] = chunk
        for_this_step = all_time_actions[:, t]
        populated = for_this_step[np.all(for_this_step != 0, axis=1)]
        weights = np.exp(-k * np.arange(len(populated)))
        actions.append((populated * (weights / weights.sum())[:, None]).sum(0))
    return np.stack(actions)


def test_temporal_ensembling_is_that_of_the_released_evaluation(dataset):
    settings = ("policy.n_action_steps=1", "policy.temporal_ensemble_coeff=0.01")
    policy, *pipelines = tiny_policy(dataset, "tinyvla", *settings)
    steps = 3 * policy.config.chunk_size
    chunks = torch.rand(steps, policy.config.chunk_size, 4, generator=torch.Generator().manual_seed(0))
    predictions = iter(chunks)
    policy.predict_action_chunk = lambda batch, noise=None: next(predictions)[None]
    runner = PolicyRunner(policy, *pipelines)
    runner.reset()
    actions = np.stack([runner.act(observation(step)) for step in range(steps)])
    expected = pipelines[1](torch.from_numpy(released_ensemble(chunks.double().numpy())).float())
    np.testing.assert_allclose(actions, expected, rtol=1e-4, atol=1e-5)


def test_the_presets_policy_decodes():
    config = decode_policy_config(as_dict(load_config("train", ["preset=paper_s"]).policy), "cpu")
    assert (config.temporal_ensemble_coeff, config.n_action_steps, config.crop_ratio) == (0.01, 1, 0.95)
