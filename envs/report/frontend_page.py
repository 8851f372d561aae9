"""Report of a front-end's training: page and table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyvla.frontends.base import EXAMPLES
from tinyvla.untrusted import check_links

from .page import data_url, read_run, template, write_page


def write_frontend_report(run_dir: Path) -> Path:
    """Write report.html into a run folder and return its path.

    It shows eval.json and, where they exist, config.yaml, metrics.jsonl and the example images.

    Raises UserError if the run has no eval.json.
    """
    run = read_run(run_dir)
    check_links(run_dir / EXAMPLES)
    images = {
        file.stem.replace("-", " "): data_url(file.read_bytes(), "image/png")
        for file in sorted((run_dir / EXAMPLES).glob("*.png"))
    }
    page = template("frontend_page.html.j2").render(
        title=run.result["task"], result=run.result, images=images, shift=None, **run.common()
    )
    return write_page(run_dir, page)


def describe_frontend(result: Mapping[str, Any]) -> str:
    """Plain-text table of eval.json."""
    width = max(len(name) for name in result["figures"])
    lines = [f"{result['task']}: {result['measure']} {result['score']:.4g}"]
    for name, figure in result["figures"].items():
        low, high = figure.get("ci95") or (None, None)
        interval = f"   95% interval {low:.4g}-{high:.4g}" if low is not None else ""
        lines.append(f"{name.ljust(width)}  {figure['value']:>8.4g}{interval}   n = {figure['n']}")
    return "\n".join(lines)
