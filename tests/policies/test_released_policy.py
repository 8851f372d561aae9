"""Policies of the TinyVLA authors: they act as written in plain torch, begin a run, and nothing in them is dropped."""

import json
import os
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from released import save_llava_pythia
from released_policy import ALPHA, CHUNK, LAYOUTS, RANK, STATE, ReleasedPolicy
from safetensors.torch import load_file, save_file

from policies import load_checkpoint, load_policy
from policies.tinyvla.modeling_tinyvla import TinyVLAPolicy
from policies.tinyvla.released import ReleasedSettings, convert_released, main, read_settings
from policies.training.initial_weights import check_initial_weights, take_weights
from tinyvla.backbones.llava_pythia import LlavaPythiaConfig
from tinyvla.backbones.lora import LoRAConfig
from tinyvla.errors import UserError

INSTRUCTION = "open the drawer"


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A policy of the authors and its checkpoint by layout, converted once."""
    policies = {}

    def get(layout):
        if layout not in policies:
            folder = tmp_path_factory.mktemp("released")
            policy = ReleasedPolicy(folder, layout)
            policies[layout] = (
                policy,
                convert(policy, folder / "converted", str(policy.vlm) if "base" in layout else None),
            )
        return policies[layout]

    return get


def convert(policy, output, base=None):
    return convert_released(ReleasedSettings(policy.folder, output, ["left", "right"], base, image_size=(56, 56)))


def observe():
    """Images (2, 3, 56, 56) uint8, a raw state and the noise of a chunk."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (2, 3, 56, 56), generator=generator, dtype=torch.uint8)
    return images, torch.randn(STATE, generator=generator), torch.randn(1, CHUNK, 2, generator=generator)


def batch_of(images, state):
    cameras = {f"observation.images.{name}": images[i].float() / 255 for i, name in enumerate(("left", "right"))}
    return cameras | {"observation.state": state, "task": INSTRUCTION}


def middle(images):
    """The middle 95% of images (N, 3, 56, 56), resized to their size, as the authors' evaluation crops them."""
    return F.interpolate(images[..., 1:54, 1:54], (56, 56), mode="bilinear", antialias=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_acts_as_the_authors_policy(released, layout):
    theirs, checkpoint = released(layout)
    policy, preprocessor, postprocessor = load_checkpoint(checkpoint, "cpu")
    images, state, noise = observe()
    chunk = policy.predict_action_chunk(preprocessor(batch_of(images, state)), noise=noise)
    expected = theirs.act(middle(images.float() / 255), INSTRUCTION, state, noise)
    assert expected.std() > 0.1
    torch.testing.assert_close(postprocessor(chunk), expected, rtol=0, atol=1e-4)
    assert (policy.config.n_action_steps, policy.config.temporal_ensemble_coeff) == (1, 0.01)


def test_it_acts_in_a_program(released):
    _, checkpoint = released("peft 0.4")
    policy = load_policy(checkpoint, device="cpu")
    policy.reset(seed=0)
    image = np.zeros((40, 60, 3), np.uint8)  # of any size
    observation = {f"observation.images.{name}": image for name in ("left", "right")}
    action = policy.act(observation | {"observation.state": np.zeros(STATE, np.float32), "task": INSTRUCTION})
    assert action.shape == (2,)
    assert np.isfinite(action).all()


@pytest.mark.parametrize("lora", [LoRAConfig(RANK, ALPHA, 0.0), LoRAConfig(r=0)], ids=["lora", "whole"])
def test_a_run_begins_as_the_policy(released, lora):
    theirs, checkpoint = released("peft 0.4")
    before, preprocessor, _ = load_checkpoint(checkpoint, "cpu")
    config = load_checkpoint(checkpoint, "cpu")[0].config
    config.backbone = LlavaPythiaConfig(pretrained=str(theirs.vlm), lora=lora)
    check_initial_weights(checkpoint, config)
    policy = TinyVLAPolicy(config)
    lines = take_weights(policy, checkpoint, SimpleNamespace(features={})).splitlines()
    assert "left out" not in "".join(lines)
    images, state, noise = observe()
    batch = preprocessor(batch_of(images, state))
    expected = before.predict_action_chunk(batch, noise=noise)
    torch.testing.assert_close(policy.predict_action_chunk(batch, noise=noise), expected, rtol=0, atol=1e-4)
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-3)
    policy.train()
    loss, _ = policy(batch | {"action": torch.zeros(1, CHUNK, 2)})
    loss.backward()
    optimizer.step()
    assert (policy.predict_action_chunk(batch, noise=noise) - expected).abs().max() > 1e-4


def test_lora_of_another_rank_is_merged_into_a_new_run(released, tmp_path):
    theirs, checkpoint = released("merged")
    source, preprocessor, _ = load_checkpoint(checkpoint, "cpu")
    config = load_checkpoint(checkpoint, "cpu")[0].config
    config.backbone = LlavaPythiaConfig(pretrained=str(theirs.vlm), lora=LoRAConfig(RANK, ALPHA))
    trained = TinyVLAPolicy(config)
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:  # as if trained; they start at zero
            torch.nn.init.normal_(parameter, std=0.1)
    trained.save_pretrained(tmp_path)
    config.backbone = LlavaPythiaConfig(pretrained=str(theirs.vlm), lora=LoRAConfig(2, 3))
    other = TinyVLAPolicy(config)
    take_weights(other, tmp_path, SimpleNamespace(features={}))
    images, state, noise = observe()
    batch = preprocessor(batch_of(images, state))
    expected = trained.predict_action_chunk(batch, noise=noise)
    assert (source.predict_action_chunk(batch, noise=noise) - expected).abs().max() > 1e-3
    torch.testing.assert_close(other.predict_action_chunk(batch, noise=noise), expected, rtol=0, atol=1e-4)


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def add_stray(folder, name):
    file = folder / "non_lora_trainables.bin"
    torch.save(torch.load(file) | {f"base_model.model.{name}": torch.ones(1)}, file)


