"""Parts of datasets and several datasets as one: other names, episodes and tasks, without a copy of the videos."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.datasets.compute_stats import aggregate_stats
from tiny import CAMERAS, LENGTHS, TASKS, run_config, write_dataset

from configs.composing import as_dict
from policies.data import DatasetConfig, find_part, open_dataset
from policies.training import check_settings, decode_run, find_dataset
from tinyvla.errors import UserError


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("videos") / "tiny", video=True)


def part_of(roots, data_dir, **choice):
    config = DatasetConfig(root=[str(root) for root in roots], **choice)
    return open_dataset(find_part(config, config.roots, data_dir))


def frames_of(episodes):
    starts = np.cumsum([0, *LENGTHS])
    return [frame for episode in episodes for frame in range(starts[episode], starts[episode + 1])]


@pytest.mark.parametrize("kind", ["images", "videos"])
def test_a_part_holds_the_frames_of_its_episodes_under_the_new_names(kind, dataset_root, videos, tmp_path):
    root = videos if kind == "videos" else dataset_root
    whole = open_dataset(root)
    part = part_of([root], tmp_path, rename={"left": "front"}, episodes=[0, "2-3"], exclude_episodes=[2])
    assert part.meta.camera_keys == ["observation.images.front", f"observation.images.{CAMERAS[1]}"]
    assert (part.meta.total_episodes, len(part)) == (2, LENGTHS[0] + LENGTHS[3])
    for new, frame in enumerate(frames_of([0, 3])):
        item, reference = part[new], whole[frame]
        assert torch.equal(item["observation.images.front"], reference["observation.images.left"])
        assert torch.equal(item["action"], reference["action"])
        assert (item["task"], int(item["index"])) == (reference["task"], new)
    assert [int(part[new]["episode_index"]) for new in (0, LENGTHS[0])] == [0, 1]


def test_statistics_of_a_part_are_those_of_its_episodes(videos, tmp_path):
    part = part_of([videos], tmp_path, episodes=[1])
    actions = np.stack(part.hf_dataset["action"])
    np.testing.assert_allclose(part.meta.stats["action"]["mean"], actions.mean(0), rtol=1e-5)
    np.testing.assert_allclose(part.meta.stats["action"]["max"], actions.max(0), rtol=1e-5)
    whole = part_of([videos], tmp_path, rename={"left": "front"})
    expected = open_dataset(videos).meta.stats["observation.images.left"]
    for kind, values in expected.items():
        np.testing.assert_array_equal(whole.meta.stats["observation.images.front"][kind], values)


def test_videos_are_not_copied(videos, tmp_path):
    part = part_of([videos], tmp_path, cameras=["left"])
    file = part.root / "videos/observation.images.left/chunk-000/file-000.mp4"
    assert file.samefile(videos / "videos/observation.images.left/chunk-000/file-000.mp4")
    assert not (part.root / "videos/observation.images.right").exists()


def test_datasets_are_merged_with_their_statistics(videos, dataset_root, tmp_path):
    other = shutil.copytree(videos, tmp_path / "second")
    merged = part_of([videos, other], tmp_path / "data", episodes=[3, 4], tasks=list(TASKS))
    assert [episode["length"] for episode in merged.meta.episodes] == [LENGTHS[3], LENGTHS[0]]
    first, second = open_dataset(videos), open_dataset(other)
    assert torch.equal(merged[LENGTHS[3] + 4]["observation.images.right"], second[4]["observation.images.right"])
    assert merged[0]["task"] == TASKS[1]
    everything = part_of([videos, other], tmp_path / "data")
    expected = aggregate_stats([first.meta.stats, second.meta.stats])
    np.testing.assert_allclose(everything.meta.stats["action"]["std"], expected["action"]["std"])
    assert len(everything) == 2 * sum(LENGTHS)


def test_tasks_choose_their_episodes(dataset_root, tmp_path):
    part = part_of([dataset_root], tmp_path, tasks=[TASKS[1]])
    assert list(part.meta.tasks.index) == [TASKS[1]]
    assert [episode["length"] for episode in part.meta.episodes] == [LENGTHS[1], LENGTHS[3]]


def test_a_part_is_written_once_and_followed_by_the_settings(videos, tmp_path):
    choice = {"cameras": ["front"], "rename": {"left": "front"}}
    part = part_of([videos], tmp_path, **choice)
    info = part.root / "meta/info.json"
    written = info.stat().st_mtime_ns
    assert part_of([videos], tmp_path, **choice).root == part.root
    assert info.stat().st_mtime_ns == written
    assert part_of([videos], tmp_path, cameras=["left"]).root != part.root


FAULTS = {
    "dataset.cameras=[lef]": "dataset.cameras names 'lef'.*did you mean left",
    "dataset.cameras=[]": "dataset.cameras is empty",
    "dataset.rename={rigth: front}": "dataset.rename names 'rigth'.*did you mean right",
    "dataset.rename={left: right}": "two features the name observation.images.right",
    "dataset.rename={left: ../x}": r"the name '../x'; use letters",
    "dataset.episodes=[2,9-12]": "9-12 but the episodes go from 0 to 3",
    "dataset.episodes=[first]": r"'first'; give numbers and ranges, such as dataset.episodes=\[0,2,5-9\]",
    "dataset.exclude_episodes=[0-3]": "leave no episode",
    "dataset.tasks=[open the draw]": "no episode has the task 'open the draw'.*did you mean open the drawer",
    "dataset.image_size=huge": "dataset.image_size=huge does not fit",
    "dataset.image_fit=stretch": "dataset.image_fit=stretch does not fit; use letterbox or crop",
}


@pytest.mark.parametrize("setting", FAULTS)
def test_a_choice_that_cannot_be_is_refused_before_anything_is_written(setting, dataset_root, tmp_path):
    words = [f"dataset.root={dataset_root}", f"run_dir={tmp_path}/run", f"data_dir={tmp_path}/data", setting]
    with pytest.raises(UserError, match=FAULTS[setting]):
        check_settings(decode_run(as_dict(run_config("tinyvla", *words))))
    assert list(tmp_path.iterdir()) == []


def test_datasets_that_differ_are_refused_by_what_differs(videos, dataset_root, tmp_path):
    with pytest.raises(UserError, match=r"observation.images.left is video of 32x32.*image of 32x32"):
        part_of([videos, dataset_root], tmp_path)
    renamed = part_of([videos], tmp_path, rename={"left": "front"}).root
    with pytest.raises(UserError, match=r"not all of .* have observation.images.front.*dataset.cameras"):
        part_of([videos, renamed], tmp_path)
    slow = shutil.copytree(videos, tmp_path / "slow")
    info = slow / "meta/info.json"
    info.write_text(info.read_text().replace('"fps": 20', '"fps": 10'))
    with pytest.raises(UserError, match=r"20 frames per second and .*slow 10"):
        part_of([videos, slow], tmp_path)


def test_features_that_not_all_have_are_left_out_and_named(videos, tmp_path, capsys):
    renamed = part_of([videos], tmp_path, rename={"observation.state": "observation.joints"}).root
    part_of([renamed, videos], tmp_path)
    assert "left out: observation.joints, observation.state" in capsys.readouterr().out


def test_streaming_takes_no_part(dataset_root, tmp_path):
    words = [f"dataset.root={dataset_root}", "trainer.streaming=true", "dataset.cameras=[left]"]
    with pytest.raises(UserError, match=r"trainer.streaming=true reads one dataset as it is"):
        check_settings(decode_run(as_dict(run_config("tinyvla", *words))))


def test_training_takes_the_chosen_part(dataset_root, tmp_path):
    words = [f"dataset.root={dataset_root}", "dataset.rename={left: front}", f"data_dir={tmp_path}"]
    root = find_dataset(decode_run(as_dict(run_config("tinyvla", *words))), lambda: pytest.fail("collects"))
    assert "observation.images.front" in open_dataset(Path(root)).meta.features
