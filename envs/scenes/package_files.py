"""Folders of installed packages, whose asset files are read."""

from importlib.util import find_spec
from pathlib import Path


def package_folder(name: str) -> Path:
    """Folder of a package, which is not imported: importing Meta-World takes longer than drawing a hundred images."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} is not installed", name=name)
    return Path(spec.submodule_search_locations[0])
