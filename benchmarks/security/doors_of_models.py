"""Doors in front-ends, classifiers, segmenters, pretrained models and exported policies; see `doors`."""

import json
import shutil
from pathlib import Path

from .doors import (
    CODE,
    EVALUATE,
    PERCEIVE,
    SIZES,
    TRAIN,
    Door,
    add_code,
    careless_at,
    code_door,
    edit,
    in_model,
    in_order,
    in_work,
    link_door,
    of,
    pickle_door,
    read,
    save_pickle,
    trust,
    unpickle,
)
from .traps import Trap

_CLASSIFY = "train.py task=perception/cct task.source=digits task.image_size=16 task.model=cct_2_3x2 trainer.steps=1"
_DISTIL = "train.py task=perception/tinyvit task.source=digits run_dir=outputs/new task.teacher=frontends/classifier"
_SEGMENT = "train.py task=perception/tinysam run_dir=outputs/new task.pretrained=frontends"


def doors() -> list[Door]:
    return [*_frontends(), *_frontends_of_policies(), *_networks(), *_pretrained(), *_exported()]


def _frontends() -> list[Door]:
    listed = []
    for name in ("wake", "tinysam", "tinyclip"):
        command = f"{PERCEIVE} frontend={name} frontend.{name}.checkpoint=frontends/{name}"
        if name == "tinyclip":
            command += " request.texts=[a,b]"
        folder = in_work("frontends", name)
        listed += [
            code_door(f"{name}: config.json names code", command, folder),
            pickle_door(f"{name}: pickled weights", command, in_work("frontends", name, "model.safetensors")),
            link_door(f"{name}: weights are a link", command, in_work("frontends", name, "model.safetensors")),
            link_door(f"{name}: config.json is a link", command, in_work("frontends", name, "config.json")),
        ]
    clip = f"{PERCEIVE} frontend=tinyclip frontend.tinyclip.checkpoint=frontends/tinyclip request.texts=[a,b]"
    folder = in_work("frontends/tinyclip")
    sam = f"{PERCEIVE} frontend=tinysam frontend.tinysam.checkpoint=frontends/tinysam"
    return [
        *listed,
        code_door("tinyclip: its tokenizer names code", clip, folder, "tokenizer_config.json", "AutoTokenizer"),
        code_door("tinyclip: its image processor", clip, folder, "preprocessor_config.json", "AutoImageProcessor"),
        pickle_door("tinyclip: only pickled weights", clip, _only_pickled),
        Door(
            "tinysam: a picker elsewhere",
            sam,
            _plant_picker,
            lambda work, trap: read(trap.bait),
        ),
        Door(
            "perceive: the front-end is a class",
            PERCEIVE + " frontend=wake frontend.wake.checkpoint=frontends/wake",
            in_order(
                lambda work, trap: (work / "frontends/wake" / CODE).write_text(trap.module()),
                lambda work, trap: edit(work / "frontends/wake/config.json", front_end="canary_code:Canary"),
            ),
            lambda work, trap: _run(work / "frontends/wake" / CODE),
        ),
        code_door(
            "deploy: the person gate's detector",
            "deploy.py checkpoint=outputs/run robot=so101 robot.port=/dev/null run_dir=outputs/deployment record=false "
            "instruction=reach safety.person.enabled=true person_gate.checkpoint=frontends/wake",
            in_work("frontends/wake"),
        ),
        Door(
            "perceive: PostScript by the name of a PNG",
            PERCEIVE + " frontend=wake frontend.wake.checkpoint=frontends/wake",
            lambda work, trap: (work / "image.png").write_text(
                f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%{trap.command}) (r) file\nshowpage\n"
            ),
        ),
        pickle_door(
            "perceive: an image that is a pickle",
            PERCEIVE + " frontend=wake frontend.wake.checkpoint=frontends/wake",
            in_work("image.png"),
        ),
    ]


def _frontends_of_policies() -> list[Door]:
    command = f"{EVALUATE}/with_wake"
    folder = in_model("front_ends/wake", run="with_wake")
    weights = in_model("front_ends/wake/model.safetensors", run="with_wake")
    return [
        code_door("front-end of a policy: config.json names code", command, folder),
        pickle_door("front-end of a policy: pickled weights", command, weights),
        link_door("front-end of a policy: weights are a link", command, weights),
        Door(
            "front-end of a policy: a name that leaves the folder",
            command,
            _plant_frontend_name,
            lambda work, trap: read(trap.bait),
        ),
    ]


def _networks() -> list[Door]:
    def checkpoint_path(work: Path, trap: Trap) -> None:
        save_pickle(work / "evil.pt", trap)
        edit(work / "frontends/classifier/config.json", network={"checkpoint_path": str(work / "evil.pt")})

    pretrained = f"{_CLASSIFY} run_dir=outputs/new task.pretrained=frontends/classifier"
    weights = in_work("frontends/classifier/model.safetensors")
    return [
        Door(
            "classifier: its network names a file",
            _DISTIL,
            checkpoint_path,
            lambda work, trap: unpickle(work / "evil.pt"),
        ),
        Door(
            "classifier: as above, in Python",
            "api classifier frontends/classifier",
            checkpoint_path,
            lambda work, trap: unpickle(work / "evil.pt"),
        ),
        code_door("classifier: config.json names code", pretrained, in_work("frontends/classifier")),
        pickle_door("classifier: pickled weights of a teacher", _DISTIL, weights),
        pickle_door("classifier: pickled weights to start from", pretrained, weights),
        link_door("classifier: weights are a link", pretrained, weights),
        pickle_door("segmenter: a pickled file", f"{_SEGMENT}/sam.pth", in_work("frontends/sam.pth")),
        pickle_door("segmenter: a folder with a pickled file", f"{_SEGMENT}/sam", in_work("frontends/sam/sam.pth")),
        code_door("segmenter: config.json names code", f"{_SEGMENT}/tinysam", in_work("frontends/tinysam")),
        link_door(
            "detector of success: a link",
            "api detector frontends/tinyclip",
            in_work("frontends/tinyclip/detector.json"),
        ),
        pickle_door("stored predictions: a pickle", "api logits teacher.logits", in_work("teacher.logits")),
    ]


