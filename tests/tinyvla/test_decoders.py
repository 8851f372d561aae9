"""Action decoders: what they learn, what padding does to them, and what they refuse."""

import pytest
import torch
from tiny import TinyConfig

from tinyvla.backbones import Features
from tinyvla.decoders import DiffusionConfig, DiTConfig, FlowConfig, Known, UNet1dConfig
from tinyvla.decoders.base import GlobalCondition, masked_mse
from tinyvla.model import TinyVLA

WIDTH, STATE, ACTION, CHUNK = 16, 3, 2, 8
UNET = UNet1dConfig(widths=[32, 32], kernel_size=3, step_embedding=32)
DIT = DiTConfig(width=32, layers=2, heads=2, step_embedding=32)
DECODERS = {
    "diffusion-unet": DiffusionConfig(network=UNET, prediction_type="epsilon", noise_repeats=1),
    "diffusion-dit": DiffusionConfig(network=DIT, prediction_type="epsilon", noise_repeats=1),
    "flow-unet": FlowConfig(network=UNET, noise_repeats=1),
    "flow-dit": FlowConfig(network=DIT, noise_repeats=1),
}


def build(config):
    torch.manual_seed(0)
    return config.build(WIDTH, STATE, ACTION, CHUNK)


def observations(count):
    """Features and state of random observations."""
    generator = torch.Generator().manual_seed(0)
    features = Features(torch.randn(count, 5, WIDTH, generator=generator), torch.ones(count, 5, dtype=torch.bool))
    return features, torch.randn(count, STATE, generator=generator)


def noise_of(count, seed=1):
    return torch.randn(count, CHUNK, ACTION, generator=torch.Generator().manual_seed(seed))


# Two observations and what to do in each: far enough apart that one chunk for both would be wrong by 0.5.
TARGETS = torch.tensor([[0.6, -0.4], [-0.6, 0.6]])[:, None].expand(-1, CHUNK, -1)
CLOSE = 0.3


def fit(decoder, steps=300, repeats=16):
    """Train a decoder on the two observations."""
    features, state = observations(2)
    features = Features(*(tensor.repeat(repeats, *[1] * (tensor.ndim - 1)) for tensor in features))
    state, actions = state.repeat(repeats, 1), TARGETS.repeat(repeats, 1, 1)
    is_pad = torch.zeros(2 * repeats, CHUNK, dtype=torch.bool)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = decoder.loss(features, state, actions, is_pad)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return decoder


@torch.no_grad()
def error(decoder):
    """The largest deviation of what is sampled from what was learnt."""
    torch.manual_seed(0)  # some schedulers draw noise of their own
    return (decoder.sample(*observations(2), noise_of(2)) - TARGETS).abs().max().item()


@pytest.mark.parametrize("name", DECODERS)
def test_recovers_the_action_that_goes_with_an_observation(name):
    assert error(fit(build(DECODERS[name]))) < CLOSE


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_other_predictions_learn_too(prediction):
    assert error(fit(build(DiffusionConfig(network=DIT, prediction_type=prediction, noise_repeats=1)))) < CLOSE


@pytest.fixture(scope="module")
def learnt():
    return fit(build(DiffusionConfig(network=DIT, prediction_type="epsilon", noise_repeats=1))).state_dict()


@pytest.mark.parametrize(
    "scheduler",
    [
        "DDIMScheduler",
        "DDPMScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "PNDMScheduler",
    ],
)
def test_any_scheduler_samples_what_was_learnt(scheduler, learnt):
    decoder = build(DiffusionConfig(network=DIT, scheduler=scheduler, prediction_type="epsilon"))
    decoder.load_state_dict(learnt)
    assert error(decoder) < CLOSE


@pytest.mark.parametrize("name", DECODERS)
def test_padded_steps_carry_no_loss(name):
    decoder = build(DECODERS[name])
    is_pad = torch.zeros(2, CHUNK, dtype=torch.bool)
    is_pad[:, 5:] = True

    def loss(wrong_by, where):
        """The loss of a network whose output is off by `wrong_by` at some steps."""
        hook = decoder.network.register_forward_hook(lambda _, __, out: out + wrong_by * where.unsqueeze(-1))
        torch.manual_seed(0)
        value = decoder.loss(*observations(2), TARGETS, is_pad).item()
        hook.remove()
        return value

    assert loss(1e3, where=is_pad) == loss(0.0, where=is_pad)
    assert loss(1e3, where=~is_pad) > 1e5


