"""People: dm_control's CMU humanoid with several builds, skin tones and clothes, posed within its joint limits."""

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from ..rendering import mujoco
from .colours import any_colour
from .image_generator import HIDDEN, SHOWN, ImageGenerator, add_geom, add_surface
from .package_files import package_folder


class _Build(NamedTuple):
    """Factors of height, thickness of limbs and trunk, and size of the head; the humanoid (1.75 m) is 1."""

    height: float
    limbs: float
    trunk: float
    head: float


_BUILDS = {
    "slim": _Build(1.0, 0.88, 0.9, 0.95),
    "average": _Build(1.0, 1.1, 1.1, 1.0),
    "heavy": _Build(0.98, 1.35, 1.55, 1.05),
    "child": _Build(0.66, 1.1, 1.05, 1.3),
}
BUILDS = tuple(_BUILDS)

# The ten tones of the Monk Skin Tone scale, in three groups.
_SKIN = {
    "light": ("f6ede4", "f3e7db", "f7ead0", "eadaba"),
    "medium": ("d7bd96", "a07e56", "825c43"),
    "dark": ("604134", "3a312a", "292420"),
}
SKIN_TONES = tuple(_SKIN)
_HAIR = ("17120f", "2b1d14", "4a2f1c", "7a4f28", "b58a4f", "8a8a88", "9a3d1e")

# Degrees, for the left arm; the right arm mirrors them.
_ARMS = {  # humerus about z, y and x, then the elbow
    "down": (83, -4, -27, 15),
    "forward": (88, 2, 49, 15),
    "up": (-12, 38, 62, 25),
    "side": (7, -29, 2, 20),
    "akimbo": (88, -46, -55, 95),
    "half": (82, -18, 5, 70),
}
POSTURES = ("standing", "walking", "sitting", "reaching")
# Clothes and body parts by the names of their geoms, without the side.
_SHIRT = ("thorax", "upperback", "lowerback", "clavicle", "lowerneck", "chest", "belly", "humerus")
_TROUSERS = ("root_geom", "hips", "hipjoint", "femur")
_SLEEVES, _LEGS = ("radius", "wrist"), ("tibia", "calf")
_THIN = ("humerus", "radius", "wrist", "femur", "tibia", "calf", "hand", "hipjoint")  # as thick as limbs are


class Look(NamedTuple):
    """Labelled attributes of a person; all other attributes are drawn at random."""

    build: str
    skin_tone: str


def humanoid_spec() -> mujoco.MjSpec:
    """Spec of the humanoid with a fuller trunk, hair and a face, to which a room is added. Its body is "root"."""
    spec = mujoco.MjSpec.from_file(str(package_folder("dm_control") / "suite" / "humanoid_CMU.xml"))
    add_surface(spec, "shirt", cube=True)
    ball = mujoco.mjtGeom.mjGEOM_ELLIPSOID
    for body, name, size, place in (
        ("thorax", "chest", (0.15, 0.14, 0.095), (0, 0.03, 0)),
        ("lowerback", "belly", (0.125, 0.14, 0.09), (0, 0.07, 0.01)),
        ("root", "hips", (0.15, 0.11, 0.1), (0, -0.06, 0)),
        ("head", "hair", (0.093, 0.085, 0.097), (0, 0.155, 0.012)),
        ("head", "locks", (0.092, 0.14, 0.06), (0, 0.06, -0.04)),
        ("head", "nose", (0.013, 0.022, 0.018), (0, 0.085, 0.113)),
        ("head", "mouth", (0.026, 0.008, 0.01), (0, 0.045, 0.109)),
    ):
        add_geom(spec.body(body), ball, name=name, size=list(size), pos=list(place))
    spec.geom("leye").size = spec.geom("reye").size = [0.016, 0, 0]
    return spec


