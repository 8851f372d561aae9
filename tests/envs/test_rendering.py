"""Choosing a GL backend, and giving its contexts back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from envs import rendering
from tinyvla.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def machine(monkeypatch):
    """Pretend that only certain backends work here, and that the user has set MUJOCO_GL or not."""
    monkeypatch.setattr(sys, "platform", "linux")

    def pretend(works, forced=None, checked=None):
        probed = []
        monkeypatch.setattr(rendering, "_works", lambda backend: probed.append(backend) or backend in works)
        for name, value in (("MUJOCO_GL", forced), (rendering._CHECKED, checked)):
            if value:
                monkeypatch.setenv(name, value)
            else:
                # setenv first, so that what select_gl_backend sets is undone after the test.
                monkeypatch.setenv(name, "")
                monkeypatch.delenv(name)
        return probed

    return pretend


@pytest.mark.parametrize(("works", "choice"), [({"egl", "osmesa"}, "egl"), ({"osmesa"}, "osmesa")])
def test_egl_is_chosen_and_then_osmesa(machine, works, choice):
    machine(works)
    assert rendering.select_gl_backend() == choice == os.environ["MUJOCO_GL"]


def test_no_gl_is_one_error_that_names_the_packages(machine):
    machine(set())
    with pytest.raises(UserError, match=r"install one: .*libegl-dev.*libosmesa6") as error:
        rendering.select_gl_backend()
    assert "\n" not in str(error.value)
    assert "MUJOCO_GL" not in os.environ


def test_mujoco_gl_is_respected(machine):
    machine({"egl", "osmesa"}, forced="osmesa")
    assert rendering.select_gl_backend() == "osmesa"


def test_a_forced_backend_that_does_not_work_is_not_replaced(machine):
    machine({"egl"}, forced="osmesa")
    with pytest.raises(UserError, match=r"MUJOCO_GL=osmesa does not work here; unset it.*libosmesa6"):
        rendering.select_gl_backend()


def test_worker_processes_take_the_choice_over_unchecked(machine):
    probed = machine(set(), forced="egl", checked="egl")
    assert rendering.select_gl_backend() == "egl"
    assert probed == []


def test_elsewhere_mujoco_chooses_by_itself(machine, monkeypatch):
    probed = machine(set())
    monkeypatch.setattr(sys, "platform", "darwin")
    assert rendering.select_gl_backend() == ""
    assert probed == []


def run(code, **environment):
    """Run Python code in a process with no choice inherited from this one."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", rendering._CHECKED)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=inherited | environment, capture_output=True, text=True)


def test_a_driver_that_does_not_work_is_found_out(tmp_path):
    """With no vendor's library to turn to, EGL is installed and fails all the same."""
    code = "from envs.rendering import _works; print(_works('egl'))"
    assert run(code, MUJOCO_GL="egl", TINYVLA_GL_CHECKED="egl").stdout == "True\n"
    broken = run(code, MUJOCO_GL="egl", TINYVLA_GL_CHECKED="egl", __EGL_VENDOR_LIBRARY_DIRS=str(tmp_path))
    assert broken.stdout == "False\n"


def test_an_entry_point_without_gl_ends_in_one_line(tmp_path):
    command = [sys.executable, "collect.py", "env.tasks=[reach-v3]", "episodes=1", f"data_dir={tmp_path / 'data'}"]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"MUJOCO_GL": "nonsense"}, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "MUJOCO_GL=nonsense does not work here" in result.stderr
    assert not any((tmp_path / "data").glob("[!.]*"))


def test_mujoco_may_have_been_imported_before():
    code = """
import mujoco
from envs.rendering import CameraRenderer
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><camera name='eye' pos='0 0 3'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
print(CameraRenderer(model, 16).draw(data, "eye").shape)
"""
    result = run(code)
    assert result.stdout == "(16, 16, 3)\n", result.stderr


WORKER = """
import sys, weakref
from envs import decode_env, make_env
from envs.workers import worker_pool

kept = []

class Anything:
    pass

def work():
    kept.append(Anything())
    weakref.finalize(kept[0], print, "finalized", file=sys.stderr)  # as torch and others do, before there is a context
    for task in ("reach-v3", "push-v3"):
        settings = {"cameras": ["topview"], "image_size": 16, "render": "fast", "max_steps": 5}
        kept.append(make_env(decode_env({"name": "metaworld"} | settings), task))
        kept[-1].reset(seed=0)

if __name__ == "__main__":
    with worker_pool(1) as pool:
        pool.submit(work).result()
    work()
"""


def test_processes_that_end_with_open_environments_are_silent(tmp_path):
    """GL contexts are freed before MuJoCo's exit handler ends EGL, in workers and in the main process."""
    script = tmp_path / "script.py"
    script.write_text(WORKER)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "finalized\nfinalized\n")


SURVEYED = """
<mujoco><statistic extent="1"/><worldbody>
<camera name="eye" pos="0 0 3" fovy="60"/>
<geom name="floor" type="box" size="9 9 .1" pos="0 0 -.1"/>
<geom name="ball" type="sphere" size=".5" pos="0 0 .5"/>
<geom name="unseen" type="box" size=".2 .2 .1" pos="0 0 1.5" group="4"/>
</worldbody></mujoco>
"""


def test_a_survey_tells_what_is_where_and_how_far():
    from envs.rendering import CameraRenderer, mujoco

    model = mujoco.MjModel.from_xml_string(SURVEYED)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = CameraRenderer(model, 32)
    survey = renderer.survey(data, "eye")
    assert survey.image.shape == (32, 32, 3)
    assert (survey.image == renderer.draw(data, "eye")).all()
    assert survey.geoms[16, 16] == model.geom("ball").id
    assert survey.geoms[0, 0] == model.geom("floor").id
    assert survey.depth[16, 16] == pytest.approx(2, abs=0.01)
    assert survey.depth[0, 0] == pytest.approx(3, abs=0.01)
    assert set(survey.geoms.ravel()) == {0, 1}
    assert (renderer.survey(data, "eye", [4]).geoms == -1).any()
    renderer.close()
