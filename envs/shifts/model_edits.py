"""Changes to a MuJoCo model that can be undone."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import numpy as np


def bodies_below(model: Any, roots: Iterable[int]) -> list[int]:
    """Ids of some bodies and of all bodies below them in the kinematic tree."""
    bodies = set(roots)
    for body in range(1, model.nbody):  # parents come before their children
        if model.body_parentid[body] in bodies:
            bodies.add(body)
    return sorted(bodies)


class ModelEdits:
    """Changes to a MuJoCo model, made through the arrays that the methods return, and undone exactly by `undo`.

    Args:
        model: the MuJoCo model.
        renderers: the `envs.rendering.CameraRenderers` that draw it; None: textures and meshes cannot change.
    """

    def __init__(self, model: Any, renderers: Any):
        self.model, self._renderers = model, renderers
        self._originals: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
        self._textures: set[int] = set()
        self._meshes: set[int] = set()

    def array(self, field: str) -> np.ndarray:
        """A field of the model to write to, such as geom_rgba or vis.headlight.diffuse."""
        return self._remember(field, attrgetter(field)(self.model))

    def texture(self, number: int) -> np.ndarray:
        """Pixels of a texture to write to, uint8 (H, W, C)."""
        model = self.model
        shape = model.tex_height[number], model.tex_width[number], model.tex_nchannel[number]
        start = model.tex_adr[number]
        self._textures.add(number)
        pixels = self._remember(("texture", number), model.tex_data[start : start + np.prod(shape)])
        return pixels.reshape(shape)

    def vertices(self, mesh: int) -> np.ndarray:
        """Vertices of a mesh to write to, float32 (V, 3), in metres."""
        start, count = self.model.mesh_vertadr[mesh], self.model.mesh_vertnum[mesh]
        self._meshes.add(mesh)
        return self._remember(("mesh", mesh), self.model.mesh_vert[start : start + count])

    def show(self) -> None:
        """Upload changed textures and meshes before the next image is drawn."""
        if self._renderers is not None:
            self._renderers.note_changes(self._textures, self._meshes)

    def undo(self) -> None:
        """Restore the values that the model had before its first change."""
        for array, values in self._originals.values():
            array[...] = values
        self.show()
        self._originals.clear()
        self._textures.clear()
        self._meshes.clear()

    def _remember(self, name: Any, array: np.ndarray) -> np.ndarray:
        if name not in self._originals:
            self._originals[name] = (array, array.copy())
        return self._originals[name][0]
