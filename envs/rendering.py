"""Headless MuJoCo rendering: selects a GL backend when imported, and draws camera images fast."""

import atexit
import importlib
import os
import subprocess
import sys
import weakref
from collections.abc import Iterable
from typing import NamedTuple

from tinyvla.errors import UserError

_PACKAGES = {"egl": "libegl-dev", "osmesa": "libosmesa6"}  # packages of Debian and Ubuntu
_CHECKED = "TINYVLA_GL_CHECKED"  # environment variable: worker processes skip the check


def _works(backend: str) -> bool:
    """True if MuJoCo can draw with a backend. Tested in a separate process, since drivers may abort."""
    probe = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8)"
    environment = os.environ | {"MUJOCO_GL": backend}
    return subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True).returncode == 0


def select_gl_backend() -> str:
    """Set MUJOCO_GL to EGL, or to OSMesa where EGL does not work, unless the user has set it; returns the backend.

    Worker processes inherit it. Raises UserError if no backend works, or the user's does not.
    """
    forced = os.environ.get("MUJOCO_GL", "")
    if sys.platform != "linux" or (forced and os.environ.get(_CHECKED) == forced):
        return forced  # MuJoCo's default on other systems needs no display
    chosen = next((backend for backend in ([forced] if forced else _PACKAGES) if _works(backend)), None)
    if chosen is None and forced:
        package = f"; or install it: sudo apt install {_PACKAGES[forced]}" if forced in _PACKAGES else ""
        raise UserError(f"MUJOCO_GL={forced} does not work here; unset it to let one be chosen{package}")
    if chosen is None:
        raise UserError(
            f"no headless OpenGL works here (tried EGL and OSMesa); install one: sudo apt install {_PACKAGES['egl']}, "
            f"or: sudo apt install {_PACKAGES['osmesa']}"
        )
    os.environ.update({"MUJOCO_GL": chosen, _CHECKED: chosen})
    return chosen


_imported_before = "mujoco" in sys.modules
select_gl_backend()

import mujoco  # noqa: E402
import numpy as np  # noqa: E402

if _imported_before:  # MuJoCo reads MUJOCO_GL when it is imported; reload the module that does
    importlib.reload(mujoco.gl_context)

# Effects that fast rendering leaves out: they take 90% of a default frame's time and show no object.
_DECORATION = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SKYBOX)


class Prop(NamedTuple):
    """A shape that is drawn with the model but has no physics: nothing collides with it.

    kind: a primitive of mujoco.mjtGeom. size: (3,), as of a geom of that kind. position: (3,), in metres. rgba: (4,),
    in [0, 1].
    """

    kind: int
    size: np.ndarray
    position: np.ndarray
    rgba: np.ndarray


ImageSize = int | tuple[int, int]  # side of a square image, or height and width, in pixels


class Survey(NamedTuple):
    """Image, depth and segmentation of one camera view.

    image: uint8 (H, W, 3). depth: float32 (H, W), metres along the camera's axis. geoms: int32 (H, W), id of the
    visible geom, -1 for none.
    """

    image: np.ndarray
    depth: np.ndarray
    geoms: np.ndarray


