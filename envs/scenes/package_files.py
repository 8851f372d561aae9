"""Where the files of installed packages lie."""

from importlib.util import find_spec
from pathlib import Path


def package_folder(name: str) -> Path:
    """A package's folder. The package itself isn't imported: Meta-World's takes longer than a hundred pictures."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} is not installed", name=name)
    return Path(spec.submodule_search_locations[0])
