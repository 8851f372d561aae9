"""Doors through which a stranger's files could run a command or reach other files: where each trap is put.

A door is a command of a user that opens the stranger's files, in a folder that `canary.prepare` has filled, and the
change of one file in it. `careless` opens the same file as a program without checks does: it shows that the trap works.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .traps import Trap

type Change = Callable[[Path, Trap], object]
type Place = Callable[[Path], Path]

# One step of an evaluation and of a training, for files that are never opened: the command then simply succeeds.
PLAY = "evaluate.py env=metaworld env.tasks=[reach-v3] env.image_size=32 env.max_steps=2 episodes=1 workers=1 videos=0"
EVALUATE = f"{PLAY} run_dir=outputs/evaluation checkpoint=outputs"
RESUME = "train.py resume=true run_dir=outputs/run"
TRAIN = (
    "train.py env=metaworld env.image_size=32 trainer.steps=1 trainer.batch_size=2 trainer.validate_every=0 workers=1 "
    "eval.episodes=0 logger=none run_dir=outputs/new dataset.root=dataset"
)
SIZES = (
    "backbone.image_size=32 backbone.vision_width=16 backbone.keypoints=8 backbone.hidden_size=32 "
    "decoder.network.widths=[16,32]"
)
PERCEIVE = "perceive.py source=image.png output=outputs/perceived.png"
# By part of a model: the file that names its class, and the class of transformers that reads it.
OPTION_FILES = {
    "tokenizer": ("tokenizer_config.json", "AutoTokenizer"),
    "processor": ("processor_config.json", "AutoProcessor"),
    "image processor": ("processor_config.json", "AutoImageProcessor"),
}
MODEL, CODE = "checkpoints/last/pretrained_model", "canary_code.py"


@dataclass(frozen=True)
class Door:
    """A trap, the command that opens the file that it is in, and a careless way to open it.

    name: kind of file, and what is in it.
    command: an entry point with its arguments, or `api` with a function of `canary.API` and a path.
    plant: changes the files below the folder that the command runs in.
    careless: sets the trap off; None: that cannot be shown on every machine, and the door is not counted.
    opened: False for a file that the command must leave alone; it then ends as if the file were not there.
    """

    name: str
    command: str
    plant: Change
    careless: Change | None = None
    opened: bool = True


def model(work: Path, run: str = "run") -> Path:
    """Folder of a run's policy."""
    return (work / "outputs" / run / MODEL).resolve()


def edit(file: Path, **entries: Any) -> None:
    """Replace entries of a JSON file, which is made if it is missing."""
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | entries))


def add_code(folder: Path, trap: Trap, file: str = "config.json", kind: str = "AutoConfig") -> None:
    """A module beside a model, and the option that makes transformers import it."""
    (folder / CODE).write_text(trap.module())
    name: Any = "canary_code.Canary"
    option = {"auto_map": {kind: [name, None] if kind == "AutoTokenizer" else name}}
    content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    if kind == "AutoImageProcessor" and "image_processor" in content:
        option = {"image_processor": content["image_processor"] | option}
    edit(folder / file, **option)


def trust(folder: Path, kind: str = "AutoConfig") -> None:
    """Open a model's folder as transformers does where remote code is trusted."""
    import transformers

    getattr(transformers, kind).from_pretrained(folder, trust_remote_code=True)


def unpickle(file: Path) -> None:
    """Open a file of torch.save as older versions of PyTorch do."""
    import torch

    torch.load(file, weights_only=False)


def save_pickle(file: Path, trap: Trap) -> None:
    """Write a file of torch.save whose content is the trap."""
    import torch

    file.unlink(missing_ok=True)
    torch.save({"weight": trap}, file)


def link(file: Path, trap: Trap) -> None:
    """Put a file into the bait folder, and a link to it in its place."""
    target = trap.bait / file.name
    if file.exists():
        shutil.move(file.resolve(), target)
    file.unlink(missing_ok=True)
    file.symlink_to(target)


def read(path: Path) -> None:
    """Open a file, or all files of a folder, through links."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            file.read_bytes()


def add_step(work: Path, trap: Trap, name: str, run: str = "run", **entry: Any) -> None:
    """Append a step to a policy's pipeline; `config` may name the trap's command as "COMMAND"."""
    file = model(work, run) / f"policy_{name}.json"
    content = json.loads(file.read_text())
    content["steps"].append(json.loads(json.dumps(entry).replace("COMMAND", trap.command)))
    file.write_text(json.dumps(content))


def make_pipeline(work: Path, trap: Trap, name: str, run: str = "run") -> None:
    """Load a pipeline as LeRobot does."""
    from lerobot.processor import DataProcessorPipeline

    DataProcessorPipeline.from_pretrained(model(work, run), config_filename=f"policy_{name}.json")


def of(folder: Place, change: Callable[..., object], *arguments: Any) -> Change:
    """A change of a place in the work folder that takes the trap."""
    return lambda work, trap: change(folder(work), trap, *arguments)


def careless_at(folder: Place, opens: Callable[..., object], *arguments: Any) -> Change:
    """A careless way to open a place in the work folder."""
    return lambda work, trap: opens(folder(work), *arguments)


def in_order(*changes: Change) -> Change:
    """Several changes as one."""

    def plant(work: Path, trap: Trap) -> None:
        for change in changes:
            change(work, trap)

    return plant


def in_work(*names: str) -> Place:
    return lambda work: work.joinpath(*names)


def in_model(*names: str, run: str = "run") -> Place:
    return lambda work: model(work, run).joinpath(*names)


def code_door(name: str, command: str, folder: Place, file: str = "config.json", kind: str = "") -> Door:
    """A model's folder that names a module beside it."""
    kind = kind or "AutoConfig"
    return Door(name, command, of(folder, add_code, file, kind), careless_at(folder, trust, kind))


def pickle_door(name: str, command: str, file: Place, opened: bool = True) -> Door:
    """A file of torch.save that is a trap."""
    return Door(name, command, of(file, save_pickle), careless_at(file, unpickle), opened)


def link_door(name: str, command: str, file: Place, opened: bool = True) -> Door:
    """A link to a file elsewhere."""
    return Door(name, command, of(file, link), careless_at(file, read), opened)


def step_door(name: str, command: str, pipeline: str, **entry: Any) -> Door:
    """A step of a pipeline that runs a command where LeRobot makes it."""
    plant = partial(add_step, name=pipeline, **entry)
    return Door(name, command, plant, partial(make_pipeline, name=pipeline))
