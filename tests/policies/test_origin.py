"""Recognition of a person's own recordings beside an environment's demonstrations."""

from types import SimpleNamespace
from typing import Any

import pytest

from policies.data.origin import own_recording


@pytest.mark.parametrize(
    ("cameras", "is_own"),
    [(["laptop", "phone"], True), (["front", "phone"], True), (["front"], False), (["front", "wrist"], False)],
)
def test_dataset_with_a_camera_that_the_environment_lacks_is_an_own_recording(cameras: list[str], is_own: bool) -> None:
    meta: Any = SimpleNamespace(camera_keys=[f"observation.images.{camera}" for camera in cameras])
    assert own_recording(meta, ["front", "wrist"]) is is_own
