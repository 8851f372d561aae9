"""Registry of parts by name: those of this repository, and those that installed packages add."""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import UserError, did_you_mean, one_line


class Registry:
    """Objects by name, imported on first use.

    A package installed beside this one adds names through entry points:

        [project.entry-points."tinyvla.backbones"]
        my_backbone = "my_package.my_backbone:MyBackboneConfig"

    Args:
        kind: the noun for messages, such as "backbone".
        group: the group of entry points.
        builtin: "module:attribute" by name, for the parts of this repository.
        former_group: an earlier name of the group, still read.
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str], former_group: str | None = None):
        self.kind, self.builtin = kind, dict(builtin)
        self.groups = [group, former_group] if former_group else [group]

    def names(self) -> list[str]:
        """All names, those of this repository first. Nothing is imported."""
        return list(dict.fromkeys([*self.builtin, *(entry.name for entry in self._entries())]))

    def load(self, name: str) -> Any:
        """Object of a name; a part of this repository takes precedence over an entry point of the same name.

        Raises UserError for an unknown name, naming the nearest, and for an entry point that cannot be imported.
        """
        if name in self.builtin:
            module, _, attribute = self.builtin[name].partition(":")
            return getattr(import_module(module), attribute)
        for entry in self._entries():
            if entry.name == name:
                try:
                    return entry.load()
                except (ImportError, AttributeError) as error:
                    raise UserError(
                        f"{self.kind} '{name}' cannot be imported from {entry.value} ({one_line(error)}); "
                        "reinstall the package that adds it"
                    ) from error
        raise UserError(f"unknown {self.kind} '{name}'; {did_you_mean(name, self.names())}")

    def load_all(self) -> dict[str, Any]:
        """Every object by name. Raises UserError as `load` does."""
        return {name: self.load(name) for name in self.names()}

    def _entries(self) -> list[EntryPoint]:
        return [entry for group in self.groups for entry in entry_points(group=group)]
