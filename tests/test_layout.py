"""The layout: imports run one way, entry points and files stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = ["train", "perceive", "collect", "evaluate", "export", "simulate_arm", "robot_setup", "deploy"]
COMMANDS += ["inspect_dataset"]
# What each package may import of ours, itself aside. Entry points may import everything, and nothing imports them.
MAY_IMPORT = {
    "tinyvla": set(),
    "configs": {"tinyvla"},
    "policies": {"tinyvla"},
    "envs": {"tinyvla", "policies"},
    "robot_io": {"tinyvla", "policies"},
}
OURS = {*MAY_IMPORT, *COMMANDS, "tinyvla_scripts", "tests", "benchmarks"}
FILES = {package: sorted((ROOT / package).rglob("*.py")) for package in MAY_IMPORT}


def imported(source: str) -> set[str]:
    """Top-level names that a module imports absolutely, wherever in it the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    allowed = MAY_IMPORT[package] | {package}
    wrong = {str(file.relative_to(ROOT)): bad for file in FILES[package] if (bad := _strangers(file, allowed))}
    assert FILES[package]
    assert wrong == {}


def _strangers(file: Path, allowed: set[str]) -> set[str]:
    return (imported(file.read_text()) & OURS) - allowed


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_relative_imports_stay_inside_their_package(package):
    for file in FILES[package]:
        depth = len(file.relative_to(ROOT).parts) - 1
        levels = [node.level for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        assert max(levels, default=0) <= depth, file


def test_the_rule_sees_imports_inside_functions():
    assert imported("def f():\n    from envs.rollout import x\n    import policies.factory") == {"envs", "policies"}


def module_names(files: list[Path]) -> dict[str, Path]:
    """Files by the dotted name that they are imported under; a package's name is its `__init__.py`."""
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported_modules(name: str, file: Path, modules: dict[str, Path]) -> set[str]:
    """Modules of `modules` that a module imports, at its top or inside its functions."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    imports: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                start = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*start, *filter(None, [node.module])])
            # `from package import module` imports the module; any other name is the package's own.
            imports |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules else base for alias in node.names}
    return (imports & modules.keys()) - {name}


def import_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another: strongly connected components of more than one (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for imported_module in sorted(graph[module]):
            if imported_module not in order:
                visit(imported_module)
                low[module] = min(low[module], low[imported_module])
            elif imported_module in stack:
                low[module] = min(low[module], order[imported_module])
        if low[module] == order[module]:
            component = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(component) > 1:
                circles.append(sorted(component))

    for module in graph:
        if module not in order:
            visit(module)
    return circles


def import_graph() -> dict[str, set[str]]:
    """Every module of the repository with the modules of the repository that it imports."""
    folders = [*MAY_IMPORT, "tinyvla_scripts", "benchmarks", "examples"]
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in sorted((ROOT / folder).rglob("*.py")))]
    modules = module_names(files)
    return {name: imported_modules(name, file, modules) for name, file in modules.items()}


def test_no_module_imports_itself_in_a_circle():
    assert import_circles(import_graph()) == []


def test_circles_are_noticed():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert import_circles(graph) == [["b", "c"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_entry_points_stay_small(command):
    script = (ROOT / f"{command}.py").read_text()
    module = (ROOT / f"tinyvla_scripts/{command}.py").read_text()
    assert len(script.splitlines()) <= 6
    assert len(module.splitlines()) <= 60
    assert script.splitlines()[0] == module.splitlines()[0]


def test_files_stay_readable():
    lengths = {str(file): len(file.read_text().splitlines()) for files in FILES.values() for file in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
