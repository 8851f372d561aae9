"""A small copy of Wake Vision, laid out as its repository on the hub."""

import io

import PIL.Image
from datasets import ClassLabel, Dataset, Features, Image, Value

from tinyvla.frontends.wake.dataset import COLUMNS

FLAGS = ["person", "depiction", "body_part", *(column for columns in COLUMNS.values() for column in columns)]
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train_quality
    path: data/train_quality_part_*
  - split: validation
    path: data/validation-*
  - split: test
    path: data/test-*
---
"""


def encode(colour, size=(60, 40)):
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def rows(count, known=True):
    """Rows of which every other image is bright and has a person; one image is damaged, one has no label."""
    rows = []
    for index in range(count):
        person = index % 2
        row = dict.fromkeys(FLAGS, 0 if known else -1) | {"person": person, "filename": f"{index}.png"}
        row["image"] = {"bytes": encode((200, 10, index) if person else (5, 10, index)), "path": None}
        if known:
            row["far" if person else "non-person_depiction"] = 1
            row["dark"] = 1
        rows.append(row)
    if count > 5:
        rows[4]["image"] = {"bytes": b"not an image", "path": None}
        rows[5]["person"] = -1
    return rows


def write_wake_vision(folder):
    """Write 22 training, 4 validation and 10 test images, one file per split."""
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    features = Features(
        {flag: ClassLabel(names=["No", "Yes"]) for flag in FLAGS} | {"filename": Value("string"), "image": Image()}
    )
    for name, split_rows in (
        ("train_quality_part_0-00000-of-00001", rows(22, known=False)),
        ("validation-00000-of-00001", rows(4)),
        ("test-00000-of-00001", rows(10)),
    ):
        Dataset.from_list(split_rows, features=features).to_parquet(folder / f"data/{name}.parquet")
    return folder
