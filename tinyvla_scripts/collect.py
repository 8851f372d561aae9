"""Collect demonstrations: python collect.py env=metaworld env.tasks=[reach-v3] episodes=50."""

import json
import time
from pathlib import Path

from omegaconf import DictConfig

from configs.app import app
from configs.composing import as_dict, decode


@app("collect")
def main(cfg: DictConfig) -> None:
    from envs import decode_env, resolve_tasks
    from envs.demos import ensure_dataset
    from envs.demos.dataset import PROVENANCE
    from envs.launcher import LauncherConfig
    from envs.shifts import with_randomisation

    start = time.monotonic()
    env_cfg = with_randomisation(decode_env(as_dict(cfg.env)), cfg.randomise)
    root = ensure_dataset(
        env_cfg,
        resolve_tasks(env_cfg),
        cfg.episodes,
        cfg.seed,
        Path(cfg.data_dir),
        cfg.workers,
        decode(LauncherConfig, cfg.launcher),
    )
    info = json.loads((root / "meta/info.json").read_text())
    tasks = json.loads((root / PROVENANCE).read_text())["tasks"]
    failures = sum(task["failures_discarded"] for task in tasks.values())
    print(
        f"{root}: {info['total_episodes']} episodes of {len(tasks)} tasks, {info['total_frames']} frames, "
        f"{failures} failed attempts discarded, {time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
