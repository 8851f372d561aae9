"""Draw the packages and their imports, read from the source, as an SVG: python docs/architecture.py."""

import ast
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIGURE = ROOT / "docs/images/architecture.svg"
# Row, first column and number of columns of every package's box; imports lead downwards.
PACKAGES = {
    "tinyvla_scripts": (0, 0, 3),
    "configs": (1, 0, 1),
    "envs": (1, 1, 1),
    "robot_io": (1, 2, 1),
    "policies": (2, 1, 2),
    "tinyvla": (3, 0, 3),
}
COLUMN, GAP, DROP, LINE, HEAD = 292, 28, 52, 19, 44
WIDTH = 3 * COLUMN + 2 * GAP + 32
type Box = tuple[float, float, float, float]  # left, top, width, height
STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1d2a30 }
.title { font: bold 17px ui-monospace, monospace } .about { fill: #51626a; font-size: 13px }
.module { font: 13px ui-monospace, monospace } rect { fill: #eef6f5; stroke: #00796b; stroke-width: 1.5 }
path { stroke: #78909c; stroke-width: 1.6; fill: none; marker-end: url(#tip) } .paper { fill: #fff; stroke: none }
"""


def imports_of(package: str) -> set[str]:
    """Packages that the modules of a package import absolutely."""
    names: set[str] = set()
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.split(".")[0])
    return (names & set(PACKAGES)) - {package}


def arrows_of(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Imports that do not follow from others. Raises ValueError if an import does not lead downwards."""
    arrows: list[tuple[str, str]] = []
    for importer, imports in graph.items():
        for imported in sorted(imports):
            if PACKAGES[imported][0] <= PACKAGES[importer][0]:
                raise ValueError(f"{importer} imports {imported}, which stands beside or above it")
            if not any(imported in graph[between] for between in imports):
                arrows.append((importer, imported))
    return arrows


def members_of(package: str) -> list[str]:
    """Sub-packages (with a slash), then modules of a package."""
    folder = ROOT / package
    folders = sorted(f"{path.name}/" for path in folder.iterdir() if (path / "__init__.py").exists())
    return folders + sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def summary_of(package: str) -> str:
    """First sentence of a package's docstring."""
    text = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text())) or ""
    return text.split("\n\n")[0].replace("\n", " ").replace("`", "").split(". ")[0].rstrip(".")


def wrapped(text: str, characters: int) -> list[str]:
    """A text in lines of at most that many characters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= characters:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def box_of(package: str, top: float) -> tuple[Box, list[str]]:
    """Place of a package's box whose upper edge is at `top`, and the shapes in it."""
    _, column, span = PACKAGES[package]
    left, width = 16 + column * (COLUMN + GAP), span * COLUMN + (span - 1) * GAP
    about, members = wrapped(summary_of(package), int(width / 7.2)), members_of(package)
    columns = width // 140
    lines = -(-len(members) // columns)
    height = HEAD + LINE * (len(about) + lines)
    shapes = [
        f'<rect x="{left}" y="{top:.0f}" width="{width}" height="{height}" rx="8"/>',
        f'<text class="title" x="{left + 14}" y="{top + 26:.0f}">{package}</text>',
    ]
    for index, line in enumerate(about):
        shapes.append(f'<text class="about" x="{left + 14}" y="{top + 46 + LINE * index:.0f}">{escape(line)}</text>')
    for index, name in enumerate(members):
        column, line_number = divmod(index, lines)
        x, y = left + 14 + column * (width - 20) // columns, top + HEAD + LINE * (len(about) + line_number) + 6
        shapes.append(f'<text class="module" x="{x}" y="{y:.0f}">{name}</text>')
    return (left, top, width, height), shapes


def draw() -> str:
    """The figure: a box per package, an arrow from each importer to the imported package."""
    graph = {package: imports_of(package) for package in PACKAGES}
    boxes: dict[str, Box] = {}
    shapes: list[str] = []
    top = 16.0
    for row in sorted({place[0] for place in PACKAGES.values()}):
        for package in (name for name, place in PACKAGES.items() if place[0] == row):
            boxes[package], drawn = box_of(package, top)
            shapes += drawn
        top = max(box[1] + box[3] for box in boxes.values()) + DROP
    arrows = [arrow(boxes[importer], boxes[imported]) for importer, imported in arrows_of(graph)]
    height = top - DROP + 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="Packages and their imports"><style>{STYLE}</style>'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" style="fill:#78909c;stroke:none;marker-end:none"/></marker></defs>'
        f'<rect class="paper" width="{WIDTH}" height="{height:.0f}"/>\n' + "\n".join([*arrows, *shapes]) + "\n</svg>\n"
    )


def arrow(importer: Box, imported: Box) -> str:
    """A vertical line between two boxes, in the middle of the columns that both have."""
    left, right = max(importer[0], imported[0]), min(importer[0] + importer[2], imported[0] + imported[2])
    x = (left + right) / 2
    return f'<path d="M{x:.0f} {importer[1] + importer[3]:.0f} V{imported[1] - 2:.0f}"/>'


if __name__ == "__main__":
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.write_text(draw())
    print(FIGURE.relative_to(ROOT))
