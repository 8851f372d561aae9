"""Pre- and post-processor pipelines of a checkpoint, read as data: only known steps, only their known options.

LeRobot's own loader imports and calls the class that a step names. Here every step is checked against a list before
anything of it is made, and nothing is imported by a name of the file.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lerobot.configs import FeatureType, NormalizationMode, PreTrainedConfig

from tinyvla.errors import UserError
from tinyvla.untrusted import check_regular, check_values, inside, read_json_object

from .image_size import FITS, STEP

if TYPE_CHECKING:
    from torch import Tensor

    from .factory import Pipeline

PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor", "policy_postprocessor"
MAX_SIZE = 16384  # of a count or a length in a checkpoint; the largest one in use, a feed-forward width, has 3200
MAX_ELEMENTS = 1 << 24  # of a feature; an image of five megapixels
_MAX_STATE_BYTES = 64 << 20
_DEVICE = re.compile(r"(cpu|mps|(cuda|xpu)(:\d{1,2})?)")
_FLOATS = ("float16", "float32", "float64", "bfloat16", "half", "float", "double")


def is_size(value: Any) -> bool:
    """True for a whole number of at least 1 and at most MAX_SIZE."""
    return type(value) is int and 1 <= value <= MAX_SIZE


def is_device(value: Any) -> bool:
    """True for the name of a device, such as `cpu` or `cuda:1`."""
    return isinstance(value, str) and _DEVICE.fullmatch(value) is not None


def is_features(value: Any) -> bool:
    """True for features by name: objects with a `type` that LeRobot knows and a `shape`."""
    return isinstance(value, dict) and all(_is_feature(feature) for feature in value.values())


def is_normalization(value: Any) -> bool:
    """True for modes of normalisation by type of feature."""
    return isinstance(value, dict) and all(
        key in FeatureType.__members__ and mode in NormalizationMode.__members__.values() for key, mode in value.items()
    )


def _is_feature(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"type", "shape"}:
        return False
    shape, elements = value["shape"], 1
    if value["type"] not in FeatureType.__members__.values() or not isinstance(shape, list) or len(shape) > 4:
        return False
    for size in shape:
        if not is_size(size):
            return False
        elements *= size
    return elements <= MAX_ELEMENTS


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_renaming(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_epsilon(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _is_sizes(value: Any) -> bool:
    """True for height and width by camera."""
    return isinstance(value, dict) and all(
        isinstance(size, list) and len(size) == 2 and all(map(is_size, size)) for size in value.values()
    )


def _one_of(*choices: Any) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str | None) and value in choices


_NORMALIZATION: dict[str, Callable[[Any], bool]] = {
    "eps": _is_epsilon,
    "features": is_features,
    "norm_map": is_normalization,
    "normalize_observation_keys": _is_texts,
}
# By step: the check of each option.
STEPS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "rename_observations_processor": {"rename_map": _is_renaming},
    STEP: {"height": is_size, "width": is_size, "fit": _one_of(*FITS), "recorded": _is_sizes},
    "to_batch_processor": {},
    "smolvla_new_line_processor": {},
    "tokenizer_processor": {
        "tokenizer_name": _is_text,
        "task_key": _is_text,
        "max_length": is_size,
        "padding": _one_of("longest", "max_length"),
        "padding_side": _one_of("left", "right"),
        "truncation": _is_bool,
    },
    "device_processor": {"device": is_device, "float_dtype": _one_of(None, *_FLOATS)},
    "normalizer_processor": _NORMALIZATION,
    "unnormalizer_processor": _NORMALIZATION,
}


def read_pipelines(
    folder: Path, config: PreTrainedConfig, overrides: Mapping[str, Mapping[str, Any]]
) -> "tuple[Pipeline, Pipeline]":
    """Pre- and post-processor of a checkpoint.

    Args:
        folder: of the checkpoint.
        config: of its policy. A policy of an installed package may use the steps of that package.
        overrides: options by step that replace those of the pre-processor's file.

    Raises UserError for a step, an option or a file that is not on the list.
    """
    from lerobot.processor import PolicyProcessorPipeline
    from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action

    added = _added_steps(type(config))
    before, states = _read_pipeline(folder, PREPROCESSOR, added, overrides)
    _check_image_size(before["steps"], config)
    preprocessor: Pipeline = PolicyProcessorPipeline.from_config(before, state_dict=states)
    after, states = _read_pipeline(folder, POSTPROCESSOR, added, {})
    postprocessor: Pipeline = PolicyProcessorPipeline.from_config(
        after,
        state_dict=states,
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return preprocessor, postprocessor


def _read_pipeline(
    folder: Path, name: str, added: set[str], overrides: Mapping[str, Mapping[str, Any]]
) -> "tuple[dict[str, Any], dict[str, dict[str, Tensor]]]":
    """Content of a pipeline's JSON, checked, and the tensors of its steps."""
    file = inside(folder, f"{name}.json")
    content = read_json_object(file)
    check_values(content, file.name)
    if content.keys() != {"name", "steps"} or content["name"] != name or not isinstance(content["steps"], list):
        raise UserError(f"{file.name} does not hold a list of steps by the name of {name}; get the original file")
    steps, states = [], {}
    for index, entry in enumerate(content["steps"]):
        place = f"{file.name}, step {index},"
        step = _checked_step(entry, place, added)
        step["config"] |= overrides.get(step["registry_name"], {})
        if (state_file := step.get("state_file")) is not None:
            states[state_file.removesuffix(".safetensors")] = _read_state(folder, state_file, place)
        steps.append(step)
    return {"name": name, "steps": steps}, states


