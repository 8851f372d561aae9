"""Doors in run folders, datasets, caches and reports; see `doors`."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

from .doors import (
    EVALUATE,
    RESUME,
    SIZES,
    TRAIN,
    Door,
    Place,
    add_code,
    careless_at,
    edit,
    in_order,
    in_work,
    link_door,
    of,
    pickle_door,
    read,
    trust,
    unpickle,
)
from .traps import Trap

_COLLECT = (
    "train.py env=metaworld env.tasks=[reach-v3] env.image_size=32 env.max_steps=60 seed=0 episodes=1 trainer.steps=1 "
    f"trainer.batch_size=2 trainer.validate_every=0 workers=1 eval.episodes=0 logger=none run_dir=outputs/new {SIZES}"
)
_CONFIG = in_work("outputs/run/config.yaml")


def doors() -> list[Door]:
    return [*_configurations(), *_states(), *_datasets(), *_caches(), *_reports()]


def _configurations() -> list[Door]:
    def text(content: str) -> Any:
        return lambda work, trap: _CONFIG(work).write_text(content.replace("COMMAND", trap.command))

    def added(line: str) -> Any:
        return lambda work, trap: _append(_CONFIG(work), line.replace("COMMAND", trap.command))

    tag, target = "!!python/object/apply:os.system ['COMMAND']\n", "_target_: os.system\ncommand: COMMAND\n"
    return [
        Door("run: config.yaml is a tag of Python", RESUME, text(tag), careless_at(_CONFIG, _unsafe_yaml)),
        Door("run: a tag of Python in a setting", RESUME, added(f"note: {tag}"), careless_at(_CONFIG, _unsafe_yaml)),
        Door("run: a module to import by a tag", RESUME, _plant_module_tag, lambda work, trap: _import_here(work)),
        Door("run: config.yaml is a _target_", RESUME, text(target), careless_at(_CONFIG, _instantiate)),
        Door(
            "run: a _target_ in a section",
            RESUME,
            added("extra:\n  _target_: os.system\n  command: COMMAND\n"),
            careless_at(_CONFIG, _instantiate, "extra"),
        ),
        Door(
            "run: a resolver that runs commands",
            RESUME,
            added("note: ${canary:COMMAND}\n"),
            careless_at(_CONFIG, _resolve),
        ),
        Door(
            "run: its launcher is a function",
            RESUME,
            _plant_launcher,
            lambda work, trap: _call_launcher(work),
            opened=False,
        ),
        Door(
            "run: a pretrained model elsewhere",
            "train.py resume=true run_dir=outputs/smolvla",
            _plant_model,
            careless_at(in_work("pretrained/smolvlm"), trust),
        ),
        Door("run: its dataset is elsewhere", RESUME, _plant_dataset, lambda work, trap: read(trap.bait)),
        link_door("run: config.yaml is a link", RESUME, _CONFIG),
        Door(
            "evaluation of a run whose config.yaml is a tag",
            f"{EVALUATE}/run",
            text(tag),
            careless_at(_CONFIG, _unsafe_yaml),
            opened=False,
        ),
    ]


def _states() -> list[Door]:
    def state(work: Path) -> Path:
        return (work / "outputs/run/checkpoints/last").resolve() / "training_state/state.pt"

    def best(work: Path) -> Path:
        return state(work).with_name("best.json")

    return [
        pickle_door("run: pickled state of the optimiser", RESUME, state),
        Door("run: a pickle inside the state", RESUME, of(state, _plant_in_state), careless_at(state, unpickle)),
        link_door("run: the state is a link", RESUME, state),
        link_door("run: the record of the best is a link", RESUME, best),
        link_door("run: metrics.jsonl is a link", RESUME, in_work("outputs/run/metrics.jsonl")),
        Door(
            "checkpoint: the last one of a run is elsewhere",
            f"{EVALUATE}/run",
            _plant_checkpoint_link,
            lambda work, trap: read(trap.bait),
        ),
        pickle_door("run: a pickled bad batch", RESUME, in_work("outputs/run/bad_batch.pt"), opened=False),
    ]


def _datasets() -> list[Door]:
    command, info = f"{TRAIN} {SIZES}", in_work("dataset/meta/info.json")

    def path(**entries: str) -> Any:
        def plant(work: Path, trap: Trap) -> None:
            for file in (work / "dataset/data").rglob("*.parquet"):
                shutil.copy(file, trap.bait / file.name)
            for file in (work / "dataset/videos").rglob("*.mp4"):
                shutil.copy(file, trap.bait / file.name)
            for key, text in entries.items():
                edit(info(work), **{key: text.replace("BAIT", str(trap.bait)).replace("UP/", "../" * 12)})

        return plant

    def careless(work: Path, trap: Trap) -> None:
        read(trap.bait)

    name = "file-{file_index:03d}"
    tables = {"data": "data/**/*.parquet", "tasks": "tasks.parquet", "episodes": "episodes/**/*.parquet"}
    return [
        Door("dataset: data above its folder", command, path(data_path=f"UP/BAIT/{name}.parquet"), careless),
        Door("dataset: data at an absolute path", command, path(data_path=f"BAIT/{name}.parquet"), careless),
        Door("dataset: videos above its folder", command, path(video_path=f"UP/BAIT/{name}.mp4"), careless),
        Door("dataset: a path that reaches into objects", command, path(data_path="{chunk_index.__class__}"), careless),
        Door(
            "dataset: a feature whose name leaves the folder",
            command,
            in_order(path(), lambda work, trap: _rename_camera(info(work), f"../../{'../' * 10}{trap.bait}")),
            careless,
        ),
        link_door("dataset: info.json is a link", command, info),
        link_door("dataset: stats.json is a link", command, in_work("dataset/meta/stats.json")),
        link_door("dataset: tasks are a link", command, in_work("dataset/meta/tasks.parquet")),
        link_door("dataset: data are a link", command, in_dataset("data/**/*.parquet")),
        link_door("dataset: a video is a link", command, in_dataset("*.mp4")),
        *(
            Door(
                f"dataset: a pickled type in {label}",
                command,
                of(in_dataset(pattern), _plant_type),
                careless_at(in_dataset(pattern), _load_type),
                opened=False,
            )
            for label, pattern in tables.items()
        ),
        pickle_door("dataset: tasks are a pickle", command, in_work("dataset/meta/tasks.parquet")),
        pickle_door("dataset: statistics are a pickle", command, in_work("dataset/meta/stats.json")),
        Door(
            "dataset: a script beside it",
            command,
            lambda work, trap: (work / "dataset/dataset.py").write_text(trap.module()),
            lambda work, trap: _run(work / "dataset/dataset.py"),
            opened=False,
        ),
        Door(
            "Wake Vision: a copy with a script",
            "train.py task=perception/wake task.dataset.split=train_quality task.dataset.source=wake_vision "
            "run_dir=outputs/new",
            _plant_script,
            lambda work, trap: _run(work / "wake_vision/wake_vision.py"),
        ),
    ]


def _caches() -> list[Door]:
    frames = "frames/dataset/observation.images.corner2.npy"

    def arrays(work: Path, trap: Trap) -> None:
        import numpy as np

        folder = work / "frames/dataset"
        folder.mkdir(parents=True, exist_ok=True)
        for name in json.loads((work / "dataset/meta/info.json").read_text())["features"]:
            if name.startswith("observation.images"):
                np.save(folder / f"{name}.npy", np.array([trap], dtype=object), allow_pickle=True)

    def attempt(work: Path, trap: Trap) -> None:
        import numpy as np

        for file in work.rglob("0*.failed"):
            file.unlink()
        np.savez(work / "attempt.npz", state=np.array([trap], dtype=object), action=np.zeros(1), text="x")

    return [
        Door(
            "cache of frames: pickled arrays",
            f"{TRAIN} {SIZES}",
            arrays,
            careless_at(in_work(frames), _load_array),
            opened=False,
        ),
        Door(
            "collection: a pickled attempt",
            "api demo attempt.npz",
            attempt,
            careless_at(in_work("attempt.npz"), _load_array),
        ),
        Door(
            "collection: its record is a tag of Python",
            _COLLECT,
            lambda work, trap: next((work / "data").rglob("collection.json")).write_text(
                f"!!python/object/apply:os.system ['{trap.command}']"
            ),
            lambda work, trap: _unsafe_yaml(next((work / "data").rglob("collection.json"))),
        ),
    ]


def _reports() -> list[Door]:
    journal, command = in_work("outputs/evaluation/episodes.jsonl"), "api report outputs/run"
    return [
        Door("report: config.yaml is a tag", command, _plant_report, careless_at(_CONFIG, _unsafe_yaml)),
        link_door("report: results are a link", command, in_work("outputs/run/eval.json")),
        Door(
            "report: a pickle as results",
            command,
            lambda work, trap: (work / "outputs/run/eval.json").write_bytes(trap.pickled()),
            careless_at(in_work("outputs/run/eval.json"), _unpickle_plain),
        ),
        Door(
            "evaluation: its journal is a pickle",
            f"{EVALUATE}/run",
            of(journal, _plant_journal),
            lambda work, trap: pickle.loads(journal(work).read_bytes()[1:-1]),
        ),
    ]


def in_dataset(pattern: str) -> Place:
    """The first file of a dataset by its name."""
    return lambda work: next((work / "dataset").rglob(pattern))


def _plant_journal(file: Path, trap: Trap) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\n" + trap.pickled() + b"\n")


def _append(file: Path, line: str) -> None:
    file.write_text(f"{file.read_text()}{line}")


def _unsafe_yaml(file: Path) -> None:
    import yaml

    yaml.load(file.read_text(), Loader=yaml.UnsafeLoader)


def _instantiate(file: Path, section: str | None = None) -> None:
    """Call what a `_target_` names, as Hydra does without its list of refused names."""
    from importlib import import_module

    import yaml

    options = yaml.safe_load(file.read_text())
    options = options[section] if section else options
    module, _, name = options.pop("_target_").rpartition(".")
    getattr(import_module(module), name)(**options)


def _resolve(file: Path) -> None:
    import os

    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("canary", os.system)
    OmegaConf.to_container(OmegaConf.load(file), resolve=True)


def _run(file: Path) -> None:
    import runpy

    runpy.run_path(str(file))


def _load_array(file: Path) -> None:
    import numpy as np

    loaded: Any = np.load(file, allow_pickle=True)
    if hasattr(loaded, "files"):
        loaded["state"]


def _unpickle_plain(file: Path) -> None:
    pickle.loads(file.read_bytes())


def _plant_module_tag(work: Path, trap: Trap) -> None:
    (work / "canary_code.py").write_text(trap.module())
    _append(_CONFIG(work), "note: !!python/module:canary_code\n")


def _import_here(work: Path) -> None:
    import sys

    sys.path.insert(0, str(work))
    _unsafe_yaml(_CONFIG(work))


def _plant_launcher(work: Path, trap: Trap) -> None:
    (work / "canary_code.py").write_text(trap.module())
    text = _CONFIG(work).read_text()
    _CONFIG(work).write_text(text.replace("launcher:\n", "launcher:\n  start_job: canary_code.Canary\n"))


def _call_launcher(work: Path) -> None:
    import sys

    from hydra.utils import get_method
    from omegaconf import OmegaConf

    sys.path.insert(0, str(work))
    get_method(OmegaConf.load(_CONFIG(work)).launcher.start_job)


def _plant_model(work: Path, trap: Trap) -> None:
    add_code(work / "pretrained/smolvlm", trap, "processor_config.json", "AutoProcessor")
    add_code(work / "pretrained/smolvlm", trap)
    file = work / "outputs/smolvla/config.yaml"
    file.write_text(file.read_text().replace("offline/smolvlm", str(work / "pretrained/smolvlm")))


def _plant_dataset(work: Path, trap: Trap) -> None:
    for file in (work / "dataset/data").rglob("*.parquet"):
        shutil.copy(file, trap.bait / file.name)
    edit(work / "dataset/meta/info.json", data_path=f"{trap.bait}/file-{{file_index:03d}}.parquet")
    data = next(path for path in (work / "data").iterdir() if (path / "meta").is_dir())
    edit(data / "meta/info.json", data_path=f"{trap.bait}/file-{{file_index:03d}}.parquet")


def _plant_in_state(file: Path, trap: Trap) -> None:
    import torch

    torch.save(torch.load(file, weights_only=True) | {"note": trap}, file)


def _plant_checkpoint_link(work: Path, trap: Trap) -> None:
    checkpoints = work / "outputs/run/checkpoints"
    last = (checkpoints / "last").resolve()
    shutil.copytree(last / "pretrained_model", trap.bait, dirs_exist_ok=True)
    for entry in checkpoints.iterdir():
        entry.unlink() if entry.is_symlink() else shutil.rmtree(entry)
    (checkpoints / "last").mkdir()
    (checkpoints / "last/pretrained_model").symlink_to(trap.bait)


def _rename_camera(info: Path, name: str) -> None:
    content = json.loads(info.read_text())
    camera = next(key for key in content["features"] if key.startswith("observation.images"))
    content["features"][name] = content["features"].pop(camera)
    info.write_text(json.dumps(content))


def _plant_type(file: Path, trap: Trap) -> None:
    """Give a column of a table a type of Arrow's that older versions unpickle."""
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    field = table.schema.field(0).with_metadata(
        {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": trap.pickled()}
    )
    pq.write_table(table.cast(table.schema.set(0, field)), file, store_schema=True)


def _load_type(file: Path) -> None:
    import pyarrow.parquet as pq

    for field in pq.ParquetFile(file).schema_arrow:
        if metadata := (field.metadata or {}).get(b"ARROW:extension:metadata"):
            pickle.loads(metadata)


def _plant_script(work: Path, trap: Trap) -> None:
    (work / "wake_vision").mkdir()
    (work / "wake_vision/wake_vision.py").write_text(trap.module())


def _plant_report(work: Path, trap: Trap) -> None:
    (work / "outputs/run/eval.json").write_text(json.dumps({"kind": "policy"}))
    _CONFIG(work).write_text(f"!!python/object/apply:os.system ['{trap.command}']")
