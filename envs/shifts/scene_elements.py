"""What a shift has to know of an environment, and changes to its model that can be taken back."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np


class SceneElements(NamedTuple):
    """What is what in an environment's MuJoCo model.

    objects: bodies that are the task's objects, with whatever hangs on them. table, background: geoms of the table, and
    of floor and walls. surface: x and y of two corners and z of the part of the table that cameras see, in metres.
    state_noise: (S,), what is a slight error of each number of the proprioceptive state.
    """

    objects: tuple[int, ...]
    table: tuple[int, ...]
    background: tuple[int, ...]
    surface: tuple[float, float, float, float, float]
    state_noise: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """The surface's middle, (3,)."""
        x0, y0, x1, y1, z = self.surface
        return np.array([(x0 + x1) / 2, (y0 + y1) / 2, z])


def bodies_below(model: Any, roots: Iterable[int]) -> list[int]:
    """Bodies and all that hang on them."""
    found = set(roots)
    for body in range(1, model.nbody):  # parents come before their children
        if model.body_parentid[body] in found:
            found.add(body)
    return sorted(found)


class ModelEdits:
    """Changes to a MuJoCo model, made through the arrays that this hands out, and taken back exactly by `undo`.

    Args:
        model: the MuJoCo model.
        renderers: the `envs.rendering.CameraRenderers` that draw it.
    """

    def __init__(self, model: Any, renderers: Any):
        self.model, self._renderers = model, renderers
        self._kept: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
        self._textures: set[int] = set()
        self._meshes: set[int] = set()

    def array(self, field: str) -> np.ndarray:
        """A field of the model to write to, such as geom_rgba or vis.headlight.diffuse."""
        return self._keep(field, attrgetter(field)(self.model))

    def texture(self, number: int) -> np.ndarray:
        """A texture's pixels to write to, uint8 (H, W, C)."""
        model = self.model
        shape = model.tex_height[number], model.tex_width[number], model.tex_nchannel[number]
        start = model.tex_adr[number]
        self._textures.add(number)
        pixels = self._keep(("texture", number), model.tex_data[start : start + np.prod(shape)])
        return pixels.reshape(shape)

    def vertices(self, mesh: int) -> np.ndarray:
        """A mesh's vertices to write to, float32 (V, 3), in metres."""
        start, count = self.model.mesh_vertadr[mesh], self.model.mesh_vertnum[mesh]
        self._meshes.add(mesh)
        return self._keep(("mesh", mesh), self.model.mesh_vert[start : start + count])

    def show(self) -> None:
        """Have the changes drawn from now on."""
        self._renderers.note_changes(self._textures, self._meshes)

    def undo(self) -> None:
        """Give the model every value back that it had before."""
        for array, values in self._kept.values():
            array[...] = values
        self.show()
        self._kept.clear()
        self._textures.clear()
        self._meshes.clear()

    def _keep(self, name: Any, array: np.ndarray) -> np.ndarray:
        if name not in self._kept:
            self._kept[name] = (array, array.copy())
        return self._kept[name][0]
