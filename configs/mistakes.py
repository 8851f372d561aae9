"""Turns what is wrong with a command line into one sentence that names the fix."""

import difflib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf

from tinyvla.errors import UserError

from .composing import compose_config, groups


def flatten(cfg: DictConfig, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of a configuration, its inner nodes included; interpolated sections are not entered."""
    found: dict[str, Any] = {}
    for name in map(str, cfg):
        key = f"{prefix}{name}"
        if OmegaConf.is_interpolation(cfg, name) or OmegaConf.is_missing(cfg, name):
            found[key] = None
            continue
        found[key] = cfg[name]
        if isinstance(cfg[name], DictConfig):
            found |= flatten(cfg[name], f"{key}.")
    return found


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise UserError for what can be seen before composing: options that do not exist, choices no group has."""
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
    for override in overrides:
        options = groups().get(override.key_or_group, [])
        for value in _values(override) if options else []:
            if value not in options:
                near = _near(value, options)
                guess = f"did you mean {near}? The" if near else "the"
                raise UserError(
                    f"{override.key_or_group} has no choice '{value}'; {guess} choices are: {', '.join(options)}"
                )


def explain(error: Exception, config_name: str, arguments: Sequence[str]) -> str | None:
    """One sentence for an error of Hydra while composing `arguments`, or None if the error is none of Hydra's."""
    if not isinstance(error, HydraException):
        return None
    overrides = _parse(arguments)
    chosen = [override for override in overrides if override.key_or_group in groups()]
    for choices in itertools.product(*([f"{o.key_or_group}={v}" for v in _values(o)] for o in chosen)):
        try:
            known = flatten(compose_config(config_name, choices))
        except HydraException:
            return _bad_combination(config_name, choices)
        for override in overrides:
            key = override.key_or_group
            if override not in chosen and not override.is_add() and key not in known and not key.startswith("hydra"):
                return _unknown_key(override.key_or_group, known)
    return " ".join(str(error).split())


def check_values(cfg: DictConfig, config_name: str, overrides: Sequence[str]) -> None:
    """Compare the values that `overrides` gave with the configuration's own and mend what is plainly meant.

    A lone value where a list belongs becomes a list of one, 1e4 where a whole number belongs becomes 10000. A word
    where a number belongs raises UserError.
    """
    parsed = [override for override in _parse(overrides) if override.package is None and not override.is_delete()]
    choices = [str(override.input_line) for override in parsed if override.key_or_group in groups()]
    changed = [override.key_or_group for override in parsed if override.key_or_group not in groups()]
    defaults = flatten(compose_config(config_name, choices)) if changed else {}
    for key in changed:
        given, default = OmegaConf.select(cfg, key), defaults.get(key)
        if isinstance(default, ListConfig) and isinstance(given, str | int | float):
            OmegaConf.update(cfg, key, [given])
        elif type(default) is int and isinstance(given, float) and given.is_integer():
            OmegaConf.update(cfg, key, int(given))
        elif isinstance(default, DictConfig) and given is not None and not isinstance(given, DictConfig):
            group = key.replace(".", "/")
            fix = (
                f"write {group}=..."
                if group in groups()
                else f"set {', '.join(f'{key}.{name}' for name in map(str, default))}"
            )
            raise UserError(f"{key} is a section, not a value; {fix}")
        elif isinstance(default, int | float) and isinstance(given, str):
            kind = "true or false" if isinstance(default, bool) else "a number"
            raise UserError(f"{key}={given} is not {kind}; the default is {str(default).lower()}")


def _parse(arguments: Sequence[str]) -> list[Override]:
    lines = get_args_parser().parse_known_args(list(arguments))[0].overrides
    return OverridesParser.create().parse_overrides(lines)


def _values(override: Override) -> list[str]:
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    value = override.value()
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]  # several, as in frontend=[a,b]


def _near(word: str, known: Iterable[str]) -> str:
    known = list(dict.fromkeys(known))
    return " or ".join(difflib.get_close_matches(word, known, n=3, cutoff=0.6))


def _bad_combination(config_name: str, choices: Sequence[str]) -> str:
    """Choices that exist but do not go together, such as a backbone for a policy that has none."""
    for dropped in sorted(choices, key=lambda choice: choice.startswith("policy=")):
        rest = [choice for choice in choices if choice != dropped]
        try:
            compose_config(config_name, rest)
        except HydraException:
            continue
        return f"{dropped} does not go with {' '.join(rest) or config_name + '.py'}; leave it out"
    return f"{' '.join(choices)} do not go together; leave out those that {config_name}.py --help does not list"


def _unknown_key(key: str, known: dict[str, Any]) -> str:
    section, _, leaf = key.rpartition(".")
    same_leaf = [other for other in known if other.rpartition(".")[2] == leaf]
    near = " or ".join(same_leaf[:3]) or _near(key, [*known, *groups()]) or _near(leaf, known)
    guess = f"did you mean {near}?" if near else "--help lists what there is"
    if section == "policy" and "policy.type" in known:
        guess += f" A field of the {known['policy.type']} policy that its YAML leaves out is set with +{key}=..."
    return f"unknown setting '{key}'; {guess}"
