"""Doors in checkpoints of policies; see `doors`."""

import json
import runpy
import shutil
from functools import partial
from pathlib import Path

from .doors import (
    EVALUATE,
    OPTION_FILES,
    Door,
    Place,
    add_code,
    add_step,
    careless_at,
    code_door,
    edit,
    in_model,
    in_order,
    in_work,
    link_door,
    model,
    of,
    pickle_door,
    read,
    save_pickle,
    step_door,
    trust,
    unpickle,
)
from .traps import Trap

_POPEN = {"class": "subprocess.Popen", "config": {"args": "COMMAND", "shell": True}}
_SYSTEM = {"class": "os.system", "config": {"command": "COMMAND"}}


def doors() -> list[Door]:
    return [*_steps(), *_checkpoints()]


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
