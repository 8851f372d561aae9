"""Doors through which a stranger's files could run a command or reach other files: where each trap is put.

A door is a command of a user that opens the stranger's files, in a folder that `canary.prepare` has filled, and the
change of one file in it. `careless` opens the same file as a program without checks does: it shows that the trap works.
"""

import json
import runpy
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
NANO = (
    "backbone.image_size=32 backbone.vision_width=16 backbone.keypoints=8 backbone.hidden_size=32 backbone.layers=1 "
    "decoder.network.widths=[16,32]"
)
PERCEIVE = "perceive.py source=image.png output=outputs/perceived.png"
# By part of a model: the file that names its class, and the class of transformers that reads it.
OPTION_FILES = {
    "tokenizer": ("tokenizer_config.json", "AutoTokenizer"),
    "processor": ("processor_config.json", "AutoProcessor"),
    "image processor": ("preprocessor_config.json", "AutoImageProcessor"),
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
    edit(folder / file, auto_map={kind: [name, None] if kind == "AutoTokenizer" else name})


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


_POPEN = {"class": "subprocess.Popen", "config": {"args": "COMMAND", "shell": True}}
_SYSTEM = {"class": "os.system", "config": {"command": "COMMAND"}}


def _steps() -> list[Door]:
    commands = {
        "evaluate.py": f"{EVALUATE}/run",
        "deploy.py": "deploy.py checkpoint=outputs/run robot=twin run_dir=outputs/deployment",
        "export.py": "export.py checkpoint=outputs/run export_dir=outputs/export",
        "load_policy": "api load_policy outputs/run",
    }
    doors = [
        step_door(f"{name}: a {kind}'s step names a class", command, kind, **_POPEN)
        for kind in ("preprocessor", "postprocessor")
        for name, command in commands.items()
    ]
    return [*doors, step_door("checkpoint: a step names a function", f"{EVALUATE}/run", "preprocessor", **_SYSTEM)]


def _plant_action_tokenizer(work: Path, trap: Trap) -> None:
    add_code(work / "pretrained/smolvlm", trap, "processor_config.json", "AutoProcessor")
    options = {"action_tokenizer_name": str(work / "pretrained/smolvlm"), "trust_remote_code": True}
    add_step(work, trap, "preprocessor", registry_name="action_tokenizer_processor", config=options)


def _plant_type(work: Path, trap: Trap, name: str) -> None:
    """A policy of another type of LeRobot, with code in every model that its configuration may name."""
    folder = model(work)
    add_code(folder, trap)
    places = ("vlm_model_name", "base_model_path", "action_tokenizer_name", "text_tokenizer_name", "tokenizer_path")
    edit(folder / "config.json", type=name, **dict.fromkeys(places, str(folder)), vision_encoder_name=str(folder))


def _trust_remote_policy(work: Path, trap: Trap) -> None:
    folder = model(work)
    edit(folder / "config.json", model_type="canary", type="")
    trust(folder)


def _plant_plugin(work: Path, trap: Trap) -> None:
    package = model(work) / "lerobot_policy_canary"
    package.mkdir()
    (package / "__init__.py").write_text(trap.module())
    edit(model(work) / "config.json", type="lerobot_policy_canary", discover_packages_path=str(package))


def _checkpoints() -> list[Door]:
    smolvla, evaluate = f"{EVALUATE}/smolvla", f"{EVALUATE}/run"
    types = ("groot", "xvla", "wall_x", "pi0_fast", "pi0", "pi05", "eo1", "gaussian_actor", "molmoact2", "evo1")
    at = partial(in_model, run="smolvla")
    return [
        Door(
            "checkpoint: a registered step that trusts remote code",
            evaluate,
            _plant_action_tokenizer,
            lambda work, trap: trust(work / "pretrained/smolvlm", "AutoProcessor"),
        ),
        *(
            Door(
                f"checkpoint: LeRobot's policy type {name}",
                evaluate,
                partial(_plant_type, name=name),
                _trust_remote_policy,
            )
            for name in types
        ),
        Door(
            "checkpoint: a policy type and packages beside it",
            evaluate,
            _plant_plugin,
            lambda work, trap: runpy.run_path(str(model(work) / "lerobot_policy_canary/__init__.py")),
        ),
        Door("checkpoint: config.json names code", evaluate, of(in_model(), add_code), _trust_remote_policy),
        pickle_door("checkpoint: pickled model.safetensors", evaluate, in_model("model.safetensors")),
        pickle_door("checkpoint: pickled statistics of a step", evaluate, _state_file),
        link_door("checkpoint: config.json is a link", evaluate, in_model("config.json")),
        link_door("checkpoint: model.safetensors is a link", evaluate, in_model("model.safetensors")),
        link_door("checkpoint: a pipeline is a link", evaluate, in_model("policy_preprocessor.json")),
        link_door("checkpoint: statistics are a link", evaluate, _state_file),
        link_door("checkpoint: names of features are a link", evaluate, in_model("feature_names.json")),
        Door("checkpoint: statistics elsewhere", evaluate, _plant_state_path, lambda work, trap: read(trap.bait)),
        Door(
            "checkpoint: a pretrained policy elsewhere",
            evaluate,
            in_order(
                of(in_work("evil/pytorch_model.bin"), save_pickle),
                lambda work, trap: edit(model(work) / "config.json", pretrained_path=str(work / "evil")),
            ),
            careless_at(in_work("evil/pytorch_model.bin"), unpickle),
            opened=False,
        ),
        code_door("hub model inside: config.json names code", smolvla, at("models/smolvlm")),
        *(
            code_door(f"hub model inside: {name}", smolvla, at("models/smolvlm"), *place)
            for name, place in OPTION_FILES.items()
        ),
        pickle_door("hub model inside: pickled weights", smolvla, _without_weights("smolvlm")),
        Door(
            "hub model inside: a chat template",
            smolvla,
            lambda work, trap: at("models/smolvlm/chat_template.jinja")(work).write_text(trap.template()),
            lambda work, trap: _render(at("models/smolvlm/chat_template.jinja")(work)),
            opened=False,
        ),
        link_door("hub model inside: a link", smolvla, at("models/smolvlm/tokenizer.json")),
        Door(
            "checkpoint: the model is a folder elsewhere",
            smolvla,
            in_order(
                of(in_work("pretrained/smolvlm"), add_code),
                lambda work, trap: shutil.rmtree(model(work, "smolvla") / "models"),
                lambda work, trap: edit(at("config.json")(work), vlm_model_name=str(work / "pretrained/smolvlm")),
            ),
            careless_at(in_work("pretrained/smolvlm"), trust),
        ),
        Door(
            "checkpoint: the backbone's folder names code",
            evaluate,
            lambda work, trap: shutil.copytree(_coded(work, trap), model(work) / "backbone"),
            careless_at(in_model("backbone"), trust),
        ),
        Door(
            "checkpoint: the backbone is a folder elsewhere",
            evaluate,
            lambda work, trap: edit(
                model(work) / "config.json",
                backbone={"type": "smolvlm", "pretrained": str(_coded(work, trap)), "assets": str(_coded(work, trap))},
            ),
            careless_at(in_work("pretrained/smolvlm"), trust),
        ),
    ]


def _coded(work: Path, trap: Trap) -> Path:
    add_code(work / "pretrained/smolvlm", trap)
    return work / "pretrained/smolvlm"


def _state_file(work: Path) -> Path:
    return next(model(work).glob("policy_preprocessor_step_*.safetensors"))


def _without_weights(name: str) -> Place:
    def place(work: Path) -> Path:
        folder = model(work, "smolvla") / "models" / name
        (folder / "model.safetensors").unlink(missing_ok=True)
        return folder / "pytorch_model.bin"

    return place


def _plant_state_path(work: Path, trap: Trap) -> None:
    target = trap.bait / "state.safetensors"
    shutil.move(_state_file(work), target)
    file = model(work) / "policy_preprocessor.json"
    content = json.loads(file.read_text())
    for step in content["steps"]:
        if "state_file" in step:
            step["state_file"] = f"../../../../../../../../../../../../..{target}"
    file.write_text(json.dumps(content))


def _render(file: Path) -> None:
    import jinja2

    jinja2.Template(file.read_text()).render()


def doors() -> list[Door]:
    """The doors of a policy's checkpoint."""
    return [*_steps(), *_checkpoints()]
