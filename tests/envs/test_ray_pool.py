"""Workers on a Ray cluster: the same results as here, whatever dies, and one line where there is no cluster."""

import json
import os
import sys
import tempfile
import time
from dataclasses import replace

import pytest
import ray
from ray.cluster_utils import Cluster
from test_evaluation import ENV
from tiny import write_metaworld_policy

from configs.composing import as_dict, decode, load_config
from envs import decode_env, evaluation
from envs.demos.collect import collect
from envs.evaluation import EvaluationOptions, evaluate
from envs.launcher import LOCAL, LauncherConfig
from envs.workers import count_workers, send_folder, worker_pool
from tinyvla.errors import UserError

RAY = decode(LauncherConfig, load_config("evaluate", ["checkpoint=x", "launcher=ray"]).launcher)


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, as `launcher=ray` starts it."""
    assert count_workers("auto", RAY) == count_workers("auto")
    yield
    ray.shutdown()


@pytest.fixture
def no_cluster(monkeypatch):
    # Not Ray's usual folder, where a cluster that was killed has left its address, nor tmp_path: a socket's path may
    # have 107 characters at most.
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        ray.shutdown()
        yield
        ray.shutdown()


def test_work_comes_back_from_a_cluster(cluster, tmp_path):
    """All in one, because starting workers is what takes the time."""
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent/config.json").write_text("{}")

    def look(folder, number):
        with folder.opened() as path:
            return number, path, (path / "config.json").read_text(), os.environ["LP_NUM_THREADS"]

    def die_once(mark):
        if not mark.exists():
            mark.touch()
            os._exit(1)
        return "done"

    def refuse():
        raise UserError("it is wrong; fix it")

    with worker_pool(1, RAY) as pool:
        folder = send_folder(pool, tmp_path / "sent")
        assert folder == send_folder(pool, tmp_path / "sent")
        results = list(pool.map(look, [folder] * 3, range(3)))
        assert pool.submit(die_once, tmp_path / "mark").result() == "done"  # run again in another worker
        with pytest.raises(UserError, match=r"^it is wrong; fix it$"):
            pool.submit(refuse).result()
        (tmp_path / "sent/config.json").write_text("[]")
        assert folder != send_folder(pool, tmp_path / "sent")
    assert [number for number, *_ in results] == [0, 1, 2]
    for _, path, content, threads in results:
        assert (content, threads) == ("{}", "1")
        assert path != tmp_path / "sent"  # the worker may be on another machine
        assert not path.exists()


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:1", "nonsense"])
def test_no_cluster_is_one_line(address, no_cluster, tmp_path):
    checkpoint = write_metaworld_policy(tmp_path / "policy")
    with pytest.raises(UserError, match=rf"no Ray cluster at launcher.address={address} .*ray start --head") as mistake:
        evaluate(checkpoint, ENV, EvaluationOptions(1, launcher=replace(RAY, address=address)), tmp_path / "run")
    assert "\n" not in str(mistake.value)
    assert not (tmp_path / "run").exists()


def test_the_local_launcher_needs_no_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "envs.ray_pool", raising=False)
    with worker_pool(1, LOCAL) as pool:
        assert pool.submit(abs, -1).result() == 1
    with pytest.raises(UserError, match=r"launcher=ray needs ray; install it"), worker_pool(1, RAY):
        pass


@pytest.fixture
def two_nodes(no_cluster):
    """A cluster of two nodes of one core each, and the node that holds nothing but work."""
    node = {"num_cpus": 1, "object_store_memory": 200_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    second = cluster.add_node(num_cpus=1, object_store_memory=200_000_000)
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


def without_clocks(figures):
    """A result without what depends on the machine's speed, and on what ran it."""
    if isinstance(figures, dict):
        clocks = ("ms_per_action", "ms_per_action_p95", "machine")
        return {key: without_clocks(value) for key, value in figures.items() if key not in clocks}
    return figures


@pytest.mark.slow
def test_an_evaluation_that_loses_a_node_ends_as_the_undisturbed_one(two_nodes, tmp_path, monkeypatch):
    cluster, second = two_nodes
    env = replace(ENV, max_steps=150, tasks=["drawer-close-v3", "faucet-close-v3"])
    checkpoint = write_metaworld_policy(tmp_path / "policy")
    options = EvaluationOptions(8, seed=1, wrong_instructions=1, videos=1)
    undisturbed = evaluate(checkpoint, env, replace(options, workers=2), tmp_path / "undisturbed")

    killed = []

    class Bar(evaluation.tqdm):
        def update(self, n=1):
            super().update(n)
            if self.n == 3 and not killed:
                time.sleep(0.5)  # both nodes are in the middle of an episode
                assert [node["Alive"] for node in ray.nodes()] == [True, True]
                cluster.remove_node(second, allow_graceful=False)
                killed.append(second)

    monkeypatch.setattr(evaluation, "tqdm", Bar)
    launcher = replace(RAY, address=cluster.address)
    assert count_workers("auto", launcher) == 2
    result = evaluate(checkpoint, env, replace(options, launcher=launcher), tmp_path / "run")
    assert killed
    assert sorted(node["Alive"] for node in ray.nodes()) == [False, True]
    assert result == json.loads((tmp_path / "run/eval.json").read_text())
    assert without_clocks(result) == without_clocks(undisturbed)
    assert result["tasks"]["drawer-close-v3"].keys() >= {"seeds", "outcomes", "lengths"}

    def films(name):
        return {path.name: path.read_bytes() for path in (tmp_path / name / "videos").iterdir()}

    assert films("run") == films("undisturbed") != {}


@pytest.mark.slow
def test_demonstrations_come_back_from_a_cluster(two_nodes, tmp_path):
    cluster, _ = two_nodes
    env = decode_env(as_dict(load_config("collect", ["env.image_size=32", "env.cameras=[corner2]"]).env))
    here = collect(env, ["handle-press-v3"], 3, 0, tmp_path / "here", 2)
    there = collect(env, ["handle-press-v3"], 3, 0, tmp_path / "there", "auto", replace(RAY, address=cluster.address))
    assert here["handle-press-v3"].successes == there["handle-press-v3"].successes
    ours, theirs = (sorted((tmp_path / name).rglob("*.npz")) for name in ("here", "there"))
    assert [path.name for path in ours] == [path.name for path in theirs]
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]
