"""Generator of labelled images: a MuJoCo model that is compiled once, then rearranged for each image."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ..rendering import CameraRenderer, Survey, mujoco
from .splits import Split
from .textures import SIDE, draw_texture

SHOWN, HIDDEN = 0, 5  # groups of geoms
_CAMERA = "eye"


class LabelledImage(NamedTuple):
    """A labelled image, S pixels per side.

    arrays: by name, "images" uint8 (S, S, 3), "instances" uint8 (S, S) and, of tables, "depth" float16 (S, S), metres.
    label: see `open_labelled_images`.
    """

    arrays: dict[str, np.ndarray]
    label: dict[str, Any]


class ImageGenerator:
    """Base of table and room generators: a model, a camera, lights, and surfaces with changing textures.

    Args:
        spec: the model; a camera and a lamp are added.
        split: the split whose textures are used.
        image_size: side of an image in pixels.
    """

    def __init__(self, spec: mujoco.MjSpec, split: Split, image_size: int):
        spec.stat.extent = 1.0
        spec.visual.map.znear, spec.visual.map.zfar = 0.02, 40.0
        spec.visual.quality.numslices, spec.visual.quality.numstacks = (
            18,
            10,
        )  # of round shapes: halves the rendering time
        spec.worldbody.add_camera(name=_CAMERA, pos=[0, 0, 1])
        spec.worldbody.add_light(name="lamp", pos=[0, 0, 3], castshadow=False)
        self.split, self.image_size = split, image_size
        self.model = spec.compile()
        self.model.geom_sameframe[:] = 0  # else geoms would stay at the positions of their bodies when they are moved
        self.data = mujoco.MjData(self.model)
        self.renderer = CameraRenderer(self.model, image_size)
        self.close = self.renderer.close

    def geoms_of(self, body: str) -> np.ndarray:
        """Ids of a body's geoms."""
        return np.flatnonzero(self.model.geom_bodyid == self.model.body(body).id)

    def show(self, geoms: Iterable[int], shown: bool = True) -> None:
        """Show geoms, or hide them."""
        self.model.geom_group[list(geoms)] = SHOWN if shown else HIDDEN

    def aim(self, position: np.ndarray, target: np.ndarray, fovy: float) -> np.ndarray:
        """Put the camera at a position, looking at a target. fovy: vertical field of view in degrees.

        Returns the directions right, up and backward of the camera as the columns of a matrix (3, 3).
        """
        backward = (position - target) / np.linalg.norm(position - target)
        right = np.cross([0, 0, 1], backward)
        right /= np.linalg.norm(right)
        axes = np.column_stack([right, np.cross(backward, right), backward])
        camera = self.model.camera(_CAMERA)
        camera.pos, camera.fovy = position, fovy
        mujoco.mju_mat2Quat(camera.quat, axes.ravel())
        return axes

    def light(self, ambient: float, lamp: float, position: np.ndarray, target: np.ndarray, tint: np.ndarray) -> None:
        """Set ambient light and a lamp that shines at a target. tint: (3,), near 1."""
        model = self.model
        model.vis.headlight.ambient[:], model.vis.headlight.diffuse[:] = ambient * tint, 0.3 * ambient * tint
        model.vis.headlight.specular[:] = 0
        model.light("lamp").pos, model.light("lamp").diffuse = position, lamp * tint
        model.light("lamp").dir = (target - position) / np.linalg.norm(target - position)
        model.light("lamp").specular, model.light("lamp").cutoff = 0.2 * lamp * tint, 90
        model.light("lamp").exponent = 1

    def paint(self, surface: str, pixels: np.ndarray, repeat: float = 1.0) -> None:
        """Set the texture of a surface, uint8 (128, 128, 3)."""
        model = self.model
        texture = model.texture(surface).id
        start, faces = model.tex_adr[texture], model.tex_height[texture] // SIDE
        model.tex_data[start : start + faces * pixels.size] = np.tile(pixels.ravel(), faces)
        model.material(surface).texrepeat = repeat
        self.renderer.upload([texture], [])

    def decorate(self, surface: str, rng: np.random.Generator, tones: np.ndarray, repeat: float = 1.0) -> str:
        """Set one of the split's textures on a surface; returns the word for it. tones: (2, 3), not of photographs."""
        texture = draw_texture(self.split, rng)
        self.paint(surface, texture.painted(*tones), repeat)
        return texture.word

    def generate(self, rng: np.random.Generator) -> LabelledImage:
        """Generate an image: a pure function of the state of `rng`."""
        raise NotImplementedError

    def survey(self, groups: Iterable[int] = (SHOWN,)) -> Survey:
        """Image, depth and geoms of the current camera view. groups: groups of geoms that are drawn."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        return self.renderer.survey(self.data, _CAMERA, groups)


def add_surface(spec: mujoco.MjSpec, name: str, cube: bool = False, emission: float = 0.0) -> None:
    """Add a material with its own texture. cube: the same texture on six sides, for shapes that are not flat."""
    kind = mujoco.mjtTexture.mjTEXTURE_CUBE if cube else mujoco.mjtTexture.mjTEXTURE_2D
    flat, height = mujoco.mjtBuiltin.mjBUILTIN_FLAT, 6 * SIDE if cube else SIDE
    spec.add_texture(name=name, type=kind, builtin=flat, width=SIDE, height=height, nchannel=3)
    material = spec.add_material(name=name, specular=0.1, emission=emission)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


def add_geom(body: Any, kind: int, **settings: Any) -> Any:
    """Add a hidden geom without collisions."""
    return body.add_geom(type=kind, contype=0, conaffinity=0, group=HIDDEN, **settings)


def box_of(mask: np.ndarray) -> list[int]:
    """Half-open pixel box [x0, y0, x1, y1] around a mask (S, S) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
