"""Benchmark of TinyCLIP: controls see the samples of teacher and student, and samples are counted in all."""

import pytest
from clips import tiny_clip

from benchmarks.frontends import tinyclip
from benchmarks.frontends.tinyclip import ROWS, STUDENT, TEACHER, Settings, make_rows, train_row


@pytest.fixture
def trained(monkeypatch):
    """Options of the trainings that a row asks for."""
    options = []

    def train_model(settings, training, run_dir, threads):
        options.append(training)
        return [[training["trainer"]["steps"] * settings.batch_size, 0.5]]

    monkeypatch.setattr(tinyclip, "train_model", train_model)
    monkeypatch.setattr(tinyclip, "measure", lambda settings, run_dir: {"parameters": 10, "galleries": [[0.5, 0.5]]})
    monkeypatch.setattr(tinyclip, "keep_share", lambda teacher: 0.4)
    monkeypatch.setattr(tinyclip.TinyCLIP, "from_pretrained", lambda folder: tiny_clip())
    return options


@pytest.mark.parametrize(("name", "shape"), [("teacher-longer", TEACHER), ("scratch-longer", STUDENT)])
def test_controls_are_trained_from_scratch_for_as_long_as_teacher_and_student(trained, name, shape):
    settings = Settings(teacher_steps=30, steps=10, batch_size=4)
    assert train_row(settings, name)["curve"][-1][0] == (30 + 10) * 4
    (options,) = trained
    assert (options["inherit"], options["affinity"]) == ("none", 0.0)
    assert options["vision"].items() >= shape["vision"].items()


def test_the_table_counts_the_teachers_samples_of_the_students_that_use_it(trained):
    settings = Settings(teacher_steps=30, steps=10, batch_size=4)
    results = {name: train_row(settings, name) for name in ["teacher", *ROWS]}
    samples = {row["name"]: row["samples_in_all"] for row in make_rows(results)}
    assert samples["teacher"] == "120"
    assert samples["scratch"] == "40"
    assert {samples[name] for name in ROWS if name != "scratch"} == {"160"}
    assert "kept_of_longer" in make_rows(results)[-1]