def _check_image_size(steps: list[dict[str, Any]], config: PreTrainedConfig) -> None:
    """Raise UserError for a step that makes images of another size than the policy's, which may be any size."""
    for step in steps:
        if step["registry_name"] != STEP:
            continue
        size = step["config"].get("height"), step["config"].get("width")
        for key, feature in config.image_features.items():
            if size != tuple(feature.shape[1:]):
                raise UserError(
                    f"{PREPROCESSOR}.json fits images to {size[0]}x{size[1]} pixels but the policy's {key[:50]!r} has "
                    f"the shape {tuple(feature.shape)}; get the original file"
                )


def _checked_step(entry: Any, place: str, added: set[str]) -> dict[str, Any]:
    """A step's entry with nothing but what is on the list."""
    if not isinstance(entry, dict):
        raise UserError(f"{place} is not an object; get the original file")
    if "class" in entry:
        raise UserError(
            f"{place} names the Python class {str(entry['class'])[:80]!r}, which could run any code; "
            "do not use this checkpoint, or ask who made it for one with registered steps"
        )
    if unknown := entry.keys() - {"registry_name", "config", "state_file"}:
        raise UserError(f"{place} has the unknown entry {min(unknown)[:50]!r}; get the original file")
    name, options = entry.get("registry_name"), entry.get("config", {})
    if not isinstance(name, str) or (name not in STEPS and name not in added):
        raise UserError(
            f"{place} is {str(name)[:50]!r}, which is none of the steps that policies of this stack use "
            f"({', '.join([*STEPS, *sorted(added)])}); get a checkpoint with these"
        )
    if not isinstance(options, dict):
        raise UserError(f"{place} has options that are not an object; get the original file")
    for option, value in options.items():
        if name in added:
            continue  # its package checks them, as at every other call
        if (is_suitable := STEPS[name].get(option)) is None:
            raise UserError(f"{place} {name}, has no option {option[:50]!r}; get the original file")
        if not is_suitable(value):
            raise UserError(f"{place} {name}: {option} cannot be {str(value)[:80]!r}; get the original file")
    return {**entry, "registry_name": name, "config": dict(options)}


def _read_state(folder: Path, name: Any, place: str) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+\.safetensors", name):
        raise UserError(f"{place} has the state file {str(name)[:80]!r}, not a safetensors file of the folder")
    file = inside(folder, name)
    check_regular(file, _MAX_STATE_BYTES)
    state = load_file(file)
    if strange := [key for key, tensor in state.items() if "." not in key or not tensor.is_floating_point()]:
        raise UserError(f"{name} holds {strange[0][:50]!r}, which is not a statistic; get the original file")
    return state


def _added_steps(config_class: type[PreTrainedConfig]) -> set[str]:
    """Names of the steps that the package of a policy registers, empty for policies of this stack and LeRobot."""
    from lerobot.processor import ProcessorStepRegistry

    package = config_class.__module__.partition(".")[0]
    if package in ("policies", "lerobot"):
        return set()
    import_module(config_class.__module__.replace("configuration_", "processor_"))  # as LeRobot finds it
    return {
        name
        for name in ProcessorStepRegistry.list()
        if inspect.getmodule(ProcessorStepRegistry.get(name)).__name__.partition(".")[0] == package  # type: ignore[union-attr]
    }
