"""The registry, and the words of its errors."""

from importlib.metadata import EntryPoint

import pytest

from tinyvla import registry as module
from tinyvla.errors import UserError, did_you_mean, one_line
from tinyvla.intervals import wilson_interval
from tinyvla.registry import Registry

GROUP = "tinyvla.toys"


@pytest.fixture
def registry(monkeypatch):
    installed = [
        EntryPoint("queue", "collections:deque", GROUP),
        EntryPoint("ours", "collections:OrderedDict", GROUP),
        EntryPoint("broken", "no_such_package:Thing", GROUP),
    ]
    monkeypatch.setattr(module, "entry_points", lambda group: [entry for entry in installed if entry.group == group])
    return Registry("toy", GROUP, {"ours": "tinyvla.errors:UserError"})


def test_entry_points_add_names(registry):
    from collections import deque

    assert registry.names() == ["ours", "queue", "broken"]
    assert registry.load("queue") is deque


def test_ours_wins_over_an_entry_point(registry):
    assert registry.load("ours") is UserError


@pytest.mark.parametrize(
    ("name", "message"),
    [("quue", "unknown toy 'quue'; did you mean queue"), ("broken", "cannot be imported from no_such_package:Thing")],
)
def test_what_cannot_be_loaded_is_one_line(registry, name, message):
    with pytest.raises(UserError, match=message):
        registry.load(name)


def test_hint_lists_all_names_if_none_is_alike():
    assert did_you_mean("zzz", ["reach", "push"]) == "there is reach, push"


def test_one_line_has_neither_line_breaks_nor_no_text():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(ValueError()) == "ValueError"
    assert one_line("x" * 300, limit=10) == "x" * 10


def test_wilson_interval():
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)
