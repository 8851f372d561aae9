"""The documentation: its figure is current, the README short, links and files that it names exist."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FILE = re.compile(
    r"`((?:tinyvla|policies|envs|robot_io|configs|benchmarks|tests|examples|tinyvla_scripts|docs)/[\w./-]+\.\w+)`"
)


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


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
