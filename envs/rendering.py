"""Headless MuJoCo rendering: chooses a GL backend, and draws camera pictures fast.

Import this module before `mujoco`, which binds to the backend named by MUJOCO_GL when it is imported.
"""

import ctypes.util
import os
import subprocess
import sys
import weakref

from tinyvla.errors import UserError


def _works(backend: str) -> bool:
    """Whether MuJoCo can make a GL context with a backend. Asked of a process of its own: drivers may abort."""
    library = {"egl": "EGL", "osmesa": "OSMesa"}[backend]
    if ctypes.util.find_library(library) is None:
        return False
    probe = f"from mujoco.{backend} import GLContext; GLContext(8, 8).make_current()"
    environment = os.environ | {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    return subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True).returncode == 0


def select_gl_backend() -> str:
    """Set MUJOCO_GL to EGL, or OSMesa where EGL does not work, unless the user has set it; returns the choice.

    The choice is inherited by worker processes. Raises UserError when neither works.
    """
    if not (chosen := os.environ.get("MUJOCO_GL")):
        chosen = next((backend for backend in ("egl", "osmesa") if _works(backend)), None)
        if chosen is None:
            raise UserError(
                "no headless OpenGL works here (tried EGL and OSMesa); "
                "install one: apt-get install libegl1 libgl1-mesa-dri, or: apt-get install libosmesa6"
            )
        os.environ["MUJOCO_GL"] = chosen
    return chosen


select_gl_backend()

import mujoco  # noqa: E402
import numpy as np  # noqa: E402

# What fast rendering leaves out: together they are nine tenths of a stock frame's time and show no object.
_DECORATION = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SKYBOX)


class CameraRenderer:
    """Draws named cameras of one MuJoCo model as square RGB pictures. `close()` frees its GL context.

    Args:
        model: the MuJoCo model; with `fast` its shadow and multisampling quality is set to zero.
        size: side of a picture in pixels.
        fast: leave out shadows, reflections, skybox and multisampling. False keeps the stock look.
    """

    def __init__(self, model: mujoco.MjModel, size: int, fast: bool = True):
        if fast:
            model.vis.quality.shadowsize = 0
            model.vis.quality.offsamples = 0
        self._renderer = mujoco.Renderer(model, size, size)
        # A GL context must be freed while its library is still loaded: at exit, if nobody closes it before.
        self.close = weakref.finalize(self, self._renderer.close)
        if fast:
            for flag in _DECORATION:
                self._renderer.scene.flags[flag] = 0

    def draw(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """One picture, uint8 (size, size, 3)."""
        self._renderer.update_scene(data, camera)
        return self._renderer.render()
