"""The front door of the entry points: composes the configuration, runs, and turns mistakes into one line.

Nothing heavy is imported here, so `--help` and a mistyped setting answer at once.
"""

import functools
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from tinyvla.errors import UserError

from .composing import CONFIG_DIR
from .mistakes import check_arguments, check_values, explain

USER_ERROR, INTERRUPTED = 2, 130


def app(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Decorate `main(cfg)` of an entry point so that calling it runs the command line.

    `cfg` is the composed configuration with every interpolation resolved and `cfg.command`, the command line that
    reproduces this run. In a sweep (`-m`) every job's `run_dir` gets the job's number as a sub-folder, and a launcher
    that can (`launcher=ray`) runs the jobs side by side.

    A UserError, or one that a worker process raised, is printed as one line on stderr with exit code 2, and so is a
    mistake in the settings; Ctrl-C exits with 130. Everything else is a bug and keeps its traceback.
    """

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def run() -> None:
            failed = False
            started: list[Any] = []

            def attempt(work: Callable[[], None]) -> None:
                nonlocal failed
                try:
                    work()
                except Exception as error:
                    # In a sweep the other jobs still run.
                    if (mistake := _user_error(error)) is None:
                        raise
                    _complain(mistake)
                    failed = True

            def show(handle: Any) -> None:
                print(handle.result(), end="")

            def job(cfg: DictConfig) -> None:
                finished = _finish(cfg, config_name)
                launcher = finished.launcher
                if HydraConfig.get().mode == RunMode.MULTIRUN and "start_job" in launcher:
                    started.append(get_method(launcher.start_job)(main, finished))
                else:
                    main(finished)

            _quiet_libraries()
            try:
                check_arguments(sys.argv[1:])
                hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(
                    lambda cfg: attempt(lambda: job(cfg))
                )()
                for handle in started:
                    attempt(functools.partial(show, handle))
            except KeyboardInterrupt:
                for handle in started:
                    handle.cancel()
                for handle in started:
                    handle.wait()
                print("\ninterrupted", file=sys.stderr)
                sys.exit(INTERRUPTED)
            except Exception as error:
                if (mistake := _user_error(error) or explain(error, config_name, sys.argv[1:])) is None:
                    raise
                _complain(mistake)
                failed = True
            if failed:
                sys.exit(USER_ERROR)

        return run

    return decorate


def _finish(cfg: DictConfig, config_name: str) -> DictConfig:
    """Give a sweep's job its own run folder, record the command line, check the values and resolve everything."""
    settings = HydraConfig.get()
    overrides: Any = OmegaConf.to_container(settings.overrides.task, resolve=False)
    with open_dict(cfg):
        program = Path(sys.argv[0]).name  # train.py in a clone, tinyvla-train where the package is installed
        cfg.command = shlex.join([*(["python"] if program.endswith(".py") else []), program, *overrides])
        if settings.mode == RunMode.MULTIRUN and "run_dir" in cfg:
            cfg.run_dir = f"{cfg.run_dir}/{settings.job.num}"
            print(f"job {settings.job.num}: {shlex.join(overrides)} -> {cfg.run_dir}", file=sys.stderr)
    try:
        if missing := sorted(OmegaConf.missing_keys(cfg)):
            raise UserError(f"{missing[0]} is not given; add {missing[0]}=... to the command")
        check_values(cfg, config_name, overrides)
        OmegaConf.resolve(cfg)
    except OmegaConfBaseException as error:
        raise UserError(f"a setting refers to another one that does not exist: {str(error).splitlines()[0]}") from error
    return cfg


def _user_error(error: BaseException | None) -> str | None:
    """The message of the UserError in a chain of causes (worker processes wrap what they raise), or None."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return None if error is None else str(error)


def _complain(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)


def _quiet_libraries() -> None:
    """Keep what libraries say about themselves off the screen, here and in worker processes."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors instead of printing them
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "PYTHONWARNINGS": "ignore",
    }.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.WARNING)