def test_masked_mse_by_hand():
    prediction, target = torch.tensor([[[1.0, 3.0], [9.0, 9.0]]]), torch.zeros(1, 2, 2)
    assert masked_mse(prediction, target, torch.tensor([[False, True]])).item() == 5.0
    assert masked_mse(prediction, target, torch.tensor([[False, False]])).item() == 43.0
    assert masked_mse(prediction, target, torch.tensor([[True, True]])).item() == 0.0


def test_masked_tokens_do_not_reach_the_condition():
    condition = GlobalCondition(WIDTH, STATE)
    features, state = observations(2)
    mask = features.mask.clone()
    mask[:, 3:] = False
    other = features.tokens.clone()
    other[:, 3:] = 7.0
    expected = condition(Features(features.tokens[:, :3], mask[:, :3]), state)
    torch.testing.assert_close(condition(Features(other, mask), state), expected)


@pytest.mark.parametrize("name", DECODERS)
def test_a_sample_is_fixed_by_its_noise(name):
    decoder = build(DECODERS[name])
    for parameter in decoder.parameters():  # a fresh DiT puts out zeros whatever it sees
        torch.nn.init.normal_(parameter, std=0.1)
    features, state = observations(3)
    with torch.no_grad():
        first = decoder.sample(features, state, noise_of(3))
        again = decoder.sample(features, state, noise_of(3))
        other = decoder.sample(features, state, noise_of(3, seed=2))
        alone = decoder.sample(Features(*(tensor[1:2] for tensor in features)), state[1:2], noise_of(3)[1:2])
    assert first.shape == (3, CHUNK, ACTION)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    torch.testing.assert_close(alone, first[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_known_actions_have_the_noise_of_the_step_that_reads_them(name, monkeypatch):
    """As in training at that step, so that the network fits the other actions to them (real-time chunking)."""
    decoder, noise = build(DECODERS[name]), noise_of(2)
    steps, inputs, modulate_all, denoise = [], [], decoder.network.modulate_all, decoder.network.denoise

    def note_steps(times, condition):
        steps.extend(times.split(1))
        return modulate_all(times, condition)

    def note_input(noisy, modulation):
        inputs.append(noisy)
        return denoise(noisy, modulation)

    monkeypatch.setattr(decoder.network, "modulate_all", note_steps)
    monkeypatch.setattr(decoder.network, "denoise", note_input)
    with torch.no_grad():
        chunk = decoder.sample(*observations(2), noise, Known(TARGETS, torch.ones(CHUNK, 1)))
    assert len(inputs) == 10
    for step, noisy in list(zip(steps, inputs, strict=True))[1:]:  # the first step reads noise alone
        if name.startswith("flow"):
            expected = torch.lerp(noise, TARGETS, step / decoder.TIME_SCALE)
        else:
            expected = decoder.train_scheduler.add_noise(TARGETS, noise, step)
        torch.testing.assert_close(noisy, expected)
    torch.testing.assert_close(chunk, TARGETS)


@pytest.mark.parametrize("config", [DiffusionConfig, FlowConfig])
def test_more_noise_draws_share_one_pass_of_the_backbone(config):
    decoder = build(config(network=UNET, noise_repeats=5))
    conditions = []
    decoder.network.register_forward_hook(lambda _, inputs, __: conditions.append(inputs))
    decoder.loss(*observations(2), TARGETS, torch.zeros(2, CHUNK, dtype=torch.bool))
    ((noisy, steps, condition),) = conditions
    assert len(noisy) == len(steps) == len(condition) == 10
    assert len(set(noisy[:, 0, 0].tolist())) == 10  # each draw is its own
    torch.testing.assert_close(condition, condition[::5].repeat_interleave(5, 0))  # a sample's draws side by side


@pytest.mark.parametrize("decoder", [DiffusionConfig, FlowConfig])
def test_the_backbone_runs_once_a_chunk(decoder):
    model = TinyVLA(TinyConfig(), decoder(network=UNET, inference_steps=10), STATE, ACTION, CHUNK)
    calls = {"backbone": 0, "modulate": 0, "denoise": 0}

    def count(name, owner, method):
        function = getattr(owner, method)

        def counted(*inputs):
            calls[name] += 1
            return function(*inputs)

        setattr(owner, method, counted)

    count("backbone", model.backbone, "forward")
    count("modulate", model.decoder.network, "modulate")
    count("denoise", model.decoder.network, "denoise")
    with torch.no_grad():
        chunk = model.sample(torch.rand(2, 2, 3, 16, 16), ["open", "close"], torch.rand(2, STATE))
    assert chunk.shape == (2, CHUNK, ACTION)
    assert calls == {"backbone": 1, "modulate": 1, "denoise": 10}


@pytest.mark.parametrize("network", [UNET, DIT], ids=["unet", "dit"])
def test_all_steps_modulated_at_once_are_the_steps_one_by_one(network):
    network = build(FlowConfig(network=network)).network
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    steps, condition = torch.tensor([90, 40, 3]), torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for step, modulation in zip(steps, network.modulate_all(steps, condition), strict=True):
            expected = network(noise_of(2), step.expand(2), condition)
            torch.testing.assert_close(network.denoise(noise_of(2), modulation), expected, rtol=1e-4, atol=1e-5)


def test_samples_stay_in_the_normalised_range_where_the_scheduler_can_clip():
    decoder = build(DiffusionConfig(network=UNET, prediction_type="epsilon", noise_repeats=1))
    with torch.no_grad():
        decoder.network.final[1].weight.mul_(100)  # a network gone wild
        assert decoder.sample(*observations(4), noise_of(4)).abs().max() <= 1.0 + 1e-5


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="'DDIMSchedular' is not a scheduler of diffusers; did you mean DDIMScheduler"):
        DiffusionConfig(scheduler="DDIMSchedular")
    with pytest.raises(ValueError, match="not a scheduler"):
        DiffusionConfig(scheduler="UNet2DModel")
    with pytest.raises(ValueError, match="does not suit action chunks"):
        DiffusionConfig(scheduler="FlowMatchEulerDiscreteScheduler")
    with pytest.raises(ValueError, match=r"does not suit action chunks.*'eta'"):
        DiffusionConfig(scheduler_kwargs={"eta": 1})
    for steps in (0, 101):
        with pytest.raises(ValueError, match=f"inference_steps must lie between 1 and train_steps 100, got {steps}"):
            DiffusionConfig(inference_steps=steps)
    with pytest.raises(ValueError, match="inference_steps is 0; use a number from 1 to"):
        FlowConfig(inference_steps=0)
    with pytest.raises(ValueError, match="prediction_type is 'eps'; use epsilon"):
        DiffusionConfig(prediction_type="eps")
    with pytest.raises(ValueError, match="chunk_size 6 must divide by 4"):
        UNet1dConfig(widths=[8, 16, 32]).build(ACTION, 6, WIDTH)
    assert DiTConfig(width=8, layers=1, heads=1).build(ACTION, 7, WIDTH) is not None


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_few_steps_begin_where_a_chunk_begins(scheduler):
    """As pure noise; with the spacing of many steps, two would begin half-way."""

    def first(steps, **options):
        sampler = DiffusionConfig(scheduler=scheduler, inference_steps=steps, **options).make_sampler()
        sampler.set_timesteps(steps)
        return sampler.timesteps[0].item()

    assert first(2, prediction_type="sample") >= 95
    assert first(2, prediction_type="epsilon") < 70
    assert first(2, prediction_type="sample", scheduler_kwargs={"timestep_spacing": "leading"}) < 70
    assert first(10, prediction_type="sample") == first(10, prediction_type="epsilon") < 95


def test_clipping_in_a_solver_is_what_diffusers_computes():
    sampler = DiffusionConfig(scheduler="DPMSolverMultistepScheduler", prediction_type="epsilon").make_sampler()
    estimate = 3 * noise_of(4)
    torch.testing.assert_close(sampler._threshold_sample(estimate), type(sampler)._threshold_sample(sampler, estimate))


@torch.no_grad()
@pytest.mark.parametrize("identity", [True, False])
def test_film_multiplies_by_the_scale_or_by_one_plus_it(identity):
    config = UNet1dConfig(widths=[8, 16], groups=4, step_embedding=16, identity_film=identity)
    block = config.build(ACTION, CHUNK, WIDTH).down[0][0]
    x, condition = torch.randn(3, ACTION, CHUNK), torch.randn(3, WIDTH + 16)
    scale, shift = block.film(condition)[:, :8, None], block.film(condition)[:, 8:, None]
    expected = block.second(block.first(x) * (1 + scale if identity else scale) + shift) + block.skip(x)
    torch.testing.assert_close(block(x, *block.modulate(condition)), expected)