class CameraRenderer:
    """Renderer of the named cameras of one MuJoCo model, for RGB images. `close()` frees its GL context.

    Args:
        model: the MuJoCo model; with `fast` its shadow and multisampling quality is set to zero.
        size: side of a square image in pixels, or height and width.
        fast: leave out shadows, reflections, skybox and multisampling. False: the default look.
    """

    def __init__(self, model: mujoco.MjModel, size: ImageSize, fast: bool = True):
        height, width = (size, size) if isinstance(size, int) else size
        if fast:
            model.vis.quality.shadowsize = 0
            model.vis.quality.offsamples = 0
        model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(height, model.vis.global_.offheight)
        self._renderer = mujoco.Renderer(model, height, width)
        # Called once: by the owner, by garbage collection, or at exit.
        self.close = weakref.finalize(self, self._renderer.close)
        # Exit handlers run last in, first out. MuJoCo's handler, which ends EGL, was registered by the renderer above,
        # and the handler of `finalize` may be older than that and would run too late.
        atexit.register(self.close)
        if fast:
            for flag in _DECORATION:
                self._renderer.scene.flags[flag] = 0

    def draw(self, data: mujoco.MjData, camera: str, props: Iterable[Prop] = ()) -> np.ndarray:
        """One image, uint8 (height, width, 3)."""
        self._renderer.update_scene(data, camera)
        scene = self._renderer.scene
        for prop in props:
            upright = np.eye(3).ravel()
            mujoco.mjv_initGeom(
                scene.geoms[scene.ngeom], prop.kind, prop.size, prop.position, upright, prop.rgba.astype(np.float32)
            )
            scene.ngeom += 1
        return self._renderer.render()

    def survey(self, data: mujoco.MjData, camera: str, groups: Iterable[int] = (0, 1, 2)) -> Survey:
        """Image, depth and segmentation of the geoms in some groups. Two passes: depth comes with the segmentation."""
        renderer, scene, option = self._renderer, self._renderer.scene, mujoco.MjvOption()
        option.geomgroup[:] = 0
        option.geomgroup[list(groups)] = 1
        renderer.update_scene(data, camera, option)
        sides = renderer.height, renderer.width
        image, ids = np.empty((2, *sides, 3), np.uint8)
        depth = np.empty(sides, np.float32)
        image[...] = renderer.render()
        scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        mujoco.mjr_render(renderer._rect, scene, renderer._mjr_context)
        mujoco.mjr_readPixels(ids, depth, renderer._rect, renderer._mjr_context)
        scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 0
        model = renderer.model
        near, far = (model.stat.extent * clip for clip in (model.vis.map.znear, model.vis.map.zfar))
        metres = near * far / (near + depth * (far - near))  # the buffer is 1 at the near plane and 0 at the far one
        geom_ids = np.full(scene.ngeom + 1, -1, np.int32)  # by the number in the image; 0: none
        for geom in scene.geoms[: scene.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                geom_ids[geom.segid + 1] = geom.objid
        numbers = ids[..., 0] + 256 * ids[..., 1].astype(np.int32)
        return Survey(image, metres[::-1], geom_ids[numbers[::-1]])

    def upload(self, textures: Iterable[int], meshes: Iterable[int]) -> None:
        """Upload textures and meshes, by their ids, that have changed in the model since it was last drawn."""
        renderer = self._renderer
        if renderer._gl_context:
            renderer._gl_context.make_current()
        for texture in textures:
            mujoco.mjr_uploadTexture(renderer.model, renderer._mjr_context, texture)
        for mesh in meshes:
            mujoco.mjr_uploadMesh(renderer.model, renderer._mjr_context, mesh)


class CameraRenderers:
    """Renderers of a model, one per image size, created on first use: in the process that draws.

    props: shapes that are drawn with the model.

    Args:
        model, fast: as of `CameraRenderer`.
    """

    def __init__(self, model: mujoco.MjModel, fast: bool = True):
        self.props: list[Prop] = []
        self._model, self._fast = model, fast
        self._renderers: dict[ImageSize, CameraRenderer] = {}
        self._changed: dict[ImageSize, tuple[set[int], set[int]]] = {}  # outdated textures and meshes, by image size

    def draw(self, data: mujoco.MjData, camera: str, size: ImageSize) -> np.ndarray:
        """One image, uint8 (height, width, 3)."""
        if size not in self._renderers:
            self._renderers[size] = CameraRenderer(self._model, size, self._fast)
        elif size in self._changed:
            self._renderers[size].upload(*self._changed[size])
        self._changed.pop(size, None)
        return self._renderers[size].draw(data, camera, self.props)

    def note_changes(self, textures: Iterable[int], meshes: Iterable[int]) -> None:
        """Mark textures and meshes, by their ids, as changed since they were drawn last."""
        for size in self._renderers:
            changed = self._changed.setdefault(size, (set(), set()))
            changed[0].update(textures)
            changed[1].update(meshes)

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