class Humanoid:
    """The humanoid in a generator's model; it can look like many people, one at a time.

    geoms: ids of its geoms.
    """

    def __init__(self, generator: ImageGenerator):
        self._generator, model = generator, generator.model
        first = model.body("root").id
        self._bodies = np.flatnonzero(model.body_rootid == first)
        self.geoms = np.flatnonzero(np.isin(model.geom_bodyid, self._bodies))
        self._parts = {int(geom): _part_of(model.geom(geom).name) for geom in self.geoms}
        self._size, self._place = model.geom_size.copy(), model.geom_pos.copy()
        self._offset = model.body_pos.copy()

    def wear(self, look: Look, rng: np.random.Generator, group: int = SHOWN) -> None:
        """Set build and skin tone, draw clothes and hair at random, and put the geoms into a group."""
        model = self._generator.model
        self._grow(_BUILDS[look.build], rng)
        tones = {"skin": _colour(str(rng.choice(_SKIN[look.skin_tone]))) * rng.uniform(0.93, 1.0)}
        tones |= {"shirt": any_colour(rng), "trousers": any_colour(rng, (0, 0.6), 0.08)}
        tones |= {"shoes": any_colour(rng, (0, 0.5), 0.05), "hair": _colour(str(rng.choice(_HAIR)))}
        tones |= {"eye": np.full(3, 0.05), "mouth": tones["skin"] * (0.65, 0.35, 0.35)}
        tones["sleeves"] = tones["shirt" if rng.random() < 0.55 else "skin"]
        tones["legs"] = tones["trousers" if rng.random() < 0.75 else "skin"]
        model.geom_matid[self.geoms] = -1
        for geom, part in self._parts.items():
            model.geom_rgba[geom] = (*tones[part if part in tones else _covered_by(part)], 1)
        if rng.random() < 0.4:
            self._generator.decorate("shirt", rng, np.stack([tones["shirt"], any_colour(rng)]))
            shirt = [geom for geom, part in self._parts.items() if part in _SHIRT]
            model.geom_matid[shirt], model.geom_rgba[shirt] = model.material("shirt").id, 1
        model.geom_group[self.geoms] = group
        style = rng.choice(["bald", "short", "long"], p=[0.12, 0.5, 0.38])
        for name in {"bald": ("hair", "locks"), "short": ("locks",), "long": ()}[str(style)]:
            model.geom(name).group = HIDDEN

    def hide(self) -> None:
        self._generator.show(self.geoms, False)

    def _grow(self, build: _Build, rng: np.random.Generator) -> None:
        model, vary = self._generator.model, rng.uniform(0.95, 1.05, 3)
        tall = build.height * vary[0]
        model.body_pos[self._bodies[1:]] = tall * self._offset[self._bodies[1:]]
        head = model.body("head").id
        for geom, part in self._parts.items():
            thick = build.limbs * vary[1] if part in _THIN else build.trunk * vary[2]
            size, place = tall * self._size[geom], tall * self._place[geom]
            if model.geom_bodyid[geom] == head:
                size, place = build.head * size, build.head * place
            elif model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_ELLIPSOID:
                size = size * (thick, 1, thick)
            else:
                size = size * (thick, 1, 1)
            model.geom_size[geom], model.geom_pos[geom] = size, place

    def pose(
        self,
        posture: str,
        place: np.ndarray,
        yaw: float,
        seat: float,
        rng: np.random.Generator,
        stride: float | None = None,
    ) -> None:
        """Stand, walk, sit or reach at a position on the floor, (2,) metres. yaw: radians from facing -y.

        seat: height of the seat in metres. stride: angle of the left leg ahead in walking, degrees.
        """
        model, data = self._generator.model, self._generator.data
        data.qpos[:] = model.qpos0
        for name, degrees in _angles(posture, rng, stride).items():
            joint = model.joint(name)
            data.qpos[joint.qposadr[0]] = np.clip(np.radians(degrees + rng.normal(0, 4)), *joint.range)
        turn = Rotation.from_euler("z", yaw) * Rotation.from_euler("x", np.pi / 2)
        data.qpos[:3], data.qpos[3:7] = (*place, 1), turn.as_quat(scalar_first=True)
        mujoco.mj_kinematics(model, data)
        if posture == "sitting":
            hips = model.geom("hips").id
            data.qpos[2] += seat + 0.8 * model.geom_size[hips, 1] - data.geom_xpos[hips, 2]
        else:
            soles = [geom for geom, part in self._parts.items() if part == "shoes"]
            data.qpos[2] -= min(data.geom_xpos[geom, 2] - model.geom_size[geom, 0] for geom in soles)
        mujoco.mj_kinematics(model, data)


def height_of(look: Look, posture: str) -> float:
    """Approximate height of a person in a posture, metres."""
    return 1.75 * _BUILDS[look.build].height * (0.76 if posture == "sitting" else 1.0)


def _part_of(name: str) -> str:
    if name in ("hair", "locks"):
        return "hair"
    part = name[1:] if name[0] in "lr" and name not in ("lowerback", "lowerneck", "root_geom") else name
    return "shoes" if part.startswith(("foot", "toes")) else part


def _covered_by(part: str) -> str:
    """Material that covers a part of the body."""
    for covers, names in (("shirt", _SHIRT), ("trousers", _TROUSERS), ("sleeves", _SLEEVES), ("legs", _LEGS)):
        if part in names:
            return covers
    return "skin"


def _angles(posture: str, rng: np.random.Generator, stride: float | None) -> dict[str, float]:
    """Joint angles in degrees; joints that are not named stay near zero."""
    angles = {"lfemurrz": -17.0, "rfemurrz": 17.0, "ltibiarx": 4.0, "rtibiarx": 4.0}
    left, right = rng.choice(["down", "akimbo", "half"], size=2, p=[0.7, 0.12, 0.18])
    if posture == "walking":
        stride = rng.uniform(15, 35) * rng.choice([-1, 1]) if stride is None else stride
        angles |= {"lfemurrx": -stride, "rfemurrx": stride}
        angles |= {"ltibiarx": 8 + max(0, -stride), "rtibiarx": 8 + max(0, stride)}
        left = right = "down"
    elif posture == "sitting":
        angles |= dict.fromkeys(("lfemurrx", "rfemurrx"), -88.0) | dict.fromkeys(("ltibiarx", "rtibiarx"), 88.0)
        angles |= {"lfemurrz": -12, "rfemurrz": 12}
        left, right = rng.choice(["down", "half"], size=2, p=[0.2, 0.8])
    elif posture == "reaching":
        arms = [str(rng.choice(["forward", "up", "side"])), str(rng.choice(["down", "forward", "up", "half"]))]
        left, right = arms if rng.random() < 0.5 else arms[::-1]
        angles |= {"lowerbackrx": rng.uniform(0, 25), "upperbackrx": rng.uniform(0, 20)}
    for side, mirror, arm in (("l", 1, left), ("r", -1, right)):
        z, y, x, elbow = _ARMS[str(arm)]
        swing = 0.7 * angles.get(f"{'r' if side == 'l' else 'l'}femurrx", 0) if posture == "walking" else 0
        angles |= {f"{side}humerusrz": mirror * z, f"{side}humerusry": mirror * y, f"{side}humerusrx": x - swing}
        angles |= {f"{side}radiusrx": elbow, f"{side}wristry": -90}
    angles |= {"headry": rng.uniform(-25, 25), "headrx": rng.uniform(-10, 15), "lowerbackrz": rng.uniform(-6, 6)}
    return angles


def _colour(code: str) -> np.ndarray:
    return np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)]) / 255
