"""Hooks of MkDocs: pages and results that stand outside of docs/ join the site, and links to them are rewritten."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Pages of the site that are files of the repository's root.
PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
RESULTS = "benchmarks/results"
FIGURE_MARKS = re.compile("<!--.*?-->")  # around figures, see benchmarks/pages.py


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root, and what benchmarks have measured, as the site's files."""
    for uri, name in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    for file in sorted((ROOT / RESULTS).glob("*.*")):
        if file.suffix in {".png", ".json"}:
            files.append(File.generated(config, f"{RESULTS}/{file.name}", abs_src_path=str(file)))
        elif file.suffix == ".md":  # as text, so that a table's links and headings stay its own
            uri = f"{RESULTS}/{file.name}.txt"
            files.append(File.generated(config, uri, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite links that lead out of docs/, so that the same text works on a code host and on the site."""
    if page.file.src_uri in PAGES.values() or page.file.src_uri in PAGES:
        markdown = markdown.replace("](docs/", "](")
        return re.sub(r"\[([^]]+)\]\((?!https?:|#|[\w-]+\.md)[^)]+\)", r"\1", markdown)
    markdown = FIGURE_MARKS.sub("", markdown)
    markdown = re.sub(rf"\]\(\.\./({RESULTS}/[^)]+)\.md\)", r"](\1.md.txt)", markdown)
    markdown = markdown.replace(f"](../{RESULTS}/", f"]({RESULTS}/")
    markdown = markdown.replace("](../CONTRIBUTING.md", "](contributing.md").replace(
        "](../CHANGELOG.md", "](changelog.md"
    )
    # Source files are named, not linked: the site does not contain them.
    return re.sub(r"\[([^]]+)\]\(\.\./[^)]+\)", r"\1", markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Show placeholders such as observation.images.<camera> as text, not as elements of the page."""
    return re.sub(r"<(camera|feature|name|run|robot|task|folder|dataset|frontend|joint|time)>", r"&lt;\1&gt;", html)
