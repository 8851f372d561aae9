"""Evaluation of a policy beside recordings by evaluate.py: `dataset.root=<folder>`."""

from pathlib import Path

from omegaconf import DictConfig

from configs.composing import as_dict, decode
from envs.report import describe_offline, write_offline_report
from policies.data import DatasetConfig, find_part
from policies.data.dataset_check import check_dataset
from policies.offline_evaluation import OfflineOptions, evaluate_offline
from tinyvla.errors import UserError
from tinyvla.files import alone_in, write_whole


def evaluate_on_recordings(cfg: DictConfig, settings: str) -> None:
    """Compare a policy's actions with the recorded ones of a dataset, where no simulator has its scene."""
    if unused := [name for name in ("shift", "instruction", "wrong_instructions") if cfg[name]]:
        raise UserError(f"{unused[0]} is for episodes in a simulator; leave it out, or leave out dataset.root")
    run_dir, dataset = Path(cfg.run_dir), decode(DatasetConfig, cfg.dataset)
    calibration = Path(dataset.calibration) if dataset.calibration else None
    options = OfflineOptions(device=cfg.device, runner=as_dict(cfg.runner), calibration=calibration)
    for finding in check_dataset(dataset, dataset.roots):
        print(f"warning: {finding}")
    with alone_in(run_dir, wait=False):
        root = find_part(dataset, dataset.roots, Path(cfg.data_dir))
        print(describe_offline(evaluate_offline(cfg.checkpoint, root, options, run_dir)))
        write_whole(run_dir / "config.yaml", settings)
        print(write_offline_report(run_dir))
