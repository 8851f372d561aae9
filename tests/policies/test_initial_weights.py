"""Fine-tuning: a run begins with the weights of another policy that fit, and says which do."""

import json
import shutil

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset
from safetensors.torch import load_file
from tiny import SETTINGS, run_config, tiny_policy

from configs.composing import as_dict
from policies import decode_policy_config, find_checkpoint, make_policy, save_checkpoint_files
from policies.data import open_dataset
from policies.model_card import CARD
from policies.training import check_settings, decode_run, train
from policies.training.initial_weights import check_initial_weights, take_weights
from tinyvla.errors import UserError
from tinyvla.training import Tracker, make_accelerator

NANO = {
    **{"type": "nano", "image_size": 32, "vision_width": 16, "keypoints": 8, "hidden_size": 32, "layers": 1},
    **{"heads": 2, "vocab_size": 64},
}
FILM = {
    **{"type": "film", "image_size": 32, "vision_width": 16, "keypoints": 8, "hidden_size": 32, "text_size": 16},
    "vocab_size": 64,
}


def write_recording(root, cameras, size=4):
    """A dataset of two short episodes with these cameras, and a state and action of `size` numbers."""
    image = {"dtype": "image", "shape": (32, 32, 3), "names": ["height", "width", "channels"]}
    vector = {"dtype": "float32", "shape": (size,), "names": [f"joint{i}" for i in range(size)]}
    features = {f"observation.images.{camera}": image for camera in cameras}
    features |= {"observation.state": vector, "action": vector}
    dataset = LeRobotDataset.create(f"local/{root.name}", 30, features, root=root)
    rng = np.random.default_rng(0)
    for _ in range(2):
        for _ in range(12):
            images = {f"observation.images.{camera}": np.zeros((32, 32, 3), np.uint8) for camera in cameras}
            values = rng.normal(size=(2, size)).astype(np.float32)
            dataset.add_frame(images | {"observation.state": values[0], "action": values[1], "task": "lift it"})
        dataset.save_episode()
    dataset.finalize()
    return open_dataset(root)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Datasets by their cameras and the size of the state, written once."""
    folder, datasets = tmp_path_factory.mktemp("recordings"), {}

    def write(*cameras, size=4):
        if (cameras, size) not in datasets:
            datasets[cameras, size] = write_recording(folder / f"{'-'.join(cameras)}-{size}", cameras, size)
        return datasets[cameras, size]

    return write


def fresh(dataset, seed, backbone=NANO, policy="tinyvla"):
    """A policy with random weights of a seed."""
    options = as_dict(run_config(policy).policy)
    config = decode_policy_config(options | ({"backbone": backbone} if policy == "tinyvla" else {}), "cpu")
    torch.manual_seed(seed)
    return make_policy(config, dataset.meta)


def saved(folder, policy, dataset):
    from policies import make_processors

    save_checkpoint_files(policy, *make_processors(policy, dataset.meta.stats), folder, features=dataset.meta.features)
    return folder


@pytest.mark.parametrize("policy", list(SETTINGS))
def test_all_weights_of_the_same_network_are_taken(policy, dataset, tmp_path):
    source, *pipelines = tiny_policy(dataset, policy)
    save_checkpoint_files(source, *pipelines, tmp_path, features=dataset.meta.features)
    config = decode_policy_config(as_dict(run_config(policy).policy), "cpu")
    torch.manual_seed(1)
    target = make_policy(config, dataset.meta)
    lines = take_weights(target, tmp_path, dataset.meta).splitlines()
    stored = load_file(tmp_path / "model.safetensors")
    untouched = [name for name in stored if not torch.equal(target.state_dict()[name], stored[name])]
    if policy == "vqbet":  # its codes belong to the actions of one dataset
        assert untouched
        assert all("vqvae_model." in name for name in untouched)
        assert not target.vqbet.action_head.vqvae_model.discretized.item()
    else:
        assert untouched == []
        assert lines[0] == f"initial weights from {tmp_path}"
        assert lines[1].startswith("  taken      100.0% of the values: ")
        assert lines[2] == "  start anew   0.0%: none"


@pytest.mark.parametrize("backbone", [NANO, FILM], ids=["nano", "film"])
@pytest.mark.parametrize("cameras", [("wrist", "front"), ("wrist",), ("laptop", "phone", "wrist"), ("laptop", "phone")])
def test_a_cameras_weights_go_with_its_name(backbone, cameras, recording, tmp_path):
    before, after = recording("front", "wrist"), recording(*cameras)
    source = fresh(before, 0, backbone)
    target = fresh(after, 1, backbone)
    untouched = fresh(after, 1, backbone).model.backbone
    take_weights(target, saved(tmp_path / "source", source, before), after.meta)
    old, new = source.model.backbone, target.model.backbone
    # Each camera of that name, else the next camera that is left over, as long as there is one.
    sources = {
        ("wrist", "front"): [1, 0],
        ("wrist",): [1],
        ("laptop", "phone", "wrist"): [0, None, 1],
        ("laptop", "phone"): [0, 1],
    }[cameras]
    for camera, number in enumerate(sources):
        for weights in (lambda part, i: part.camera_embedding[i],) if backbone is NANO else _FILM_WEIGHTS:
            expected = weights(untouched, camera) if number is None else weights(old, number)
            torch.testing.assert_close(weights(new, camera), expected, rtol=0, atol=0)
    if backbone is FILM:
        torch.testing.assert_close(new.fuse[0].weight[:, -16:], old.fuse[0].weight[:, -16:])
        torch.testing.assert_close(new.words.weight, old.words.weight)
    else:
        torch.testing.assert_close(new.language_model.embed_in.weight, old.language_model.embed_in.weight)


_FILM_WEIGHTS = (
    lambda part, i: part.towers[i].stem.blocks[0].convolution.weight,
    lambda part, i: part.fuse[0].weight[:, 16 * i : 16 * i + 16],
)


def test_projections_of_another_state_start_anew_and_the_table_names_them(recording, tmp_path):
    before, after = recording("front", "wrist"), recording("front", "wrist", size=6)
    source, target = fresh(before, 0), fresh(after, 1)
    table = take_weights(target, saved(tmp_path / "source", source, before), after.meta)
    stored, new = load_file(tmp_path / "source/model.safetensors"), target.state_dict()
    fitting = {name for name in stored if stored[name].shape == new[name].shape}
    assert 0 < len(stored) - len(fitting) < 0.1 * len(stored)
    assert all(torch.equal(new[name], stored[name]) for name in fitting)
    torch.manual_seed(1)
    untouched = fresh(after, 1).state_dict()
    assert all(torch.equal(new[name], untouched[name]) for name in new.keys() - fitting)
    assert "start anew" in table
    assert ", there (" in table
    assert len(table.splitlines()) <= 4


def test_other_names_of_the_same_number_of_joints_are_said(recording, dataset, tmp_path):
    source = fresh(dataset, 0)
    after = recording("front", "wrist")
    table = take_weights(fresh(after, 1), saved(tmp_path / "source", source, dataset), after.meta)
    assert "  action was x, y, z, gripper and is now joint0, joint1, joint2, joint3" in table.splitlines()


def test_another_type_of_policy_is_one_line(dataset, tmp_path):
    source = saved(tmp_path / "act", fresh(dataset, 0, policy="act"), dataset)
    with pytest.raises(UserError, match="is a policy of the type act and this run trains tinyvla; add policy=act"):
        check_initial_weights(source, fresh(dataset, 0).config)


def test_another_network_is_one_line_that_names_the_settings(recording, tmp_path):
    dataset = recording("front", "wrist")
    source = saved(tmp_path / "source", fresh(dataset, 0), dataset)
    with pytest.raises(
        UserError, match=r"of the weights fit \(.*backbone nano there, film here.*; train with the sett"
    ):
        take_weights(fresh(dataset, 1, FILM), source, dataset.meta)
    with pytest.raises(UserError, match=r"backbone\.hidden_size 32 there, 64 here"):
        take_weights(fresh(dataset, 1, NANO | {"hidden_size": 64}), source, dataset.meta)


def test_a_damaged_checkpoint_is_one_line(recording, tmp_path):
    dataset = recording("front", "wrist")
    source = saved(tmp_path / "source", fresh(dataset, 0), dataset)
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a complete checkpoint file"):
        check_initial_weights(source, fresh(dataset, 0).config)
    weights.unlink()
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04")  # never opened
    with pytest.raises(UserError, match=r"model\.safetensors"):
        check_initial_weights(source, fresh(dataset, 0).config)


def begin(run_dir, root, *settings):
    cfg = run_config("tinyvla", f"run_dir={run_dir}", f"dataset.root={root}", "trainer.validate_every=0", *settings)
    cfg.policy.backbone = NANO
    run_settings = decode_run(as_dict(cfg))
    check_settings(run_settings)
    accelerator = make_accelerator("cpu", False)
    with Tracker(run_dir, as_dict(cfg)) as tracker:
        return train(run_settings, root, accelerator, tracker)


def test_a_run_begins_with_them_and_a_resumed_one_does_not_load_them_again(dataset, dataset_root, tmp_path, capsys):
    source = saved(tmp_path / "source", fresh(dataset, 0), dataset)
    run_dir = tmp_path / "run"
    quiet = ["trainer.lr=1e-12", "trainer.ema_decay=0", f"init_from={source}"]
    best = begin(run_dir, dataset_root, *quiet, "trainer.steps=2")
    assert f"initial weights from {source}" in capsys.readouterr().out
    before, now = (load_file(folder / "model.safetensors") for folder in (source, best))
    for name in before:
        torch.testing.assert_close(now[name], before[name], rtol=1e-4, atol=1e-6)
    assert f"| initial weights | `{source}`, where they fit |" in (best / CARD).read_text()
    shutil.rmtree(source)
    begin(run_dir, dataset_root, *quiet, "trainer.steps=4")
    assert "initial weights" not in capsys.readouterr().out
    assert find_checkpoint(run_dir).resolve().parent.name == "000004"


def test_the_normalisation_is_that_of_the_new_dataset(recording, dataset, tmp_path):
    before = recording("left", "right")
    source = saved(tmp_path / "source", fresh(before, 0), before)
    best = begin(tmp_path / "run", dataset.root, f"init_from={source}", "trainer.steps=1")
    stats = load_file(next(best.glob("policy_preprocessor*.safetensors")))
    np.testing.assert_allclose(
        stats["observation.state.mean"], dataset.meta.stats["observation.state"]["mean"], rtol=1e-5
    )
    assert json.loads((best / "feature_names.json").read_text())["action"] == ["x", "y", "z", "gripper"]


def test_init_from_without_a_checkpoint_is_one_line(dataset_root, tmp_path):
    with pytest.raises(UserError, match="no policy checkpoint at"):
        begin(tmp_path / "run", dataset_root, f"init_from={tmp_path / 'nothing'}")
