"""One-line messages for mistakes in a command line, each with the fix."""

import itertools
from collections.abc import Sequence
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinyvla.errors import UserError, nearest_names, one_line

from .composing import compose_config, groups

CUTOFF = 0.6  # similarity from which a name is suggested in place of another
_NUMBER_OR_AUTO = ("trainer.processes",)  # settings that may be "auto" though their default is a number


def flatten(cfg: DictConfig, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of a configuration, with its inner nodes; interpolated sections are not entered."""
    leaves: dict[str, Any] = {}
    for name in map(str, cfg):
        key = f"{prefix}{name}"
        if OmegaConf.is_missing(cfg, name) or (OmegaConf.is_interpolation(cfg, name) and _is_section(cfg, name)):
            leaves[key] = None
            continue
        leaves[key] = cfg[name]
        if isinstance(cfg[name], DictConfig):
            leaves |= flatten(cfg[name], f"{key}.")
    return leaves


def _is_section(cfg: DictConfig, name: str) -> bool:
    """True for an interpolation of a section, or of what is not there."""
    try:
        return isinstance(cfg[name], DictConfig)
    except OmegaConfBaseException:
        return True


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise UserError for mistakes that show before composition: unknown options, unknown choices of a group."""
    unknown = get_args_parser().parse_known_args(list(arguments))[1]
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0]
        raise UserError(f"unknown option '{unknown[0]}'; settings are written key=value, as in {name}=...")
    try:
        overrides = _parse(arguments)
    except OverrideParseException as error:
        raise UserError(
            f"cannot read '{error.override}'; settings are written key=value, lists in quotes as 'key=[a,b]'"
        ) from error
    known = groups()
    for override in overrides:
        choices = known.get(override.key_or_group, [])
        for value in _values(override) if choices else []:
            if value not in choices:
                near = _near(value, choices)
                guess = f"did you mean {near}? The" if near else "the"
                raise UserError(
                    f"{override.key_or_group} has no choice '{value}'; {guess} choices are: {', '.join(choices)}"
                )


def explain(error: Exception, config_name: str, arguments: Sequence[str]) -> str | None:
    """One sentence for an error that Hydra raised while composing `arguments`; None for any other error."""
    if not isinstance(error, HydraException):
        return None
    overrides, known_groups = _parse(arguments), groups()
    group_overrides = [override for override in overrides if override.key_or_group in known_groups]
    for choices in itertools.product(*([f"{o.key_or_group}={v}" for v in _values(o)] for o in group_overrides)):
        try:
            known = flatten(compose_config(config_name, choices))
        except HydraException:
            return _bad_combination(config_name, choices)
        for override in overrides:
            key = override.key_or_group
            is_value = override not in group_overrides and not override.is_add()
            if is_value and key not in known and not key.startswith("hydra"):
                return _setting_of_another_choice(config_name, choices, key) or _unknown_key(key, known)
    return one_line(error, limit=None)


def check_values(cfg: DictConfig, config_name: str, overrides: Sequence[str]) -> None:
    """Compare the values of `overrides` with those of the configuration, and convert the unambiguous ones in place.

    A single value where a list belongs becomes a list of one, and 1e4 where a whole number belongs becomes 10000.
    Raises UserError for a word where a number belongs, and for a value in place of a section.
    """
    known_groups = groups()
    parsed = [override for override in _parse(overrides) if override.package is None and not override.is_delete()]
    choices = [str(override.input_line) for override in parsed if override.key_or_group in known_groups]
    changed = [override.key_or_group for override in parsed if override.key_or_group not in known_groups]
    defaults = flatten(compose_config(config_name, choices)) if changed else {}
    for key in changed:
        value, default = OmegaConf.select(cfg, key), defaults.get(key)
        if isinstance(default, ListConfig) and isinstance(value, str | int | float):
            OmegaConf.update(cfg, key, [value])
        elif type(default) is int and isinstance(value, float) and value.is_integer():
            OmegaConf.update(cfg, key, int(value))
        elif isinstance(default, DictConfig) and value is not None and not isinstance(value, DictConfig):
            group = key.replace(".", "/")
            fix = (
                f"write {group}=..."
                if group in known_groups
                else f"set {', '.join(f'{key}.{name}' for name in map(str, default))}"
            )
            raise UserError(f"{key} is a section, not a value; {fix}")
        elif isinstance(default, int | float) and isinstance(value, str):
            if key in _NUMBER_OR_AUTO and value == "auto":
                continue
            kind = "true or false" if isinstance(default, bool) else "a number"
            raise UserError(f"{key}={value} is not {kind}; the default is {str(default).lower()}")


def _parse(arguments: Sequence[str]) -> list[Override]:
    lines = get_args_parser().parse_known_args(list(arguments))[0].overrides
    return OverridesParser.create().parse_overrides(lines)


def _values(override: Override) -> list[str]:
    """Values of an override: several in a sweep (`policy=act,tinyvla`) and in a list (`frontend=[a,b]`)."""
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    value = override.value()
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _near(word: str, known: Sequence[str]) -> str:
    return " or ".join(nearest_names(word, known, cutoff=CUTOFF))


def _bad_combination(config_name: str, choices: Sequence[str]) -> str:
    """Message for choices that exist but do not go together, such as a backbone for a policy without one."""
    for dropped in sorted(choices, key=lambda choice: choice.startswith("policy=")):
        rest = [choice for choice in choices if choice != dropped]
        try:
            compose_config(config_name, rest)
        except HydraException:
            continue
        return f"{dropped} does not go with {' '.join(rest) or config_name + '.py'}; leave it out"
    return f"{' '.join(choices)} do not go together; leave out those that {config_name}.py --help does not list"


def _setting_of_another_choice(config_name: str, choices: Sequence[str], key: str) -> str | None:
    """Sentence about a setting that only other choices of its group have, such as backbone.layers; None without one."""
    group = key.partition(".")[0]
    owners = []
    for choice in groups().get(group, ()):
        try:
            if key in flatten(compose_config(config_name, [*choices, f"{group}={choice}"])):
                owners.append(f"{group}={choice}")
        except HydraException:
            continue
    return f"'{key}' is a setting of another choice; add {' or '.join(owners)}" if owners else None


def _unknown_key(key: str, known: dict[str, Any]) -> str:
    section, _, leaf = key.rpartition(".")
    same_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    near = " or ".join(same_leaf[:3]) or _near(key, [*known, *groups()]) or _near(leaf, list(known))
    guess = f"did you mean {near}?" if near else "--help lists all settings"
    if section == "policy" and "policy.type" in known:
        guess += f" A field of the {known['policy.type']} policy that its YAML leaves out is set with +{key}=..."
    return f"unknown setting '{key}'; {guess}"
