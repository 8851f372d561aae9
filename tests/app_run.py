"""Entry points in the test's process, with their work replaced."""

import sys

import pytest

from configs.app import app


def run_app(arguments, main=lambda cfg: None, config_name="train"):
    """Run an entry point in this process, with `main` in place of its work; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{config_name}.py", *arguments])
        try:
            app(config_name)(main)()
        except SystemExit as leaving:
            return leaving.code
    return 0
