"""The training loop: it learns, and however a run ends, resumed it comes to what the undisturbed one comes to."""

import math
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from tiny import CAMERAS, SETTINGS, run_config

from configs.composing import as_dict
from policies import find_checkpoint, load_checkpoint
from policies.data import TrainingData
from policies.training import decode_run, train
from policies.training.trainable import PolicyTrainable
from tinyvla.errors import UserError
from tinyvla.training import Stopped, Tracker, make_accelerator, read_metrics, sample_order
from tinyvla.training.checkpoint import last_step, read_last_state
from tinyvla.training.guard import LossGuard

STEPS = 12
SCORES = {4: 0.5, 8: 0.75, 12: 0.25}  # of the fake validation, by step
NO_AUGMENTATION = [f"trainer.augment.{name}=0" for name in ("shift", "brightness", "contrast", "saturation")]


def validate(folder):
    """Stands in for episodes in closed loop: the score of the step that a folder is of."""
    load_checkpoint(folder, "cpu")  # a whole checkpoint, in training as at its end
    return {"success_rate": SCORES[int(folder.parent.name.strip(".tmp"))]}


class Killed(BaseException):
    pass


class FatefulTracker(Tracker):
    """Lets `fate` happen once the figures of step `at` are written."""

    def __init__(self, run_dir, cfg, at=None, fate=None):
        super().__init__(run_dir, cfg)
        self.at, self.fate = at, fate

    def log(self, step, values):
        super().log(step, values)
        if step == self.at and "train/loss" in values:
            self.fate()


def run(run_dir, root, *settings, policy="tinyvla", at=None, fate=None, validate=validate):
    """Begin a run, or go on with the one in `run_dir`; the folder of its best policy."""
    defaults = ["trainer.save_every=5", "trainer.validate_every=4", "trainer.log_every=1", f"trainer.steps={STEPS}"]
    cfg = run_config(policy, f"run_dir={run_dir}", *defaults, *settings)
    run_dir.mkdir(exist_ok=True)
    accelerator = make_accelerator("cpu", cfg.trainer.bf16)
    with FatefulTracker(run_dir, as_dict(cfg), at, fate) as tracker:
        return train(decode_run(as_dict(cfg)), root, accelerator, tracker, validate)


def curve(run_dir):
    """Metrics that do not depend on the clock, in the order of metrics.jsonl."""
    clocks = ("train/samples_per_s", "train/data_share")
    return [
        {key: value for key, value in record.items() if key not in clocks}
        for record in read_metrics(run_dir / "metrics.jsonl")
    ]


def assert_same(a, b, where="state"):
    """Compare nested dicts and lists of tensors and numbers within float tolerance."""
    if isinstance(a, torch.Tensor | float):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=lambda text: f"{where}: {text}")
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


@pytest.fixture(scope="module")
def undisturbed(dataset_root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("undisturbed")
    run(run_dir, dataset_root)
    return run_dir


def assert_same_run(run_dir, undisturbed):
    assert_same(curve(run_dir), curve(undisturbed), "metrics")
    state = read_last_state(undisturbed)
    assert_same(read_last_state(run_dir), state)
    assert set(state) == {"model", "optimizer", "schedule", "ema", "guard", "step", "best"}
    for name in ("last", "best"):
        links = [os.readlink(folder / "checkpoints" / name) for folder in (run_dir, undisturbed)]
        assert links[0] == links[1]
        ours, theirs = (
            load_file(folder / "checkpoints" / name / "pretrained_model/model.safetensors")
            for folder in (run_dir, undisturbed)
        )
        assert_same(ours, theirs, name)


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(name, marks=() if name in ("tinyvla", "smolvla") else pytest.mark.slow)
        for name in SETTINGS
        if name != "vqbet"  # see test_peers.py
    ],
)
def test_every_policy_learns(policy, dataset_root, tmp_path):
    steps = {"tinyvla": 100, "diffusion": 40}.get(policy, 30)
    settings = (f"trainer.steps={steps}", "trainer.lr=1e-3", "trainer.save_every=0", "trainer.batch_size=8")
    folder = run(tmp_path / "run", dataset_root, *settings, policy=policy, validate=None)
    losses = [record["train/loss"] for record in curve(tmp_path / "run")]
    assert len(losses) == steps
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert load_checkpoint(folder, "cpu")[0].config.type == policy


