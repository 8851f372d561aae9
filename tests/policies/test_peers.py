"""LeRobot's own policies as peers: their published settings, their small ones, and what each asks of our trainer."""

import dataclasses
import math
import shutil
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from safetensors.torch import load_file
from test_factory import act
from test_runner import observation
from test_training_loop import Killed, assert_same, curve, run
from tiny import SETTINGS, run_config, tiny_policy

from configs.composing import CONFIG_DIR, as_dict, load_config
from policies import (
    PolicyRunner,
    check_policy,
    decode_policy_config,
    load_checkpoint,
    offline_models,
    save_checkpoint_files,
)
from policies.training.trainable import make_optimizer
from tinyvla.errors import UserError
from tinyvla.training.checkpoint import read_last_state

PEERS = [name for name in SETTINGS if name != "tinyvla"]
AROUND_A_MODEL = ["smolvla", "multi_task_dit"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Folder for the models that are made offline."""
    monkeypatch.setattr(offline_models, "HOME", tmp_path / "home")
    return tmp_path / "home"


@pytest.mark.parametrize("name", PEERS)
def test_the_yaml_has_lerobots_published_defaults(name):
    fields = as_dict(OmegaConf.load(CONFIG_DIR / "policy" / f"{name}.yaml"))
    ours, published = (vars(decode_policy_config(cfg, "cpu")) for cfg in (fields, {"type": name}))
    assert {key: ours[key] for key in published} == published


@pytest.mark.parametrize("name", PEERS)
def test_the_cpu_preset_downloads_nothing_and_plans_as_far_as_tinyvla(name):
    cfg = load_config("train", [f"policy={name}", "preset=cpu"])
    config = decode_policy_config(as_dict(cfg.policy), "cpu")
    check_policy(config, cfg.trainer.steps)  # the tests have no hub
    assert getattr(config, "pretrained_backbone_weights", None) is None
    ours = load_config("train", ["preset=cpu"]).policy
    if name == "vqbet":  # which executes its chunk whole
        assert config.action_chunk_size == 8
    else:
        assert len(config.action_delta_indices) == ours.chunk_size
        assert config.n_action_steps == 8


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"type": "act"}, r"could not be downloaded \(URLError.*policy.pretrained_backbone_weights=null"),
        ({"type": "vqbet", "pretrained_backbone_weights": "V9"}, "no weights 'V9' for resnet18; use .*=DEFAULT"),
        (
            {"type": "smolvla", "vlm_model_name": "no/where"},
            "'no/where' .* hub .* set policy.vlm_model_name",
        ),
        (
            {"type": "multi_task_dit", "vision_encoder_name": "no/clip"},
            "'no/clip' .* set policy.vision_encoder_name to a local folder, or use preset=cpu",
        ),
        ({"type": "smolvla", "vlm_model_name": "offline/smol"}, "no model 'offline/smol'; use offline/smolvlm or"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(fields, what, monkeypatch):
    def unreachable(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", unreachable)
    with pytest.raises(UserError, match=what) as mistake:
        check_policy(decode_policy_config(fields, "cpu"))
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize("name", AROUND_A_MODEL)
def test_a_checkpoint_carries_the_model_it_is_built_around(name, dataset, home, tmp_path):
    fresh = tiny_policy(dataset, name)
    before = act(*fresh)
    save_checkpoint_files(*fresh, tmp_path / "run")
    shutil.rmtree(home)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    loaded = load_checkpoint(tmp_path / "elsewhere", "cpu")
    torch.testing.assert_close(act(*loaded), before)
    assert not home.exists()
    # And again from there.
    save_checkpoint_files(*loaded, tmp_path / "again")
    shutil.rmtree(tmp_path / "elsewhere")
    torch.testing.assert_close(act(*load_checkpoint(tmp_path / "again", "cpu")), before)


def test_offline_models_are_made_once_and_drawn_from_the_seed(dataset, home):
    def weights():
        policy, *_ = tiny_policy(dataset, "multi_task_dit")
        return policy.state_dict()

    first = weights()
    (folder,) = home.iterdir()
    written_at = folder.stat().st_mtime_ns
    assert_same(first, weights())
    assert [path.stat().st_mtime_ns for path in home.iterdir()] == [written_at]


@pytest.mark.parametrize("name", AROUND_A_MODEL)
def test_instructions_reach_a_policy_from_scratch(name, dataset):
    """Words that differ are different tokens, and make a difference that can be learnt from."""
    policy, preprocess, _ = tiny_policy(dataset, name)
    frame = {"observation.state": torch.zeros(4)} | {
        f"observation.images.{camera}": torch.zeros(3, 32, 32) for camera in ("left", "right")
    }
    tokens = []
    for task in ("open the faucet", "close the faucet", "open the pneumatic faucet"):
        batch = preprocess(frame | {"task": task})
        tokens.append(batch["observation.language.tokens"][0][batch["observation.language.attention_mask"][0].bool()])
    assert [len(ids) - len(tokens[0]) for ids in tokens[:2]] == [0, 0]
    assert (tokens[0] != tokens[1]).sum() == 1
    assert len(tokens[2]) > len(tokens[0]) + 1  # an unknown word is a few pieces
    if name == "multi_task_dit":
        encoder = policy.observation_encoder.text_encoder
        features = [encoder(ids[None], torch.ones_like(ids[None])) for ids in tokens[:2]]
        assert (features[0] - features[1]).norm() > 0.3 * features[0].norm()


def test_smolvla_with_the_models_weights_trains_and_loads_without_the_hub(dataset_root, home, tmp_path):
    settings = ["policy.load_vlm_weights=true", "policy.train_expert_only=true", "policy.freeze_vision_encoder=true"]
    settings += ["trainer.steps=2", "trainer.save_every=0"]
    folder = run(tmp_path / "run", dataset_root, *settings, policy="smolvla", validate=None)
    assert all(math.isfinite(record["train/loss"]) for record in curve(tmp_path / "run"))
    shutil.rmtree(home)
    assert act(*load_checkpoint(folder, "cpu")).isfinite().all()


@pytest.mark.parametrize("name", AROUND_A_MODEL)
def test_nothing_random_is_left_frozen_that_lerobot_lets_train(name):
    cfg = as_dict(load_config("train", [f"policy={name}", "preset=cpu"]).policy)
    frozen = {key: value for key, value in cfg.items() if key.startswith(("freeze_", "train_expert"))}
    assert not any(frozen.values())
    assert cfg.get("vision_encoder_lr_multiplier", 1.0) == 1.0


@pytest.mark.parametrize("name", ["diffusion", "vqbet", "multi_task_dit"])
def test_a_policy_that_sees_several_steps_looks_only_at_those(name, dataset):
    policy, preprocess, postprocess = tiny_policy(dataset, name)
    if name == "vqbet":
        policy.vqbet.action_head.vqvae_model.discretized.fill_(True)
    runner = PolicyRunner(policy, preprocess, postprocess)
    runner.reset(0)
    looks, actions = [], []
    for step in range(10):
        looks.append(runner.needs_observation)
        actions.append(runner.act(observation(step) if looks[-1] else None))
    assert [step for step, looked in enumerate(looks) if looked] == [0, 3, 4, 7, 8]
    # The same as when it is shown everything.
    policy.reset()
    torch.manual_seed(0)
    with torch.inference_mode():
        for step, action in enumerate(actions):
            shown = postprocess(policy.select_action(runner._batch(observation(step))))
            np.testing.assert_allclose(action, shown[0], rtol=1e-5, atol=1e-5)


def test_smolvla_looks_when_a_chunk_is_used_up(dataset):
    runner = PolicyRunner(*tiny_policy(dataset, "smolvla"))
    looks = []
    for step in range(9):
        looks.append(runner.needs_observation)
        assert np.isfinite(runner.act(observation(step) if looks[-1] else None)).all()
    assert [step for step, looked in enumerate(looks) if looked] == [0, 4, 8]


@pytest.mark.parametrize(
    ("name", "optimizer", "rates"),
    [
        ("act", torch.optim.AdamW, [3e-4, 1e-4]),  # the rest, the images' encoder
        ("diffusion", torch.optim.Adam, [3e-4]),
        ("vqbet", torch.optim.Adam, [3e-4, 1e-3, 3e-4]),  # the rest, the action coder, what decays not
        ("smolvla", torch.optim.AdamW, [3e-4]),
        ("multi_task_dit", torch.optim.Adam, [3e-4, 6e-5]),  # the rest, the images' encoder at a fifth
    ],
)
def test_optimizers_are_lerobots_own(name, optimizer, rates, dataset):
    extra = ["policy.vision_encoder_lr_multiplier=0.2"] if name == "multi_task_dit" else []
    cfg = run_config(name, *extra, "trainer.lr=3e-4", "trainer.warmup_ratio=0")
    policy, *_ = tiny_policy(dataset, name, *extra)
    trained = make_optimizer(policy, cfg.trainer.lr, cfg.trainer.weight_decay)
    assert type(trained) is optimizer
    assert [group["lr"] for group in trained.param_groups] == pytest.approx(rates)
    preset = policy.config.get_optimizer_preset()
    assert {group["betas"] for group in trained.param_groups} == {tuple(preset.betas)}
    assert cfg.trainer.weight_decay == dataclasses.asdict(preset)["weight_decay"]
    for decay in (cfg.trainer.weight_decay, 0.07):
        assert make_optimizer(policy, cfg.trainer.lr, decay).param_groups[0]["weight_decay"] == decay


@pytest.mark.slow
class TestVQBeT:
    """Its two phases: action codes first, then the policy on frozen codes."""

    SETTINGS = (
        *("trainer.steps=60", "policy.n_vqvae_training_steps=30", "trainer.save_every=10"),
        *("trainer.lr=5e-3", "trainer.batch_size=8", "policy.vqvae_n_embed=4"),
    )

    @staticmethod
    def train(run_dir, root, **fate):
        return run(run_dir, root, *TestVQBeT.SETTINGS, policy="vqbet", validate=None, **fate)

    @pytest.fixture(scope="class")
    def undisturbed(self, dataset_root, tmp_path_factory):
        run_dir = tmp_path_factory.mktemp("vqbet")
        self.train(run_dir, dataset_root)
        return run_dir

    def test_both_phases_learn_though_their_losses_are_of_different_size(self, undisturbed):
        losses = [record["train/loss"] for record in curve(undisturbed)]
        assert len(losses) == 60
        assert max(losses[:30]) < min(losses[30:])
        assert sum(losses[25:30]) < 0.9 * sum(losses[:5])
        assert sum(losses[-5:]) < 0.9 * sum(losses[30:35])

    @pytest.mark.slow
    @pytest.mark.parametrize("at", [25, 45])
    def test_a_run_killed_in_either_phase_resumes_to_the_same_end(self, at, undisturbed, dataset_root, tmp_path):
        def kill():
            raise Killed

        with pytest.raises(Killed):
            self.train(tmp_path, dataset_root, at=at, fate=kill)
        self.train(tmp_path, dataset_root)
        assert_same(curve(tmp_path), curve(undisturbed), "metrics")
        assert_same(read_last_state(tmp_path)["model"], read_last_state(undisturbed)["model"])

    def test_codes_are_learnt_in_full_precision_where_all_else_is_bf16(self, dataset_root, tmp_path):
        settings = [*self.SETTINGS, "trainer.bf16=true", "trainer.steps=4", "policy.n_vqvae_training_steps=2"]
        run(tmp_path, dataset_root, *settings, policy="vqbet", validate=None)
        assert all(math.isfinite(record["train/loss"]) for record in curve(tmp_path))
        assert len(curve(tmp_path)) == 4

    def test_the_saved_policy_decodes_with_the_coder_that_it_was_trained_with(self, undisturbed):
        saved = load_file(undisturbed / "checkpoints/last/pretrained_model/model.safetensors")
        last = read_last_state(undisturbed)["model"]
        coder = {key for key in last if "vqvae_model" in key}
        assert any("codebook" in key for key in coder)
        assert_same({key: saved[key] for key in coder}, {key: last[key] for key in coder})
        averaged = [key for key in last if "policy" in key and last[key].is_floating_point()]
        assert any(not torch.equal(saved[key], last[key]) for key in averaged)

    def test_it_sees_the_first_camera_alone(self, dataset):
        policy, *_ = tiny_policy(dataset, "vqbet")
        assert list(policy.config.image_features) == ["observation.images.left"]

    def test_steps_that_leave_nothing_for_the_policy_are_refused(self):
        config = decode_policy_config(as_dict(run_config("vqbet").policy), "cpu")
        with pytest.raises(UserError, match=r"of 3 training steps the first 3 .* raise trainer.steps or lower policy"):
            check_policy(config, steps=3)
