"""Arrays in a stranger's pickle: read as they were written, and nothing else of it."""

import os
import pickle

import numpy as np
import pytest

from tinyvla.errors import UserError
from tinyvla.pickled_arrays import read_pickled_arrays


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_of_floats_are_read(tmp_path, protocol):
    arrays = {
        "single": np.linspace(-1, 2, 10, dtype=np.float32),
        "double": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "same": np.linspace(-1, 2, 10, dtype=np.float32),
        "empty": np.zeros((0, 7), np.float32),
    }
    (tmp_path / "stats.pkl").write_bytes(pickle.dumps(arrays, protocol=protocol))
    read = read_pickled_arrays(tmp_path / "stats.pkl")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def test_the_names_of_older_numpy_are_read(tmp_path):
    content = pickle.dumps({"a": np.ones(3, np.float32)}, protocol=4)
    older = content.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert len(older) == len(content) - 1
    older = older[:2] + older[11:]  # without the frame, whose length has changed
    (tmp_path / "stats.pkl").write_bytes(older)
    assert read_pickled_arrays(tmp_path / "stats.pkl")["a"].tolist() == [1, 1, 1]


class Trap:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def nested(depth):
    """A pickle whose key is a pair of pairs of ..., as long as 2 ** depth where it is hashed or written out."""
    pairs = b"".join(b"h" + bytes([number]) + b"\x86\x94" for number in range(depth))
    return b"\x80\x04})\x94" + pairs + b"K\x01s."


@pytest.mark.parametrize(
    "content",
    [
        lambda folder: pickle.dumps({"a": Trap(os.mkdir, str(folder / "trap"))}),
        lambda folder: pickle.dumps(Trap(os.mkdir, str(folder / "trap"))),
        lambda folder: pickle.dumps({"a": Trap(eval, f"__import__('os').mkdir({str(folder / 'trap')!r})")}),
        lambda folder: pickle.dumps({"a": np.ones(3, np.int64)}),
        lambda folder: pickle.dumps({"a": np.array([None, folder.name])}),
        lambda folder: pickle.dumps({"a": 1.0}),
        lambda folder: pickle.dumps({1: np.ones(3)}),
        lambda folder: pickle.dumps([np.ones(3)]),
        lambda folder: pickle.dumps({"a": np.ones(3)})[:-20],
        lambda folder: pickle.dumps({"a": np.ones(3)}).replace(b"K\x03", b"K\x09"),
        lambda folder: b"",
        lambda folder: b"\x80\x04.",
        lambda folder: b"\x80\x04t.",
        lambda folder: b"not a pickle",
        lambda folder: nested(60),
    ],
)
def test_anything_else_is_refused_and_not_run(tmp_path, content):
    (tmp_path / "stats.pkl").write_bytes(content(tmp_path))
    with pytest.raises(UserError, match="not a pickled dict of NumPy arrays") as caught:
        read_pickled_arrays(tmp_path / "stats.pkl")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trap").exists()


def test_a_large_file_is_refused(tmp_path):
    with (tmp_path / "stats.pkl").open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(UserError, match="more than"):
        read_pickled_arrays(tmp_path / "stats.pkl")
