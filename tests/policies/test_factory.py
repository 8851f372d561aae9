"""Making, saving and loading every policy, and what a bad name, setting or checkpoint is answered with."""

import json
import shutil

import pytest
import torch
from tiny import SETTINGS, run_config, tiny_policy

from configs.composing import as_dict, load_config
from policies import (
    decode_policy_config,
    feature_names,
    find_checkpoint,
    load_checkpoint,
    make_policy,
    make_processors,
    save_checkpoint_files,
)
from tinyvla.errors import UserError


def observation():
    """One raw observation, as a pre-processor takes it."""
    generator = torch.Generator().manual_seed(0)
    cameras = {f"observation.images.{name}": torch.rand(3, 32, 32, generator=generator) for name in ("left", "right")}
    return cameras | {"observation.state": torch.rand(4, generator=generator) * 9, "task": "open the drawer"}


def act(policy, preprocess, postprocess, steps=6):
    """Actions in the robot's units, more than one chunk of them."""
    policy.reset()
    torch.manual_seed(0)
    return torch.stack([postprocess(policy.select_action(preprocess(observation()))) for _ in range(steps)])


@pytest.fixture(scope="module")
def saved(dataset, tmp_path_factory):
    """A checkpoint of a TinyVLA policy. Shared: tests that damage it work on a copy."""
    folder = tmp_path_factory.mktemp("saved") / "pretrained_model"
    save_checkpoint_files(*tiny_policy(dataset), folder)
    return folder


def test_a_checkpoint_knows_the_names_of_its_numbers(dataset, saved, tmp_path):
    assert feature_names(saved) == {}  # as older ones
    save_checkpoint_files(*tiny_policy(dataset), tmp_path, features=dataset.meta.features)
    names = ["x", "y", "z", "gripper"]
    assert feature_names(tmp_path) == {"observation.state": names, "action": names}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_loaded_policy_does_what_the_saved_one_did(name, dataset, tmp_path):
    saved_policy = tiny_policy(dataset, name)
    assert saved_policy[0].config.type == name
    before = act(*saved_policy)
    save_checkpoint_files(*saved_policy, tmp_path)
    loaded = load_checkpoint(tmp_path, device="cpu")
    torch.testing.assert_close(act(*loaded), before)
    # In the robot's units: with other statistics the same network does something else.
    stats = {
        key: values | {"mean": values["mean"] + 1, "max": values["max"] + 1}
        for key, values in dataset.meta.stats.items()
    }
    shifted = make_processors(loaded[0], stats)
    assert not torch.allclose(act(loaded[0], *shifted), before, atol=1e-3)


def test_a_policy_has_the_datasets_features(dataset):
    policy, _, _ = tiny_policy(dataset)
    assert {key: tuple(feature.shape) for key, feature in policy.config.input_features.items()} == {
        "observation.images.left": (3, 32, 32),
        "observation.images.right": (3, 32, 32),
        "observation.state": (4,),
    }
    assert tuple(policy.config.action_feature.shape) == (4,)


def test_lerobot_loads_our_checkpoints(saved, dataset):
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies import make_policy as lerobots_make_policy
    from lerobot.policies import make_pre_post_processors

    config = PreTrainedConfig.from_pretrained(saved, cli_overrides=["--device=cpu", "--n_action_steps=4"])
    config.pretrained_path = saved
    policy = lerobots_make_policy(config, ds_meta=dataset.meta)
    pipelines = make_pre_post_processors(config, pretrained_path=str(saved))
    torch.testing.assert_close(act(policy, *pipelines), act(*load_checkpoint(saved, "cpu")))


@pytest.mark.parametrize("below", ["", "pretrained_model", "checkpoints/best/pretrained_model"])
def test_a_checkpoint_is_found_in_a_run_folder(below, tmp_path):
    folder = tmp_path / below
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").touch()
    assert find_checkpoint(tmp_path) == folder
    last = tmp_path / "checkpoints/last/pretrained_model"
    last.mkdir(parents=True)
    (last / "config.json").touch()
    assert find_checkpoint(tmp_path) == folder  # the best goes before the last


def test_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"no policy checkpoint at .*run folder"):
        load_checkpoint(tmp_path / "nothing")