class Trap:
    """An object whose unpickling makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: edit(f.parent / "config.json", action_head_type="act"), "'act', and this stack has .* droid_diff"),
        (lambda f: edit(f.parent / "config.json", concat="None"), "give one name in cameras"),
        (lambda f: edit(f.parent / "config.json", action_dim=3), "does not fit"),
        (lambda f: edit(f.parent / "config.json", chunk_size=7), "chunk_size 7 must divide by 2"),
        (lambda f: edit(f.parent / "config.json", hidden_size=64), "does not fit"),
        (lambda f: edit(f / "adapter_config.json", use_dora=True), "use_dora"),
        (lambda f: (f / "non_lora_trainables.bin").unlink(), "lacks non_lora_trainables.bin"),
        (lambda f: (f / "adapter_model.bin").unlink(), "lacks adapter_model.safetensors or adapter_model.bin"),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json; add base="),
        (lambda f: (f.parent / "dataset_stats.pkl").unlink(), "has no dataset_stats.pkl"),
        (lambda f: (f.parent / "dataset_stats.pkl").write_bytes(pickle.dumps({})), "statistics lack qpos_mean"),
        (lambda f: add_stray(f, "gpt_neox.stray"), "unknown 1 tensors.*stray"),
        (lambda f: add_stray(f, "embed_out.stray"), "unknown 1 tensors.*stray"),
        (lambda f: add_stray(f, "proj_to_action.0.weight"), "unknown 1 tensors.*proj_to_action"),
        (lambda f: add_stray(f, "gpt_neox.layers.0.mlp.lora_magnitude"), "unknown 1 tensors.*lora_magnitude"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_writes_nothing(tmp_path, harm, message):
    policy = ReleasedPolicy(tmp_path, "peft 0.4")
    harm(policy.folder)
    with pytest.raises(UserError, match=message) as caught:
        convert(policy, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*out*"))


def test_statistics_that_name_code_are_not_run(tmp_path):
    policy = ReleasedPolicy(tmp_path, "peft 0.4")
    statistics = policy.folder.parent / "dataset_stats.pkl"
    statistics.write_bytes(pickle.dumps(policy.statistics | {"action_min": Trap(tmp_path / "trap")}))
    with pytest.raises(UserError, match="not a pickled dict of NumPy arrays"):
        convert(policy, tmp_path / "out")
    assert not (tmp_path / "trap").exists()


def test_statistics_as_lists(tmp_path):
    policy = ReleasedPolicy(tmp_path, "merged")
    lists = {name: values.tolist() for name, values in policy.statistics.items()}
    (policy.folder / "dataset_stats.pkl").unlink()
    (policy.folder / "dataset_stats.json").write_text(json.dumps(lists))
    (file,) = convert(policy, tmp_path / "out").glob("policy_preprocessor*.safetensors")
    same = load_file(file)
    assert torch.equal(same["observation.state.std"], torch.from_numpy(policy.statistics["qpos_std"]))


def test_the_authors_folders_are_pointed_to_the_conversion(tmp_path):
    merged, lora = ReleasedPolicy(tmp_path / "a", "merged"), ReleasedPolicy(tmp_path / "b", "peft 0.4")
    hint = "python -m policies.tinyvla.released"
    with pytest.raises(UserError, match=f"action head, not of a backbone.*{hint}"):
        LlavaPythiaConfig(pretrained=str(merged.folder)).build()
    (lora.folder / "config.json").write_text((lora.folder.parent / "config.json").read_text())
    with pytest.raises(UserError, match=f"LoRA matrices.*{hint}"):
        LlavaPythiaConfig(pretrained=str(lora.folder)).build()
    for folder in (merged.folder, lora.folder):
        with pytest.raises(UserError, match=hint):
            load_checkpoint(folder)


def test_weights_of_a_backbone_that_are_not_used_are_named(tmp_path, capsys):
    save_llava_pythia(tmp_path)
    LlavaPythiaConfig(pretrained=str(tmp_path), lora=LoRAConfig(r=0)).build()
    (line,) = capsys.readouterr().err.splitlines()
    # The language head, a layer of 16 tensors, and two of the last norm; not the tables that old libraries stored.
    assert line.startswith(f"warning: {tmp_path}: 19 stored tensors are not used, those of embed_out, ")
    assert "inv_freq" not in line


def test_the_command(tmp_path, monkeypatch, capsys):
    policy = ReleasedPolicy(tmp_path, "merged")
    state = load_file(policy.folder / "model.safetensors")
    save_file({f"module.{name}": tensor for name, tensor in state.items()}, policy.folder / "model.safetensors")
    settings = [f"policy={policy.folder}", "cameras=[a,b]", f"output={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", ["released", *settings])
    main()
    assert capsys.readouterr().out == f"{tmp_path}/out\n"
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["input_features"]["observation.images.b"]["shape"] == [3, 180, 320]
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/out exists already; choose another folder\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["policy"], "'policy' is not a setting"),
        (["policy=a", "output=b"], "cameras is not given"),
        (["policy=a", "output=b", "cameras=[]"], "one name per camera"),
        (["policy=a", "output=b", "cameras=[x,x]"], "all different"),
        (["policy=a", "output=b", "cameras=[x]", "image_size=[0,9]"], "does not fit"),
        (["policy=a", "output=b", "cameras=[x]", "bases=c"], "did you mean base"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(UserError, match=message):
        read_settings(settings)
