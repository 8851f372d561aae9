"""Images of any size: fitted once, in training from the cache and a stream, in deployment, and by a policy server."""

import json
import shutil

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset
from lerobot.policies import make_pre_post_processors
from test_remote import running
from tiny import run_config

from configs.composing import as_dict
from policies import AsynchronousRunner, load_checkpoint, load_policy
from policies.checkpoints import recorded_fps
from policies.data import TrainingData, cache_frames, open_dataset, stream_batches
from policies.image_size import CROP, FITS, LETTERBOX, ImageSizeStep, camera_sizes, fit_images, own_size, step_of
from policies.remote import RemoteRunner
from policies.remote.settings import ServerSettings
from policies.training import decode_run, train
from tinyvla.errors import UserError
from tinyvla.training import Tracker, make_accelerator

SIZES, FPS = {"laptop": (48, 64), "phone": (60, 40)}, 10
STEP = ImageSizeStep(32, 32)
PEERS = ["tinyvla", "act", *(pytest.param(name, marks=pytest.mark.slow) for name in ("diffusion", "vqbet"))]
PEERS += [pytest.param(name, marks=pytest.mark.slow) for name in ("smolvla", "multi_task_dit")]


@pytest.fixture(scope="module")
def webcams(tmp_path_factory):
    """Recordings of two cameras of different sizes, 10 frames per second."""
    root = tmp_path_factory.mktemp("own") / "webcams"
    pose = {"dtype": "float32", "shape": (6,), "names": [f"joint_{i}.pos" for i in range(6)]}
    images = {
        f"observation.images.{camera}": {
            "dtype": "image",
            "shape": (*size, 3),
            "names": ["height", "width", "channels"],
        }
        for camera, size in SIZES.items()
    }
    features = {"observation.state": pose, "action": pose} | images
    dataset = LeRobotDataset.create("local/webcams", FPS, features, root=root, use_videos=False)
    rng = np.random.default_rng(0)
    for _ in range(2):
        for _ in range(20):
            frame = {key: rng.integers(0, 256, feature["shape"], np.uint8) for key, feature in images.items()}
            state = {key: rng.normal(0, 20, 6).astype(np.float32) for key in ("observation.state", "action")}
            dataset.add_frame(frame | state | {"task": "pick up the cube"})
        dataset.save_episode()
    dataset.finalize()
    return root


def settings_of(name, root, run_dir, *words):
    words = [f"dataset.root={root}", f"run_dir={run_dir}", "trainer.steps=4", "trainer.validate_every=0", *words]
    return decode_run(as_dict(run_config(name, *words)))


def train_on(root, run_dir, name="tinyvla", *words):
    settings = settings_of(name, root, run_dir, *words)
    with Tracker(run_dir, {}, enabled=False) as tracker:
        return train(settings, root, make_accelerator("cpu", False), tracker)


def observation(sizes=SIZES):
    rng = np.random.default_rng(1)
    images = {
        f"observation.images.{camera}": rng.integers(0, 256, (*size, 3), np.uint8) for camera, size in sizes.items()
    }
    return images | {"observation.state": np.zeros(6, np.float32), "task": "pick up the cube"}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_letterbox_keeps_all_of_an_image_and_a_crop_its_middle(dtype):
    image = torch.zeros(3, 40, 80, dtype=dtype)
    image[:, :, 20:60] = 100
    boxed, cropped = (fit_images(image, (20, 20), fit) for fit in FITS)
    assert boxed.dtype == cropped.dtype == dtype
    torch.testing.assert_close(cropped, torch.full_like(cropped, 100))
    assert (boxed[:, :5] == 0).all()
    assert (boxed[:, 15:] == 0).all()
    torch.testing.assert_close(boxed[:, 5:15, 6:14], torch.full_like(boxed[:, 5:15, 6:14], 100))
    assert (boxed[:, 5:15, :4] == 0).all()
    assert fit_images(boxed, (20, 20), LETTERBOX) is boxed


@pytest.mark.parametrize("fit", FITS)
def test_cached_frames_are_those_that_the_step_makes_of_full_ones(webcams, tmp_path, fit, capsys):
    dataset, step = open_dataset(shutil.copytree(webcams, tmp_path / "webcams")), ImageSizeStep(32, 32, fit)
    frames = cache_frames(dataset, 0, image_step=step)
    assert f"frames: 2 cameras, 40 frames, 0 MB in {tmp_path / 'frames/webcams-32x32-'}{fit}" in capsys.readouterr().out
    for index in (0, 7, 39):
        full = {key: dataset[index][key] for key in frames}
        for key, image in step.observation(full).items():
            assert frames[key].shape == (40, 3, 32, 32)
            difference = torch.from_numpy(frames[key][index]).float() - 255 * image
            assert difference.abs().max() < 1.01  # rounded once in each direction
    cache_frames(dataset, 0, image_step=step)
    assert capsys.readouterr().out == ""