def _pretrained() -> list[Door]:
    backbone = f"{TRAIN} backbone=smolvlm backbone.pretrained=pretrained/smolvlm"
    smolvla = f"{TRAIN} policy=smolvla preset=cpu policy.vlm_model_name=pretrained/smolvlm trainer.steps=1"
    folder, weights = in_work("pretrained/smolvlm"), in_work("pretrained/smolvlm/model.safetensors")
    careless_bin = careless_at(in_work("pretrained/smolvlm/pytorch_model.bin"), unpickle)
    return [
        code_door("backbone: config.json names code", backbone, folder),
        code_door("backbone: its tokenizer", backbone, folder, "tokenizer_config.json", "AutoTokenizer"),
        code_door("backbone: its processor", backbone, folder, "processor_config.json", "AutoImageProcessor"),
        pickle_door("backbone: pickled weights", backbone, weights),
        Door("backbone: only pickled weights", backbone, _only_bin, careless_bin),
        link_door("backbone: weights are a link", backbone, weights),
        link_door("backbone: its tokenizer is a link", backbone, in_work("pretrained/smolvlm/tokenizer.json")),
        code_door("smolvla: config.json names code", smolvla, folder),
        code_door("smolvla: its tokenizer", smolvla, folder, "tokenizer_config.json", "AutoTokenizer"),
        code_door("smolvla: its processor", smolvla, folder, "processor_config.json", "AutoProcessor"),
        Door("smolvla: only pickled weights", smolvla, _only_bin, careless_bin),
        Door(
            "smolvla: an adapter of another model",
            smolvla,
            in_order(
                of(in_work("evil"), add_code),
                lambda work, trap: edit(
                    folder(work) / "adapter_config.json", base_model_name_or_path=str(work / "evil"), peft_type="LORA"
                ),
            ),
            careless_at(in_work("evil"), trust),
        ),
        code_door(
            "front-end of a new policy: config.json names code",
            f"{TRAIN} {SIZES} frontend=wake frontend.wake.checkpoint=frontends/wake",
            in_work("frontends/wake"),
        ),
    ]


def _exported() -> list[Door]:
    command = "api exported exported"
    return [
        Door("exported: weights in another file", command, _plant_external_data, lambda work, trap: _load_onnx(work)),
        Door(
            "exported: operators of a library beside it",
            command,
            _plant_operator,
            careless_at(in_work("exported/canary.py"), _run),
        ),
        link_door("exported: the model is a link", command, in_work("exported/model.onnx")),
        link_door("exported: the description is a link", command, in_work("exported/policy.json")),
        Door(
            "exported: the model is a pickle",
            command,
            lambda work, trap: (work / "exported/model.onnx").write_bytes(trap.pickled()),
            careless_at(in_work("exported/model.onnx"), _unpickle_plain),
        ),
    ]


def _unpickle_plain(file: Path) -> None:
    import pickle

    pickle.loads(file.read_bytes())


def _run(file: Path) -> None:
    import runpy

    runpy.run_path(str(file))


def _only_pickled(work: Path) -> Path:
    (work / "frontends/tinyclip/model.safetensors").unlink(missing_ok=True)
    return work / "frontends/tinyclip/pytorch_model.bin"


def _only_bin(work: Path, trap: Trap) -> None:
    folder = work / "pretrained/smolvlm"
    (folder / "model.safetensors").unlink()
    save_pickle(folder / "pytorch_model.bin", trap)


def _plant_picker(work: Path, trap: Trap) -> None:
    shutil.copytree(work / "frontends/tinyclip", trap.bait, dirs_exist_ok=True)
    file = work / "frontends/tinysam/config.json"
    edit(file, options=json.loads(file.read_text())["options"] | {"picker": str(trap.bait)})


def _plant_frontend_name(work: Path, trap: Trap) -> None:
    folder = in_model(run="with_wake")(work)
    shutil.copytree(folder / "front_ends/wake", trap.bait, dirs_exist_ok=True)
    edit(folder / "config.json", frontend={f"../../../../../../../../../../../..{trap.bait}": {}})


def _plant_external_data(work: Path, trap: Trap) -> None:
    import onnx

    file = work / "exported/model.onnx"
    loaded = onnx.load(file)
    onnx.save_model(loaded, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    shutil.move(work / "exported/weights.bin", trap.bait / "weights.bin")
    loaded = onnx.load(file, load_external_data=False)
    for tensor in loaded.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(trap.bait / "weights.bin")
    file.write_bytes(loaded.SerializeToString())


def _load_onnx(work: Path) -> None:
    import onnx

    for tensor in onnx.load(work / "exported/model.onnx", load_external_data=False).graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                Path(entry.value).read_bytes()


def _plant_operator(work: Path, trap: Trap) -> None:
    import onnx

    file = work / "exported/model.onnx"
    loaded = onnx.load(file)
    loaded.graph.node[0].domain = "canary.ops"
    loaded.opset_import.add(domain="canary.ops", version=1)
    file.write_bytes(loaded.SerializeToString())
    (work / "exported/canary.py").write_text(trap.module())
