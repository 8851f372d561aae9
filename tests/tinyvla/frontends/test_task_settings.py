"""Settings of vision tasks: the YAML and the dataclass have the same fields and defaults."""

from dataclasses import replace

import pytest

from configs.composing import as_dict, load_config
from tinyvla.frontends.registry import TRAINABLES
from tinyvla.frontends.training import decode_task


@pytest.mark.parametrize("name", TRAINABLES.names())
def test_the_yaml_and_the_dataclass_agree(name):
    settings = ["task.teacher=tinyvit_5m", "run_dir=run"] if name == "tinyvit" else []
    task = decode_task(as_dict(load_config("train", [f"task=perception/{name}", *settings]).task))
    changes = {"teacher": "tinyvit_5m", "store": "run/teacher.logits"} if name == "tinyvit" else {}
    assert task == replace(TRAINABLES.load(name).settings(), **changes)
