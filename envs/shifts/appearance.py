"""Shifts of appearance: colours, textures, light and camera poses. None of them changes the physics.

Arguments of each: the edits of the model, its scene elements, the strength (see `Shift`), and a generator for the rest.
"""

import colorsys
from collections.abc import Iterable

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from ..contract import SceneElements
from .model_edits import ModelEdits, bodies_below

_SHARE = 0.3  # share of the other colour, per unit of strength
_LIGHT_GAIN, _LIGHT_TINT, _LIGHT_TURN = 0.2, 0.1, 20.0  # logarithm, share of a channel, degrees
_CAMERA_TURN, _CAMERA_DISTANCE = 5.0, 0.03  # degrees, logarithm


def object_colour(edits: ModelEdits, scene: SceneElements, strength: float, rng: np.random.Generator) -> None:
    """Change every colour of the task's objects; parts with the same colour keep a common one."""
    model = edits.model
    share = _share(strength)
    rgba = edits.array("geom_rgba")
    replacements: dict[tuple[float, ...], np.ndarray] = {}
    for geom in _geoms_below(model, scene.objects):
        current = _colour_of(model, geom)
        key = (*current, _texture_of(model, geom))
        if key not in replacements:
            replacements[key] = _other_colour(current, rng)
        # The colour of a geom takes precedence over its material's, and its texture stays.
        rgba[geom, :3] = (1 - share) * current + share * replacements[key]


def table_texture(edits: ModelEdits, scene: SceneElements, strength: float, rng: np.random.Generator) -> None:
    """Mix another pattern into the table's texture."""
    _repaint(edits, scene.table, _share(strength), rng)


def background(edits: ModelEdits, scene: SceneElements, strength: float, rng: np.random.Generator) -> None:
    """Mix other patterns into floor and walls, and into the sky, which only render=faithful draws."""
    _repaint(edits, scene.background, _share(strength), rng)
    for texture in np.flatnonzero(edits.model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX):
        pixels = edits.texture(int(texture))
        pixels[...] = _mix(pixels, 255 * _random_colour(rng), _share(strength))


def lighting(edits: ModelEdits, scene: SceneElements, strength: float, rng: np.random.Generator) -> None:
    """Make all lights brighter or darker, tint them, and turn them about the centre of the table."""
    gain = np.exp(rng.choice([-1, 1]) * _LIGHT_GAIN * strength)
    tint = 1 + _LIGHT_TINT * strength * rng.uniform(-1, 1, 3)
    turn = Rotation.from_rotvec([0, 0, rng.choice([-1, 1]) * np.radians(_LIGHT_TURN) * strength])
    for light in ("light_", "vis.headlight."):
        for kind in ("ambient", "diffuse", "specular"):
            colour = edits.array(light + kind)
            colour[...] = colour * gain * tint
    if edits.model.nlight:
        edits.array("light_dir")[...] = turn.apply(edits.model.light_dir)
        edits.array("light_pos")[...] = turn.apply(edits.model.light_pos - scene.centre) + scene.centre


def camera_pose(edits: ModelEdits, scene: SceneElements, strength: float, rng: np.random.Generator) -> None:
    """Turn every camera about the centre of the table, by 5 degrees per unit of strength, and change its distance.

    A camera on the robot is turned about its own position, by half of that.
    """
    model = edits.model
    position, orientation, tracking = (edits.array(name) for name in ("cam_pos", "cam_quat", "cam_mat0"))
    for camera in range(model.ncam):
        axis = rng.normal(size=3)
        angle = np.radians(_CAMERA_TURN) * strength
        distance = np.exp(rng.choice([-1, 1]) * _CAMERA_DISTANCE * strength)
        turn = Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle)
        current = Rotation.from_quat(orientation[camera], scalar_first=True)
        if model.cam_bodyid[camera] == 0:
            position[camera] = scene.centre + turn.apply(position[camera] - scene.centre) * distance
            turned = turn * current
        else:
            turned = current * turn**0.5
            # MuJoCo uses this field for cameras that follow a body and keep their direction.
            tracking[camera] = (Rotation.from_matrix(tracking[camera].reshape(3, 3)) * turn**0.5).as_matrix().ravel()
        orientation[camera] = turned.as_quat(scalar_first=True)