def test_frames_that_find_no_room_are_refused_before_they_are_written(webcams, tmp_path, monkeypatch):
    dataset = open_dataset(shutil.copytree(webcams, tmp_path / "webcams"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(UserError, match=r"frames need .* GB .* dataset.image_size"):
        cache_frames(dataset, 0)
    assert not (tmp_path / "frames/webcams").exists()


@pytest.mark.parametrize("name", PEERS)
def test_a_policy_of_cameras_of_two_sizes_trains_and_acts_on_any_size(name, webcams, tmp_path):
    checkpoint = train_on(webcams, tmp_path / "run", name, *(["dataset.image_size=84"] if "dit" in name else []))
    policy = load_policy(checkpoint, "cpu")
    step = policy.image_step
    assert (step.fit, recorded_fps(checkpoint)) == (LETTERBOX, FPS)
    assert step.recorded == {f"observation.images.{camera}": list(size) for camera, size in SIZES.items()}
    assert {tuple(feature.shape) for feature in policy.policy.config.image_features.values()} == {(3, *step.size)}
    big = observation({"laptop": (480, 640), "phone": (720, 405)})
    fitted = {
        key: fit_images(torch.from_numpy(value).permute(2, 0, 1), step.size, LETTERBOX).permute(1, 2, 0).numpy()
        for key, value in big.items()
        if "images" in key
    }
    actions = []
    for images in (big, {**big, **fitted}):
        policy.reset(seed=0)
        actions.append(policy.act(images))
    np.testing.assert_array_equal(*actions)


@pytest.fixture(scope="module")
def checkpoint(webcams, tmp_path_factory):
    return train_on(webcams, tmp_path_factory.mktemp("runs") / "own")


def test_lerobots_loader_has_the_step(checkpoint):
    config = load_checkpoint(checkpoint, "cpu")[0].config
    preprocessor, _ = make_pre_post_processors(config, str(checkpoint))
    step = step_of(preprocessor)
    assert step is not None
    batch = {key: torch.from_numpy(v).permute(2, 0, 1) / 255 for key, v in observation().items() if "images" in key}
    batch |= {"observation.state": torch.zeros(6), "task": "pick up the cube"}
    assert preprocessor(batch)["observation.images.phone"].shape == (1, 3, *step.size)


@pytest.mark.parametrize(
    ("option", "value", "what"),
    [
        ("fit", "stretch", "fit cannot be 'stretch'"),
        ("height", 0, "height cannot be '0'"),
        ("height", 4096, "fits images to 4096x96 pixels but the policy's 'observation.images.laptop' has the shape"),
        ("recorded", {"front": [1, 2, 3]}, "recorded cannot be"),
        ("code", "os.system", "has no option 'code'"),
    ],
)
def test_a_step_of_a_stranger_is_refused(option, value, what, checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    file = copy / "policy_preprocessor.json"
    content = json.loads(file.read_text())
    (step,) = [step for step in content["steps"] if step["registry_name"] == "image_size_processor"]
    step["config"][option] = value
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=what):
        load_checkpoint(copy, "cpu")


def test_images_of_a_stream_are_those_of_the_cache(webcams, tmp_path):
    settings = settings_of("tinyvla", webcams, tmp_path)
    dataset = open_dataset(webcams)
    config = config_of(dataset, settings)
    data = TrainingData(dataset, config, cache_frames(dataset, 0, image_step=STEP))
    everything = data.batch(torch.arange(len(data)))
    batch = stream_batches(settings.dataset, config, 4, 0, STEP)()
    for sample, action in enumerate(batch["action"]):
        (frame,) = torch.nonzero((everything["action"] == action).flatten(1).all(1)).flatten()
        for key in config.image_features:
            assert torch.equal(batch[key][sample], everything[key][frame])


def config_of(dataset, settings):
    from policies import make_policy

    return make_policy(settings.policy, dataset.meta, "cpu", STEP.size).config


def test_frames_of_a_simulator_are_used_as_they_are(dataset_root, tmp_path):
    checkpoint = train_on(dataset_root, tmp_path / "run")
    assert "image_size" not in (checkpoint / "policy_preprocessor.json").read_text()
    policy = load_policy(checkpoint, "cpu")
    images = {f"observation.images.{camera}": np.full((480, 640, 3), 200, np.uint8) for camera in ("left", "right")}
    policy.act(images | {"observation.state": np.zeros(4, np.float32), "task": "open the drawer"})
    assert (policy.image_step, policy.image_fit) == (None, CROP)


@pytest.mark.parametrize(
    ("name", "words", "size"),
    [
        ("tinyvla", ["backbone.image_size=64"], (64, 64)),
        ("act", [], (96, 96)),
        ("act", ["policy.pretrained_backbone_weights=ResNet18_Weights.IMAGENET1K_V1"], (224, 224)),
        ("smolvla", [], (96, 96)),
        ("diffusion", [], (96, 96)),
        ("vqbet", [], (96, 96)),
        ("multi_task_dit", [], (96, 96)),
    ],
)
def test_a_policy_has_a_size_of_its_own(name, words, size):
    from configs.composing import load_config
    from policies import decode_policy_config

    config = load_config("train", [f"policy={name}", "preset=cpu", *words])
    assert own_size(decode_policy_config(as_dict(config.policy), "cpu")) == size


def test_sizes_are_read_in_either_order():
    features = {
        "observation.images.a": {"dtype": "video", "shape": (48, 64, 3)},
        "observation.images.b": {"dtype": "image", "shape": [3, 30, 40]},
        "observation.state": {"dtype": "float32", "shape": (6,)},
    }
    assert camera_sizes(features) == {"observation.images.a": (48, 64), "observation.images.b": (30, 40)}


def test_a_policy_server_passes_on_size_fit_and_rate(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "served/own")
    with running(ServerSettings(tmp_path / "served", port=0)) as address:
        remote = RemoteRunner.connect("own", address, latency_steps=0)
        local = AsynchronousRunner(*load_checkpoint(checkpoint, "cpu"), latency_steps=0)
        assert (remote.fps, remote.image_step) == (FPS, local.image_step)
        assert remote.recorded_cameras == SIZES
        actions = []
        for runner in (remote, local):
            runner.reset(seed=0)
            actions.append(runner.act(observation()))
            runner.close()
    np.testing.assert_allclose(*actions, rtol=1e-5, atol=1e-5)
