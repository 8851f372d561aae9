"""Traps in strangers' checkpoints and datasets: none goes off, and each is refused in one line.

The doors are those of `python -m benchmarks.security.canary`; here the most important ones are tried in this process.
"""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file
from tiny import write_dataset, write_metaworld_policy

from benchmarks.security.all_doors import all_doors
from benchmarks.security.doors import Door, model
from benchmarks.security.traps import Trap
from policies import load_policy
from policies.data.frames import open_dataset
from policies.export import export_policy
from tinyvla.errors import UserError
from tinyvla.frontends import load_frontend
from tinyvla.frontends.classifier import Classifier
from tinyvla.frontends.wake.frontend import Wake
from tinyvla.training.checkpoint import read_last_state
from tinyvla.training.run_folder import read_config

DOORS = {door.name: door for door in all_doors()}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a policy, a dataset, a front-end and a classifier, laid out as the doors expect it."""
    folder = tmp_path_factory.mktemp("prepared")
    checkpoint = folder / "outputs/run/checkpoints/000001"
    write_metaworld_policy(checkpoint / "pretrained_model")
    (checkpoint / "training_state").mkdir()
    (checkpoint.parent / "last").symlink_to(checkpoint.name)
    (folder / "outputs/run/config.yaml").write_text("seed: 0\nlauncher:\n  name: local\n")
    write_dataset(folder / "dataset")
    Wake(width=0.25, image_size=48).save(folder / "frontends/wake")
    Classifier("cct_2_3x2", ["a", "b"], 16).save(folder / "frontends/classifier")
    for name in ("evil", "pretrained/smolvlm"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text('{"model_type": "smolvlm"}')
    save_file({}, folder / "pretrained/smolvlm/model.safetensors")
    return folder


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path)


@pytest.fixture
def work(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "work", symlinks=True)


OPENS: dict[str, Callable[[Path], object]] = {
    "checkpoint": lambda work: load_policy(work / "outputs/run", "cpu"),
    "load_policy": lambda work: load_policy(work / "outputs/run", "cpu"),
    "export.py": lambda work: export_policy(work / "outputs/run", work / "export"),
    "run": lambda work: (read_config(work / "outputs/run/config.yaml"), read_last_state(work / "outputs/run")),
    "wake": lambda work: load_frontend(work / "frontends/wake"),
    "classifier": lambda work: Classifier.load(work / "frontends/classifier"),
    "dataset": lambda work: open_dataset(work / "dataset"),
}
# Doors that need what `prepared` lacks, and files that are left alone.
LEFT_OUT = {
    "run: its launcher is a function",
    "run: a pretrained model elsewhere",
    "run: its dataset is elsewhere",
    "run: metrics.jsonl is a link",
    "run: the record of the best is a link",
    "run: a pickle inside the state",
    "run: a pickled bad batch",
    "classifier: config.json names code",
    "dataset: a video is a link",
    "dataset: videos above its folder",
    "dataset: a script beside it",
    "checkpoint: a pretrained policy elsewhere",
    "checkpoint: names of features are a link",
    "checkpoint: the model is a folder elsewhere",
}
TRIED = [door for name, door in DOORS.items() if name.split(":")[0] in OPENS and name not in LEFT_OUT]


@pytest.mark.parametrize("door", TRIED, ids=lambda door: door.name)
def test_a_trap_does_not_go_off(door: Door, work: Path, trap: Trap) -> None:
    door.plant(work, trap)
    trap.watch()
    if door.opened:
        with pytest.raises(UserError) as refusal:
            OPENS[door.name.split(":")[0]](work)
        assert "\n" not in str(refusal.value)
    else:
        OPENS[door.name.split(":")[0]](work)
    assert not trap.has_run(wait_s=0)


@pytest.mark.parametrize(
    "name", ["load_policy: a preprocessor's step names a class", "checkpoint: config.json is a link"]
)
def test_the_traps_work(name: str, work: Path, trap: Trap) -> None:
    """LeRobot's own loader sets the first one off, any reader the second one."""
    DOORS[name].plant(work, trap)
    trap.watch()
    careless = DOORS[name].careless
    assert careless is not None
    with contextlib.suppress(Exception):  # the command has run before its result is refused
        careless(work, trap)
    assert trap.has_run()


def test_the_same_files_without_a_trap_are_opened(work: Path) -> None:
    assert model(work).is_dir()
    for name in ("checkpoint", "wake", "classifier", "dataset"):
        OPENS[name](work)
