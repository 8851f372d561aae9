"""Images of every usual kind become uint8 RGB; anything else is refused in one line."""

import numpy as np
import pytest
from PIL import Image

from tinyvla.errors import UserError
from tinyvla.frontends import check_image, read_image

RGB = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
GREY = RGB[..., 0]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, RGB),
        (np.dstack([RGB, GREY]), RGB),
        (GREY, np.dstack([GREY] * 3)),
        (GREY[..., None], np.dstack([GREY] * 3)),
        (np.dstack([GREY, GREY]), np.dstack([GREY] * 3)),
        (GREY.astype(np.uint16) * 257, np.dstack([GREY] * 3)),
        (GREY.astype(np.int32), np.dstack([GREY] * 3)),
        (RGB / np.float32(255), RGB),
        (GREY > 99, np.dstack([(GREY > 99) * np.uint8(255)] * 3)),
    ],
    ids=["rgb", "rgba", "grey", "one channel", "grey and alpha", "16 bit", "integers", "floats", "bool"],
)
def test_every_usual_kind_of_image_is_accepted(image, expected):
    checked = check_image(image)
    assert checked.dtype == np.uint8
    np.testing.assert_array_equal(checked, expected)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((1, 1, 3), np.uint8), "1x1 pixels"),
        (np.zeros((12, 16, 5), np.uint8), "shape"),
        (np.zeros((2, 12, 16, 3), np.uint8), "shape"),
        (np.full((12, 16, 3), np.nan), "nan"),
        (RGB.astype(np.float32), "between 0 and 1"),
        (RGB.astype(np.int32) - 300, "uint8"),
    ],
    ids=["1 pixel", "5 channels", "a batch", "nan", "floats above 1", "negative"],
)
def test_what_is_not_an_image_is_refused_in_one_line(bad, message):
    with pytest.raises(UserError, match=message):
        check_image(bad)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (Image.fromarray(RGB), "a.png"),
        (Image.fromarray(GREY), "grey.png"),
        (Image.fromarray(GREY.astype(np.uint16) * 257), "deep.png"),
        (Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE), "palette.png"),
        (Image.fromarray(RGB).convert("CMYK"), "print.tif"),
    ],
    ids=["png", "grey", "16 bit", "palette", "cmyk"],
)
def test_files_of_every_usual_kind_are_read(image, name, tmp_path):
    image.save(tmp_path / name)
    read = read_image(tmp_path / name)
    expected = np.dstack([GREY] * 3) if name in ("grey.png", "deep.png") else RGB
    assert np.abs(read.astype(int) - expected).mean() < (12 if name == "palette.png" else 2)


def test_an_image_taken_sideways_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    Image.fromarray(RGB).save(tmp_path / "sideways.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "sideways.png"), np.rot90(RGB, -1))


def test_missing_and_damaged_files_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no image at .*a\.png"):
        read_image(tmp_path / "a.png")
    Image.fromarray(np.tile(RGB, (9, 9, 1))).save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("hello")
    for name in ("cut.png", "text.png"):
        with pytest.raises(UserError, match="cannot be read"):
            read_image(tmp_path / name)
