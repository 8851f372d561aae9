"""Ranges of settings."""

from dataclasses import dataclass
from typing import Any

import pytest

from tinyvla.decoding import decode_section
from tinyvla.errors import UserError
from tinyvla.ranges import check_range


@dataclass
class Settings:
    steps: int = 10
    share: float = 0.5
    rate: float = 1.0
    threads: int | str = "auto"

    def __post_init__(self) -> None:
        check_range(self, "steps", "threads", low=1)
        check_range(self, "share", low=0, high=1)
        check_range(self, "rate", above=0)


@pytest.mark.parametrize(
    ("field", "value", "advice"),
    [
        ("steps", 0, "use 1 or more"),
        ("share", 1.5, "use a number from 0 to 1"),
        ("share", float("nan"), "use a number from 0 to 1"),
        ("rate", 0, "use a number above 0"),
        ("rate", float("inf"), "use a number above 0"),
        ("threads", -1, "use 1 or more"),
        ("steps", 10**400, "use 1 or more"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_range(field: str, value: Any, advice: str) -> None:
    with pytest.raises(UserError, match=rf"section\.{field}={value}.* does not fit; {advice}"):
        decode_section(Settings, {field: value}, "section")
    with pytest.raises(ValueError, match=advice):
        Settings(**{field: value})


def test_a_whole_number_that_no_float_can_hold_is_one_line() -> None:
    with pytest.raises(UserError, match=r"section\.rate=1000.* is not a number"):
        decode_section(Settings, {"rate": 10**400}, "section")


def test_values_at_the_bounds_and_words_are_accepted() -> None:
    assert decode_section(Settings, {"steps": 1, "share": 1, "rate": 1e-9, "threads": "auto"}).share == 1.0
