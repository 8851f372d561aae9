"""Labelled images of tables and rooms: labels that match the pixels, splits that share nothing."""

from itertools import pairwise

import numpy as np
import pytest

from envs.scenes import generate_room_video
from envs.scenes.captions import captions_of, list_of, relation_of
from envs.scenes.humanoid import BUILDS, POSTURES, SKIN_TONES, Look
from envs.scenes.image_generator import HIDDEN, box_of
from envs.scenes.image_store import make_generator
from envs.scenes.object_meshes import shapes_of
from envs.scenes.room_generator import _LEAST_POSTER, BRIGHT, DARK, FAR, NEAR
from envs.scenes.splits import FAMILIES, IMAGES_PER_SEED, SPLITS, image_seed, numbers_of
from envs.scenes.textures import PATTERNS, pairs_of, pattern, photograph, photographs_of
from tinyvla.errors import UserError

SIZE = 64


@pytest.fixture(scope="module")
def table():
    generator = make_generator("table", "validation", SIZE)
    yield generator
    generator.close()


@pytest.fixture(scope="module")
def room():
    generator = make_generator("room", "test", SIZE)
    yield generator
    generator.close()


def images(generator, count):
    return [generator.generate(np.random.default_rng(seed)) for seed in range(count)]


def test_splits_share_no_seed():
    ends = [(image_seed(split, 0, 0), image_seed(split, 9999, IMAGES_PER_SEED - 1)) for split in SPLITS]
    assert all(first[1] < second[0] for first, second in pairwise(ends))
    for seed, index in ((10_000, 0), (-1, 0), (0, IMAGES_PER_SEED)):
        with pytest.raises(UserError, match="use"):
            image_seed("test", seed, index)


def test_splits_share_no_object_mesh_and_have_all_categories():
    meshes = {split: shapes_of(split) for split in SPLITS}
    content = {
        split: {part.mesh.vertices.round(6).tobytes() for shape in meshes[split] for part in shape.meshes}
        for split in SPLITS
    }
    assert not content["train"] & content["validation"]
    assert not (content["train"] | content["validation"]) & content["test"]
    categories = [
        {shape.category for shape in meshes[split]} - {"ball", "cube"} for split in SPLITS
    ]  # those are primitives
    assert categories[0] == categories[1] == categories[2]
    assert len(categories[0]) == 12


def test_splits_share_no_texture():
    drawn = {}
    for split in SPLITS:
        textures = [pattern(number).share for number in numbers_of(split, PATTERNS)]
        textures += [photograph(split, name).photograph for name in photographs_of(split)]
        drawn[split] = {texture.tobytes() for texture in textures}
    assert not drawn["train"] & drawn["validation"]
    assert not (drawn["train"] | drawn["validation"]) & drawn["test"]
    assert sorted(n for split in SPLITS for n in numbers_of(split, PATTERNS)) == list(range(PATTERNS))
    repeats = [pair for family in range(FAMILIES) for pair in pairs_of(family, range(2, 8), range(2, 8))]
    assert len(set(repeats)) == len(repeats) == 36


def test_objects_stand_on_the_table():
    for shape in shapes_of("test"):
        corners = np.concatenate([part.mesh.vertices for part in shape.meshes])
        assert corners[:, 2].min() == pytest.approx(0, abs=1e-9)
        assert np.linalg.norm(corners[:, :2], axis=1).max() == pytest.approx(shape.radius)
        assert 0.02 < max(shape.radius, shape.height) < 0.25, shape.category


def test_labels_of_tables_match_the_pixels(table):
    for image in images(table, 24):
        instances, objects = image.arrays["instances"], image.label["objects"]
        assert set(np.unique(instances)) - {0} == set(range(1, len(objects) + 1))
        for number, thing in enumerate(objects, start=1):
            mask = instances == number
            x0, y0, x1, y1 = thing["box"]
            assert mask[y0:y1, x0:x1].sum() == mask.sum() == thing["pixels"]
            assert all(edge.any() for edge in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]))
            assert thing["name"] == f"{thing['colour']} {thing['category']}"
        names = [thing["name"] for thing in objects]
        assert len(set(names)) == len(names)
        assert image.label["caption"] in image.label["captions"]
        assert len(set(image.label["captions"])) == 5
        assert all(name in caption for name in names for caption in image.label["captions"])


def test_objects_are_nearer_than_what_is_behind_them(table):
    for seed in range(6):
        image = table.generate(np.random.default_rng(seed))
        depth, instances = image.arrays["depth"].astype(np.float32), image.arrays["instances"]
        table.model.geom_group[[g for slot in table._slots for g in table.geoms_of(slot.body)]] = HIDDEN
        bare = table.survey().depth
        assert (depth[instances > 0] < bare[instances > 0] + 1e-3).all()
        for number in range(1, instances.max() + 1):
            assert np.median((bare - depth)[instances == number]) > 2e-3
        assert depth[instances == 0] == pytest.approx(bare[instances == 0], rel=2e-3)
        assert 0.1 < depth.min() < depth.max() < 8