def test_what_a_run_leaves(undisturbed):
    records = read_metrics(undisturbed / "metrics.jsonl")
    train_records = [record for record in records if "train/loss" in record]
    assert [record["step"] for record in train_records] == list(range(1, STEPS + 1))
    for record in train_records:
        assert record.keys() == {
            "step",
            *(f"train/{name}" for name in ("loss", "lr", "grad_norm", "samples_per_s", "data_share")),
        }
        assert all(math.isfinite(value) for value in record.values())
        assert 0 <= record["train/data_share"] <= 1
    assert [record for record in records if "train/loss" not in record] == [
        {"step": step, "validation/success_rate": score} for step, score in SCORES.items()
    ]
    checkpoints = undisturbed / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["000008", "000012", "best", "last"]
    assert os.readlink(checkpoints / "best") == "000008"  # the highest score, not the newest
    assert find_checkpoint(undisturbed).resolve() == checkpoints / "000008/pretrained_model"


def test_the_rate_warms_up_and_falls_to_zero(dataset_root, tmp_path):
    run(tmp_path, dataset_root, "trainer.steps=20", "trainer.warmup_ratio=0.2", "trainer.lr=1e-3", validate=None)
    rates = [record["train/lr"] for record in curve(tmp_path)]  # of the step that comes next
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert rates[3:] == pytest.approx([5e-4 * (1 + math.cos(math.pi * i / 16)) for i in range(17)])


@pytest.mark.parametrize("name", ["model", "optimizer", "schedule", "ema", "guard"])
def test_a_state_that_does_not_fit_is_one_line_and_leaves_the_run_alone(name, dataset_root, tmp_path, undisturbed):
    run_dir = shutil.copytree(undisturbed, tmp_path / "run", symlinks=True)
    state = read_last_state(run_dir)
    torch.save(state | {name: {"other": 1}}, run_dir / "checkpoints/000012/training_state/state.pt")
    (run_dir / "checkpoints/best").unlink()
    before = {path: path.is_file() and path.read_bytes() for path in run_dir.rglob("*")}
    with pytest.raises(UserError, match=r"000012 is damaged .*delete that folder") as mistake:
        run(run_dir, dataset_root)
    assert "\n" not in str(mistake.value)
    assert {path: path.is_file() and path.read_bytes() for path in run_dir.rglob("*")} == before


@pytest.mark.parametrize("at", [3, 5, 7, 12])
def test_a_killed_run_resumes_to_the_same_end(at, dataset_root, tmp_path, undisturbed):
    """Killed before the first checkpoint, while one is due, between two, and at the very end."""

    def kill():
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path, dataset_root, at=at, fate=kill)
    assert last_step(tmp_path) == {3: 0, 5: 4, 7: 5, 12: 10}[at]
    run(tmp_path, dataset_root)
    assert_same_run(tmp_path, undisturbed)


def test_a_run_killed_while_validating_resumes_to_the_same_end(dataset_root, tmp_path, undisturbed):
    def kill(folder):
        if ".000008" in str(folder):
            raise Killed
        return validate(folder)

    with pytest.raises(Killed):
        run(tmp_path, dataset_root, validate=kill)
    assert last_step(tmp_path) == 5
    run(tmp_path, dataset_root)
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.parametrize(
    ("at", "saved", "number"), [(6, 7, signal.SIGINT), (6, 7, signal.SIGTERM), (12, 12, signal.SIGINT)]
)
def test_ctrl_c_saves_and_resumes(at, saved, number, dataset_root, tmp_path, undisturbed, capsys):
    before = signal.getsignal(number)
    with pytest.raises(Stopped):
        run(tmp_path, dataset_root, at=at, fate=lambda: signal.raise_signal(number))
    assert signal.getsignal(number) is before
    assert last_step(tmp_path) == saved
    assert "stopping after this step" in capsys.readouterr().err
    run(tmp_path, dataset_root)
    assert_same_run(tmp_path, undisturbed)


def test_a_second_ctrl_c_stops_at_once(dataset_root, tmp_path):
    def insist():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, dataset_root, at=7, fate=insist)
    assert last_step(tmp_path) == 5


def test_a_finished_run_has_nothing_left_to_do(dataset_root, undisturbed, monkeypatch):
    before = (undisturbed / "metrics.jsonl").read_bytes()
    folder = run(undisturbed, dataset_root, validate=lambda _: pytest.fail("validated again"))
    assert folder.resolve().parent.name == "000008"
    assert (undisturbed / "metrics.jsonl").read_bytes() == before


