"""The page and the table that training a front-end ends with."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyvla.files import write_whole

from .page import read_run, template

PICTURES = "pictures"  # folder of a run


def write_frontend_report(run_dir: Path) -> Path:
    """Write report.html from what lies in a run's folder (eval.json and, where they are, config.yaml, metrics.jsonl,
    pictures/*.png), and return its path. Raises UserError if the run has no eval.json."""
    run = read_run(run_dir)
    pictures = {
        file.stem.replace("-", " "): f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
        for file in sorted((run_dir / PICTURES).glob("*.png"))
    }
    page = template("frontend_page.html.j2").render(
        title=run.result["task"], result=run.result, pictures=pictures, shift=None, **run.common()
    )
    return write_whole(run_dir / "report.html", page)


def describe_frontend(result: Mapping[str, Any]) -> str:
    """A plain-text table of eval.json."""
    width = max(len(name) for name in result["figures"])
    lines = [f"{result['task']}: {result['measure']} {result['score']:.4g}"]
    for name, figure in result["figures"].items():
        low, high = figure.get("ci95") or (None, None)
        interval = f"   95% interval {low:.4g}-{high:.4g}" if low is not None else ""
        lines.append(f"{name.ljust(width)}  {figure['value']:>8.4g}{interval}   n = {figure['n']}")
    return "\n".join(lines)
