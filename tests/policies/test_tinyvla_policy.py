"""TinyVLA as LeRobot sees it: found by name, its losses, chunks and optimizer groups."""

import importlib.metadata

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies import get_policy_class, make_pre_post_processors
from lerobot.utils.feature_utils import dataset_to_policy_features
from lerobot.utils.import_utils import register_third_party_plugins
from tiny import TinyConfig, tiny_policy

from policies.tinyvla import TinyVLAConfig
from policies.tinyvla.modeling_tinyvla import TinyVLAPolicy
from policies.training.trainable import make_optimizer
from tinyvla.decoders import FlowConfig, UNet1dConfig


def make_batch(policy, size=3):
    """A training batch as the pre-processor hands it on."""
    generator = torch.Generator().manual_seed(0)
    images = {key: torch.rand(size, 3, 32, 32, generator=generator) for key in policy.config.image_features}
    return images | {
        "observation.state": torch.randn(size, 4, generator=generator),
        "action": torch.rand(size, policy.config.chunk_size, 4, generator=generator),
        "task": ["open the drawer", "close it", "press"][:size],
    }


@pytest.fixture
def policy(dataset):
    return tiny_policy(dataset)[0]


def loss(policy, batch):
    torch.manual_seed(0)
    return policy(batch)[0]


def test_a_fixed_instruction_is_tokenised_once(policy):
    texts, tokenizer = [], policy.model.backbone.tokenizer
    policy.model.backbone.tokenizer = lambda batch: texts.append(list(batch)) or tokenizer(batch)
    batch = {key: value for key, value in make_batch(policy, 1).items() if key != "action"}
    for task in ("open", "open", "close", "open"):
        policy.predict_action_chunk(batch | {"task": [task]})
    assert texts == [["open"], ["close"]]


def test_lerobot_finds_the_policy_by_its_plug_in():
    assert importlib.metadata.distribution("lerobot_policy_tinyvla")
    register_third_party_plugins()
    assert PreTrainedConfig.get_choice_class("tinyvla") is TinyVLAConfig
    assert get_policy_class("tinyvla") is TinyVLAPolicy


def test_lerobot_makes_the_pipelines(dataset, policy):
    preprocess, postprocess = make_pre_post_processors(policy.config, dataset_stats=dataset.meta.stats)
    expected = {"action": "max", "observation.state": "mean"}
    stats = {key: torch.tensor(dataset.meta.stats[key][name]).float() for key, name in expected.items()}
    action = stats["action"]
    batch = preprocess(stats)
    torch.testing.assert_close(batch["action"].flatten(), torch.ones(4))  # actions by their range
    torch.testing.assert_close(batch["observation.state"].flatten(), torch.zeros(4))  # the state by mean and deviation
    torch.testing.assert_close(postprocess(batch["action"]).flatten(), action)


def test_padded_actions_carry_no_loss(policy):
    batch = make_batch(policy)
    is_pad = torch.zeros(3, policy.config.chunk_size, dtype=torch.bool)
    assert loss(policy, batch) == loss(policy, batch | {"action_is_pad": is_pad})
    is_pad[:, 2:] = True
    assert loss(policy, batch) != loss(policy, batch | {"action_is_pad": is_pad})


def test_one_instruction_may_stand_for_the_whole_batch(policy):
    batch = make_batch(policy)
    same = loss(policy, batch | {"task": ["push"] * 3})
    assert loss(policy, batch | {"task": "push"}) == same


def test_chunks_are_fixed_by_their_noise(policy):
    batch, noise = make_batch(policy), torch.randn(3, policy.config.chunk_size, 4)
    chunk = policy.predict_action_chunk(batch, noise=noise)
    assert chunk.shape == (3, policy.config.chunk_size, 4)
    assert torch.equal(chunk, policy.predict_action_chunk(batch, noise=noise))
    policy.reset()
    taken = torch.stack([policy.select_action(batch, noise=noise) for _ in range(policy.config.n_action_steps)], dim=1)
    torch.testing.assert_close(taken, chunk[:, : policy.config.n_action_steps])


def test_without_lora_there_is_one_group_of_all_parameters(policy):
    (group,) = policy.get_optim_params()
    assert set(group) == {"params"}
    assert len(group["params"]) == len(list(policy.parameters()))


def test_without_gradients_a_step_of_the_optimizer_is_the_decay_of_the_settings(policy):
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    optimizer = make_optimizer(policy, lr=0.1, weight_decay=0.5)
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(list(policy.parameters()), [0.95 * weights for weights in before])


def test_lora_has_its_own_rate(policy):
    policy.model.backbone.lora_A = torch.nn.Linear(2, 2)
    policy.model.backbone.see.requires_grad_(False)
    rest, lora = policy.get_optim_params()
    assert lora["lr"] == policy.config.optimizer_lr_lora
    assert len(lora["params"]) == 2
    assert all(parameter.requires_grad for parameter in rest["params"])
    assert len(rest["params"]) + 4 == len(list(policy.parameters()))


def test_options_survive_a_checkpoint(dataset, tmp_path):
    features = dataset_to_policy_features(dataset.meta.features)
    config = TinyVLAConfig(
        input_features={key: feature for key, feature in features.items() if key != "action"},
        output_features={"action": features["action"]},
        backbone=TinyConfig(width=24),
        decoder=FlowConfig(network=UNet1dConfig(widths=[8, 16]), inference_steps=3),
        device="cpu",
    )
    policy = TinyVLAPolicy(config)
    policy.save_pretrained(tmp_path)
    loaded = TinyVLAPolicy.from_pretrained(tmp_path)
    assert loaded.config == config
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), policy.parameters(), strict=True))


@pytest.mark.parametrize("missing", ["observation.images.left", "observation.state", "action"])
def test_features_that_a_policy_needs(missing, policy):
    config = policy.config
    config.input_features.pop(missing, None)
    config.output_features.pop(missing, None)
    if missing.startswith("observation.images"):  # one camera will do, none or two sizes will not
        config.validate_features()
        config.input_features[missing] = PolicyFeature(FeatureType.VISUAL, (3, 48, 48))
    with pytest.raises(ValueError, match="TinyVLA needs"):
        config.validate_features()