def test_the_saved_policy_has_averaged_weights(dataset_root, tmp_path):
    def difference(run_dir, *settings):
        folder = run(run_dir, dataset_root, *settings, validate=None)
        averaged, last = load_file(folder / "model.safetensors"), read_last_state(run_dir)["model"]
        return max((averaged[name] - last[name]).abs().max().item() for name in averaged)

    assert difference(tmp_path / "averaged") > 1e-4
    assert difference(tmp_path / "off", "trainer.ema_decay=0") < 1e-6


def test_augmentation_reaches_the_policy(dataset_root, tmp_path):
    run(tmp_path / "with", dataset_root, "trainer.steps=2", validate=None)
    run(tmp_path / "without", dataset_root, "trainer.steps=2", *NO_AUGMENTATION, validate=None)
    first, second = (curve(tmp_path / name)[0]["train/loss"] for name in ("with", "without"))
    assert first != second
    assert first == pytest.approx(second, rel=0.5)


def test_every_image_of_every_camera_is_augmented(dataset_root, tmp_path):
    def batch(*settings):
        cfg = run_config("tinyvla", f"run_dir={tmp_path}", *settings)
        trainable = PolicyTrainable(decode_run(as_dict(cfg)), dataset_root, make_accelerator("cpu", False))
        trainable.start(0)
        return trainable.batch(0)

    plain, augmented = batch(*NO_AUGMENTATION), batch()
    for camera in CAMERAS:
        key = f"observation.images.{camera}"
        assert (plain[key] != augmented[key]).flatten(1).any(1).all(), camera
    torch.testing.assert_close(augmented["observation.state"], plain["observation.state"])


def test_bf16_after_a_run_without(dataset_root, tmp_path, undisturbed):
    folder = run(tmp_path, dataset_root, "trainer.bf16=true")
    ours, exact = ([r["train/loss"] for r in curve(path) if "train/loss" in r] for path in (tmp_path, undisturbed))
    assert ours != exact
    assert ours == pytest.approx(exact, rel=0.1)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float32}


def test_nan_stops_the_run_and_saves_the_batch(dataset_root, tmp_path, monkeypatch):
    batch = TrainingData.batch

    def poisoned(self, samples):
        drawn = batch(self, samples)
        if samples.tolist() == bad:
            drawn["observation.state"][1] = torch.nan
        return drawn

    bad = sample_order(99, 0)(6 * 4, 4).tolist()  # what the seventh step sees
    monkeypatch.setattr(TrainingData, "batch", poisoned)
    with pytest.raises(UserError, match=r"the loss is nan at step 6; the batch is saved in .*bad_batch.pt") as mistake:
        run(tmp_path, dataset_root)
    assert "\n" not in str(mistake.value)
    saved = torch.load(tmp_path / "bad_batch.pt", weights_only=True)
    assert saved["step"] == 6
    assert saved["batch"]["observation.state"][1].isnan().all()
    assert saved["batch"]["task"]
    assert last_step(tmp_path) == 5
    assert all(tensor.isfinite().all() for tensor in read_last_state(tmp_path)["model"].values())


class TestLossGuard:
    def test_a_diverging_loss_stops_the_run(self, tmp_path):
        guard = LossGuard(tmp_path)
        for step in range(30):
            guard.check(step, 1.0, {})
        for step in range(30, 34):  # a few high ones may be chance
            guard.check(step, 10.0, {})
        with pytest.raises(UserError, match=r"the loss diverges .* lower trainer.lr"):
            guard.check(34, 10.0, {"task": ["open"]})
        assert torch.load(tmp_path / "bad_batch.pt", weights_only=True)["batch"] == {"task": ["open"]}

    def test_single_spikes_and_a_falling_loss_do_not(self, tmp_path):
        guard = LossGuard(tmp_path)
        for step in range(300):
            guard.check(step, 20.0 if step % 50 == 40 else math.exp(-step / 100), {})
        assert not (tmp_path / "bad_batch.pt").exists()

    def test_it_goes_on_where_it_stopped(self, tmp_path):
        whole, first, second = (LossGuard(tmp_path) for _ in range(3))
        for step in range(40):
            whole.check(step, step / 10, {})
            (first if step < 25 else second).check(step, step / 10, {})
            if step == 24:
                second.load_state_dict(first.state_dict())
        assert second.state_dict() == whole.state_dict()