def _share(strength: float) -> float:
    return min(0.95, _SHARE * strength)


def _mix(current: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    return (1 - share) * current + share * other


def _geoms_below(model: mujoco.MjModel, roots: Iterable[int]) -> list[int]:
    bodies = set(bodies_below(model, roots))
    return [geom for geom in range(model.ngeom) if int(model.geom_bodyid[geom]) in bodies]


def _texture_of(model: mujoco.MjModel, geom: int) -> int:
    """Id of the geom's colour texture, -1 for none."""
    material = model.geom_matid[geom]
    return -1 if material < 0 else int(model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB])


def _colour_of(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """Colour of a geom, (3,): its own, or its material's where its own is the default."""
    material, current = model.geom_matid[geom], model.geom_rgba[geom]
    from_material = material >= 0 and np.array_equal(current, np.array([0.5, 0.5, 0.5, 1], np.float32))
    return np.array((model.mat_rgba[material] if from_material else current)[:3], dtype=float)


def _random_colour(rng: np.random.Generator) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(0.4, 1)))


def _other_colour(current: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Saturated colour of another hue."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*current)
    turn = rng.uniform(0.25, 0.75)
    return np.array(colorsys.hsv_to_rgb((hue + turn) % 1 if saturation > 0.1 else rng.random(), 0.9, 1.0))


def _repaint(edits: ModelEdits, geoms: Iterable[int], share: float, rng: np.random.Generator) -> None:
    """Mix patterns into the textures of geoms, and colours into geoms without a texture or with a shared one."""
    model, geoms = edits.model, list(geoms)
    used = {geom: _texture_of(model, geom) for geom in range(model.ngeom)}
    shared = {texture for geom, texture in used.items() if geom not in geoms}
    for texture in sorted({used[geom] for geom in geoms} - shared - {-1}):
        pixels = edits.texture(texture)
        side = pixels.shape[1]
        other = _pattern(min(side, pixels.shape[0]), side, rng)
        faces = -(-pixels.shape[0] // other.shape[0])  # a cube's six lie below each other
        pixels[..., :3] = _mix(pixels[..., :3], np.tile(other, (faces, 1, 1))[: pixels.shape[0]], share)
    plain, rgba = _random_colour(rng), None
    for geom in geoms:
        if used[geom] == -1 or used[geom] in shared:
            rgba = edits.array("geom_rgba") if rgba is None else rgba
            rgba[geom, :3] = _mix(_colour_of(model, geom), plain, share)


def _pattern(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Two colours in stripes, checks, dots or clouds, float (height, width, 3) up to 255."""
    rows, columns = np.mgrid[:height, :width] / width
    waves = rng.integers(3, 8)
    kind = rng.choice(["stripes", "checks", "dots", "clouds"])
    across, along = np.sin(2 * np.pi * waves * columns), np.sin(2 * np.pi * waves * rows)
    if kind == "stripes":
        share = across > 0
    elif kind == "checks":
        share = across * along > 0
    elif kind == "dots":
        share = across * along > 0.5
    else:
        phases = rng.uniform(0, 2 * np.pi, (4, 2))
        turns = rng.integers(1, 6, (4, 2))
        sums = [
            np.sin(2 * np.pi * (turn[0] * columns + turn[1] * rows) + phase[0]) * np.sin(2 * np.pi * columns + phase[1])
            for turn, phase in zip(turns, phases, strict=True)
        ]
        share = 0.5 + np.sum(sums, axis=0) / 8
    first, second = 255 * _random_colour(rng), 255 * _random_colour(rng)
    return np.asarray(share, dtype=float)[..., None] * (first - second) + second
