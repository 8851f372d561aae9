"""Functions run in a fresh process each, so that memory, caches and threads are theirs alone."""

import importlib
import json
import subprocess
import sys
from typing import Any

from .machine import ROOT


def in_own_process(function: str, *arguments: Any) -> Any:
    """Result of `module:function` with these arguments (both as JSON) in a fresh process; its stderr passes through."""
    command = [sys.executable, "-m", "benchmarks.own_process", function, json.dumps(arguments)]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise SystemExit(f"error: {function} failed in its own process; the lines above say why")
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    module, _, function = sys.argv[1].partition(":")
    print(json.dumps(getattr(importlib.import_module(module), function)(*json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()
