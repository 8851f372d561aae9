"""The documentation: its figure is current, the README short, links and files that it names exist."""

import ast
import importlib
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.composing import compose_config
from envs.rollout import write_video

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FILE = re.compile(
    r"`((?:tinyvla|policies|envs|robot_io|configs|benchmarks|tests|examples|tinyvla_scripts|docs)/[\w./-]+\.\w+)`"
)


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Entry point and settings of each `uv run python <script>.py` in the code blocks of a page."""
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            # Placeholders and sweeps stand for one value.
            words = shlex.split(re.sub(r"<[^>]+>", "x", line), comments=True)
            if words[:3] == ["uv", "run", "python"] and (ROOT / "tinyvla_scripts" / words[3]).is_file():
                settings = [word for word in words[4:] if "=" in word and "..." not in word]
                if "-m" in words:
                    settings = [setting.split(",")[0] for setting in settings]
                yield words[3].removesuffix(".py"), settings


def test_the_architecture_figure_is_current():
    architecture = runpy.run_path(str(ROOT / "docs/architecture.py"))
    assert architecture["FIGURE"].read_text() == architecture["draw"](), "run python docs/architecture.py"


def test_the_readme_fits_on_a_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_exist(page):
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text) + re.findall(r'src="([^"]+)"', text)
    missing = [link for link in links if not (page.parent / link).exists() and page.name != "index.md"]
    missing += [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_settings_that_exist(page):
    for name, settings in commands(page.read_text()):
        compose_config(name, settings)  # raises for a setting or a choice that does not exist


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_imports_of_the_snippets_exist(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.slow
def test_the_animation_shows_one_success_per_task(tmp_path, monkeypatch):
    frames = np.stack([np.full((64, 64, 3), 40 * time, np.uint8) for time in range(6)])
    for name in ("reach-v3-000-success", "reach-v3-001-success", "push-v3-000-failure", "push-v3-002-success"):
        write_video(tmp_path / f"videos/{name}.mp4", frames)
    monkeypatch.setattr(sys, "argv", ["make_animation.py", str(tmp_path), str(tmp_path / "policy.webp")])
    animation = runpy.run_path(str(ROOT / "docs/make_animation.py"))
    animation["main"]()
    with Image.open(tmp_path / "policy.webp") as image:
        assert image.size == (2 * animation["SIDE"], animation["SIDE"] + animation["CAPTION"])
        assert image.info["loop"] == 0


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
