"""Front-ends from the command line: trained by train.py to the page, looked through by perceive.py."""

import json
import re
from itertools import count

import imageio.v3 as imageio
import numpy as np
import pytest
from omegaconf import OmegaConf

from envs.rollout import write_video
from envs.scenes import open_labelled_images
from tinyvla.frontends import load_frontend
from tinyvla.frontends.wake import Wake
from tinyvla.training import read_metrics

SMALL = [
    *("task=perception/wake", "task.image_size=48", "task.width=0.25", "preset=cpu", "logger=none", "workers=1"),
    *("task.scenes.image_size=48", "task.scenes.train=32", "task.scenes.validation=32", "task.scenes.test=32"),
    *("trainer.steps=4", "trainer.batch_size=8", "trainer.validate_every=2", "trainer.log_every=1"),
    *("trainer.num_threads=1", "trainer.bf16=false"),
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def image_path(data_dir):
    path = data_dir / "room.png"
    imageio.imwrite(
        path, np.asarray(open_labelled_images("room", "test", 1, 48, data_dir=data_dir, workers=1).images[0])
    )
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.slow
def test_a_frontend_is_trained_to_the_page_and_looks_at_images(
    command, data_dir, runs, image_path, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run_dir = runs / "wake"
    code, out, err = command("train", *SMALL, f"data_dir={data_dir}", f"run_dir={run_dir}")
    assert code == 0, err
    assert out.splitlines()[0].startswith("wake: area under the ROC curve")
    assert out.splitlines()[-1] == str(run_dir / "report.html")
    result = json.loads((run_dir / "eval.json").read_text())
    assert result["score"] == result["figures"]["area under the ROC curve"]["value"]
    assert all(figure["n"] > 0 for figure in result["figures"].values())
    records = read_metrics(run_dir / "metrics.jsonl")
    assert [record["step"] for record in records if "train/loss" in record] == [1, 2, 3, 4]
    assert [record["step"] for record in records if "validation/score" in record] == [2, 4]
    page = (run_dir / "report.html").read_text()
    assert "data:image/png" in page
    assert 'data-curve="Validation score"' in page
    assert re.findall(r"<(?:script|link|img|video|source|iframe|use|image)\b[^>]*(?:src|href)=.?https?:", page) == []

    # Resumed it has nothing left to learn, and says the same again.
    assert command("train", f"run_dir={run_dir}", "resume=true")[0] == 0
    again = json.loads((run_dir / "eval.json").read_text())
    assert again == result
    assert OmegaConf.load(run_dir / "config.yaml").task.name == "wake"

    look = ["frontend=wake", f"frontend.wake.checkpoint={run_dir}"]
    assert command("perceive", *look, f"source={image_path}", "output=seen.png")[0] == 0
    (record,) = json.loads((tmp_path / "seen.json").read_text())
    assert record["probability"] == round(load_frontend(run_dir).probability(imageio.imread(image_path)), 4)
    drawn, plain = imageio.imread(tmp_path / "seen.png"), imageio.imread(image_path)
    assert (drawn[4:-4, 4:-4] == plain[4:-4, 4:-4]).all()
    assert (drawn != plain).any()

    film = np.stack([plain] * 5)
    write_video(tmp_path / "film.mp4", list(film))
    assert command("perceive", *look, "source=film.mp4", "frames=3", "output=seen.mp4")[0] == 0
    assert len(json.loads((tmp_path / "seen.json").read_text())) == 3
    assert len(imageio.imread(tmp_path / "seen.mp4")) == 3
    code, _, err = command("perceive", *look, "source=film.mp4", "frames=0", "output=none.mp4")
    assert code == 2
    assert "film.mp4 has shown no image" in err

    find, calls = Wake.find, count()

    def stopped(*args, **kwargs):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return find(*args, **kwargs)

    monkeypatch.setattr(Wake, "find", stopped)
    assert command("perceive", *look, "source=film.mp4", "output=cut.mp4")[0] == 0
    assert len(json.loads((tmp_path / "cut.json").read_text())) == len(imageio.imread(tmp_path / "cut.mp4")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("source=a.png",), "give one front-end"),
        (("frontend=wake", "source=a.png"), "frontend.wake.checkpoint is not given"),
        (("frontend=weke", "source=a.png"), "did you mean wake"),
        (("frontend=wake", "frontend.wake.checkpoint=nowhere", "source=a.png"), "no front-end at nowhere"),
    ],
)
def test_perceive_refuses_in_one_line(command, arguments, message):
    code, _, err = command("perceive", *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_an_unknown_task_is_one_line(command):
    code, _, err = command("train", "task=perception/tinysan")
    assert code == 2
    assert "did you mean perception/tinysam" in err
