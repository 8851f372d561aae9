"""Table and page of a recording, and what is wrong in it: python inspect_dataset.py dataset.root=data/<recording>."""

from pathlib import Path

from omegaconf import DictConfig

from configs.app import app
from tinyvla.errors import UserError


@app("inspect_dataset")
def main(cfg: DictConfig) -> None:
    from envs.report.dataset_page import write_dataset_page
    from envs.report.dataset_text import describe_dataset
    from policies.data.inspection import inspect_recording
    from policies.data.recording import read_recording
    from policies.data.run_dataset import download

    if bool(cfg.dataset.root) == bool(cfg.dataset.repo_id):
        raise UserError("give one dataset, dataset.root=<its folder> or dataset.repo_id=user/name")
    root = Path(cfg.dataset.root) if cfg.dataset.root else download(cfg.dataset.repo_id, Path(cfg.data_dir))
    recording = read_recording(root)
    findings = inspect_recording(recording)
    print(describe_dataset(recording, findings))
    print(write_dataset_page(recording, findings, Path(cfg.run_dir), cfg.command))


if __name__ == "__main__":
    main()