def test_unknown_policies_and_fields_name_the_nearest():
    with pytest.raises(UserError, match="unknown policy 'tinyvlla'; did you mean tinyvla"):
        decode_policy_config({"type": "tinyvlla"})
    with pytest.raises(UserError, match="unknown policy 'None'"):
        decode_policy_config({})
    with pytest.raises(UserError, match="'act' has no field 'chunksize'; did you mean chunk_size"):
        decode_policy_config({"type": "act", "chunksize": 3})


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"type": "tinyvla", "n_action_steps": 99}, "n_action_steps must lie between 1 and chunk_size 16, got 99"),
        ({"type": "tinyvla", "n_obs_steps": 2}, "n_obs_steps must be 1"),
        ({"type": "tinyvla", "temporal_ensemble_coeff": 0.01}, "set n_action_steps to 1"),
        ({"type": "tinyvla", "chunk_size": "many"}, "chunk_size"),
        ({"type": "tinyvla", "crop_ratio": 0}, "crop_ratio is 0.* use a number above 0, at most 1"),
        ({"type": "tinyvla", "random_rotation": -1}, "random_rotation is -1.* use a number from 0 to 180"),
        ({"type": "tinyvla", "min_state_std": -0.1}, "min_state_std is -0.1; use 0 or more"),
        ({"type": "tinyvla", "action_margin": -0.1}, "action_margin is -0.1; use 0 or more"),
        ({"type": "tinyvla", "optimizer_eps": 0}, "optimizer_eps is 0.* use a number above 0"),
        ({"type": "tinyvla", "backbone": {"type": "llava_pythia", "training_spaces": 0}}, "training_spaces is 0"),
        ({"type": "tinyvla", "backbone": {"type": "none"}}, "backbone"),
        ({"type": "tinyvla", "decoder": {"type": "flow", "scheduler": "x"}}, "scheduler"),
        ({"type": "tinyvla", "decoder": {"type": "diffusion", "scheduler": "DDIMSchedule"}}, "mean DDIMScheduler"),
        ({"type": "tinyvla", "decoder": {"type": "diffusion", "prediction_type": "eps"}}, "use epsilon"),
        ({"type": "act", "vision_backbone": "vgg"}, "vgg"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(fields, what):
    with pytest.raises(UserError, match=what) as mistake:
        decode_policy_config(fields)
    assert "\n" not in str(mistake.value)


def test_every_backbone_of_the_configuration_is_known():
    for backbone in ("nano", "smolvlm", "llava_pythia"):
        config = decode_policy_config(as_dict(load_config("train", [f"backbone={backbone}"]).policy))
        assert config.backbone.get_choice_name(type(config.backbone)) == backbone


def test_a_policy_that_does_not_fit_the_dataset_is_one_line(dataset):
    cfg = as_dict(run_config().policy)
    cfg["decoder"]["network"]["widths"] = [16, 16, 16, 16, 16]
    with pytest.raises(UserError, match=r"'tinyvla' cannot be made: chunk_size 8 must divide by 16"):
        make_policy(decode_policy_config(cfg, "cpu"), dataset.meta)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def rewrite(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


DAMAGE = {
    "weights cut short": lambda folder: truncate(folder / "model.safetensors"),
    "weights empty": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "weights missing": lambda folder: (folder / "model.safetensors").unlink(),
    "config cut short": lambda folder: truncate(folder / "config.json"),
    "config of another policy": lambda folder: rewrite(folder / "config.json", lambda c: c.update(type="unknown")),
    "config without a type": lambda folder: rewrite(folder / "config.json", lambda c: c.pop("type")),
    "config with a strange field": lambda folder: rewrite(folder / "config.json", lambda c: c.update(strange=1)),
    "config of another size": lambda folder: rewrite(folder / "config.json", lambda c: c["backbone"].update(width=48)),
    "config with a bad value": lambda folder: rewrite(folder / "config.json", lambda c: c.update(chunk_size="x")),
    "config that is a list": lambda folder: (folder / "config.json").write_text("[]"),
    "pre-processor missing": lambda folder: (folder / "policy_preprocessor.json").unlink(),
    "post-processor cut short": lambda folder: truncate(folder / "policy_postprocessor.json"),
    "statistics missing": lambda folder: next(folder.glob("policy_preprocessor*.safetensors")).unlink(),
    "statistics cut short": lambda folder: truncate(next(folder.glob("policy_postprocessor*.safetensors"))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_one_line(damage, saved, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    DAMAGE[damage](folder)
    with pytest.raises(UserError, match="cannot be loaded") as mistake:
        load_checkpoint(folder, "cpu")
    assert "\n" not in str(mistake.value)
    assert str(folder) in str(mistake.value)
    assert capsys.readouterr() == ("", "")
