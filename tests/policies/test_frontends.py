"""Front-ends beside TinyVLA: what they add is learnt from, kept with the policy, and computed once a dataset."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from test_training_loop import assert_same, curve
from test_training_loop import run as train_run
from tiny import CAMERAS, SIZE, run_config, tiny_policy
from torch import nn

from configs.composing import as_dict
from policies import load_checkpoint
from policies.data import features
from policies.export import export_policy
from policies.runtimes import adapt_policy
from policies.tinyvla.frontends import Frontends
from policies.training import check_settings, decode_run
from tinyvla import registry
from tinyvla.errors import UserError
from tinyvla.frontends import Feature, Frontend

LEFT = "observation.images.left"


class Redness(Frontend):
    """A mask of what is brighter than a learned level, and the image's mean colour as a token."""

    name = "redness"

    def __init__(self, level: float = 0.5):
        super().__init__()
        self.options = {"level": level}
        self.level = nn.Parameter(torch.tensor(level))

    def adds(self, image_size):
        return {"mask": Feature((3, *image_size)), "colour": Feature((1, 3))}

    def see(self, images, instructions):
        assert len(images) == len(instructions)
        mask = (images[:, :1] > self.level).float().expand_as(images)
        return {"mask": mask, "colour": images.mean((-2, -1)).unsqueeze(1)}


@pytest.fixture(autouse=True)
def redness(monkeypatch):
    """A third party's front-end, installed."""

    class Entry:
        name, load = "redness", staticmethod(lambda: Redness)

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry] if group == "tinyvla.frontends" else [])


@pytest.fixture
def root(dataset_root, tmp_path):
    return shutil.copytree(dataset_root, tmp_path / "data" / "tiny")


@pytest.fixture
def train(monkeypatch, root, tmp_path):
    def run(name, *settings, **frontends):
        def with_frontends(*arguments):
            cfg = run_config(*arguments)
            cfg.policy.frontend = frontends
            return cfg

        monkeypatch.setattr("test_training_loop.run_config", with_frontends)
        folder = train_run(tmp_path / name, root, "trainer.steps=8", "trainer.save_every=4", *settings, validate=None)
        return folder, curve(tmp_path / name)

    return run


def observation(**changes):
    torch.manual_seed(0)
    camera_images = {f"observation.images.{camera}": torch.rand(1, 3, SIZE, SIZE) for camera in CAMERAS}
    return camera_images | {"observation.state": torch.zeros(1, 4), "task": ["open the drawer"]} | changes


def test_a_policy_carries_its_frontends(train, tmp_path, monkeypatch):
    Redness(0.3).save(tmp_path / "redness")
    folder, _ = train("run", redness={"checkpoint": str(tmp_path / "redness")})
    shutil.rmtree(tmp_path / "redness")  # no one else has it
    policy, *_ = load_checkpoint(folder, "cpu")
    assert policy.frontends.frontends["redness"].level.item() == pytest.approx(0.3)
    assert not any("level" in name for name in load_file(folder / "model.safetensors"))
    assert str(tmp_path) not in (folder / "config.json").read_text()
    assert policy.cameras == [f"observation.images.{camera}" for camera in CAMERAS]  # what a robot must have

    noise = torch.randn(1, *policy.model.chunk_shape)
    chunk = policy.predict_action_chunk(observation(), noise=noise)
    added_features = policy.frontends.see({key: observation()[key] for key in policy.cameras}, ["open the drawer"])
    assert_same(policy.predict_action_chunk(observation(**added_features), noise=noise), chunk)
    for key in added_features:  # every one of them counts
        other = policy.predict_action_chunk(
            observation(**added_features | {key: added_features[key] + 0.5}), noise=noise
        )
        assert not torch.allclose(other, chunk), key


def test_what_frontends_see_in_a_dataset_is_computed_once(train, root, monkeypatch):
    _, first = train("first", redness={})
    (folder,) = (root.parent / "features" / root.name).glob("[!.]*")
    assert len(list(folder.iterdir())) == 2 * len(CAMERAS) + 1
    monkeypatch.setattr(features, "_compute", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr(Frontends, "see", lambda *_: pytest.fail("computed in a step"))
    assert_same(train("second", redness={})[1], first)
    monkeypatch.setattr(features, "_compute", lambda *_: pytest.fail("with other options"))
    with pytest.raises(pytest.fail.Exception, match="with other options"):
        train("third", redness={"level": 0.4})


def test_none_changes_nothing(dataset):
    policy, *_ = tiny_policy(dataset)
    assert not policy.frontends
    assert not any("adapters" in name for name in policy.state_dict())


@pytest.mark.parametrize(
    ("frontends", "message"),
    [
        ({"rednes": {}}, "unknown front-end 'rednes'; did you mean redness"),
        ({"redness": {"levle": 1}}, "does not take these options"),
        ({"redness": {"checkpoint": "nowhere"}}, "no front-end at nowhere"),
    ],
)
def test_mistakes_are_one_line(frontends, message):
    with pytest.raises(UserError, match=message):
        Frontends(frontends, [LEFT], (SIZE, SIZE))


def test_a_damaged_frontend_is_one_line(tmp_path):
    Redness().save(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-2])
    with pytest.raises(UserError, match="cannot be loaded"):
        Frontends({"redness": {"checkpoint": str(tmp_path)}}, [LEFT], (SIZE, SIZE))


def test_what_does_not_go_with_frontends_is_refused(train, dataset, tmp_path):
    folder, _ = train("run", redness={})
    policy, *_ = load_checkpoint(folder, "cpu")
    with pytest.raises(UserError, match="runs as it was trained"):
        adapt_policy(policy, "onnx")
    with pytest.raises(UserError, match="cannot be exported"):
        export_policy(folder, tmp_path / "exported")
    cfg = run_config("act")
    cfg.frontend = {"redness": {}}
    with pytest.raises(UserError, match="only policy=tinyvla takes front-ends"):
        check_settings(decode_run(as_dict(cfg)))