def test_names_tell_the_colour(table):
    """An object named red is redder than green or blue, whatever pattern it has."""
    checked = 0
    for image in images(table, 60):
        for number, thing in enumerate(image.label["objects"], start=1):
            channel = {"red": 0, "green": 1, "blue": 2}.get(thing["colour"])
            if channel is not None and thing["category"] not in ("hammer", "laptop"):  # which are half black
                mean = image.arrays["images"][image.arrays["instances"] == number].mean(axis=0)
                assert mean.argmax() == channel, thing
                checked += 1
    assert checked > 10


def test_where_things_stand():
    assert relation_of(np.array([0.1, 0.02])) == "right of"
    assert relation_of(np.array([-0.1, 0.02])) == "left of"
    assert relation_of(np.array([0.02, 0.1])) == "behind"
    assert relation_of(np.array([0.02, -0.1])) == "in front of"
    assert relation_of(np.array([0.1, 0.1])) is None


def test_captions():
    assert list_of(["red mug"]) == "a red mug"
    assert list_of(["red mug", "orange ball", "blue bowl"]) == "a red mug, an orange ball and a blue bowl"
    texts = captions_of(["red mug"], [], "a wooden table", np.random.default_rng(0))
    assert texts[0] == "a red mug on a wooden table"
    assert texts[2] == "there is a red mug on the table"


@pytest.mark.parametrize("kind", ["table", "room"])
def test_an_image_depends_on_its_seed_alone(kind, request):
    generator = request.getfixturevalue(kind)
    first = images(generator, 6)
    for seed in (4, 1, 5):
        again = generator.generate(np.random.default_rng(seed))
        assert again.label == first[seed].label
        for name, array in again.arrays.items():
            assert np.array_equal(array, first[seed].arrays[name]), (seed, name)


def test_labels_of_rooms_match_the_pixels(room):
    checked = set()
    for image in images(room, 40):
        label, mask = image.label, image.arrays["instances"] == 1
        assert image.arrays["instances"].max() == label["person"]
        brightness = (image.arrays["images"] @ [0.299, 0.587, 0.114]).mean()
        assert label["lighting"] == ("dark" if brightness < DARK else "bright" if brightness > BRIGHT else "normal")
        if label["person"]:
            assert label["box"] == box_of(mask)
            share = (label["box"][3] - label["box"][1]) / SIZE
            assert label["distance"] == ("near" if share >= NEAR else "far" if share < FAR else "mid")
            assert label["build"] in BUILDS
            assert label["skin_tone"] in SKIN_TONES
        else:
            assert not mask.any()
            assert [label[key] for key in ("distance", "build", "skin_tone", "box")] == [None] * 4
        checked |= {label["distance"], label["lighting"], f"depiction: {label['depiction']}"}
    depictions = {"depiction: none", "depiction: person", "depiction: non_person"}
    assert checked >= {None, "near", "mid", "far", "dark", "normal", "bright"} | depictions


def test_images_of_people_are_depictions_and_no_persons(room):
    checked = {"person": 0, "non_person": 0}
    for seed in range(40):
        image = room.generate(np.random.default_rng(seed))
        shown = np.isin(room.survey().geoms, room._posters.sheets).mean()
        assert (image.label["depiction"] != "none") == (shown > 0)
        if image.label["depiction"] != "none":
            assert shown >= _LEAST_POSTER
            checked[image.label["depiction"]] += not image.label["person"]
    assert min(checked.values()) > 0


def test_people_stand_on_the_floor_within_their_joints_limits(room):
    person, model, rng = room._person, room.model, np.random.default_rng(0)
    for build in BUILDS:
        for posture in POSTURES:
            person.wear(Look(build, "medium"), rng)
            person.pose(posture, np.array([1.0, 2.0]), 0.5, 0.45, rng)
            hinges = np.flatnonzero(model.jnt_limited)
            angles, limits = room.data.qpos[model.jnt_qposadr[hinges]], model.jnt_range[hinges]
            named = np.abs(angles - model.qpos0[model.jnt_qposadr[hinges]]) > 1e-9
            assert ((angles >= limits[:, 0] - 1e-9) & (angles <= limits[:, 1] + 1e-9))[named].all()
            lowest = min(room.data.geom_xpos[g, 2] - model.geom_size[g, 0] for g in person.geoms)
            assert lowest > -0.05 if posture == "sitting" else lowest == pytest.approx(0, abs=0.03)


def test_somebody_walks_into_a_room(room):
    entered = 0
    for seed in range(3):
        frames = list(room.watch(np.random.default_rng(seed), 30, 8, fps=10))
        people = [image.label["person"] for image in frames]
        assert not any(people[:8])
        assert [p.label["person"] for p in frames] == [int(p.arrays["instances"].any()) for p in frames]
        entered += any(people) and people[-1]
        assert not np.array_equal(frames[0].arrays["images"], frames[1].arrays["images"])  # a sensor's noise
    assert entered == 3


def test_a_stream_depends_on_its_arguments_alone():
    first, again = (list(generate_room_video("test", 3, 4, 1, image_size=32)) for _ in range(2))
    assert all(np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(first, again, strict=True))
    assert len(first) == 4
    with pytest.raises(UserError, match="no split 'tests' of scenes; use one of train"):
        next(generate_room_video("tests", 0, 1))
