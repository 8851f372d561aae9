"""Start of every entry point: compose the configuration, run `main`, and report mistakes on one line.

Light imports only, so that `--help` and a mistyped setting are answered at once.
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

from tinyvla.errors import UserError, one_line

from .common import check_common
from .composing import CONFIG_DIR
from .mistakes import check_arguments, check_values, explain

USER_ERROR, INTERRUPTED = 2, 130


def app(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Decorate `main(cfg)` of an entry point so that calling it runs the command line.

    `cfg` is the composed configuration with all interpolations resolved. `cfg.command` is the command line that
    reproduces the run. In a sweep (`-m`) the `run_dir` of each job ends with the job's number, and `launcher=ray` runs
    the jobs in parallel.

    A UserError, here or in a worker process, and a mistake in the settings are printed as one line on stderr, with exit
    code 2. Ctrl-C exits with 130. Any other exception is a bug and keeps its traceback.
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
                    # The other jobs of a sweep still run.
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
                sys.stdout.flush()
            except BrokenPipeError:  # the reader, such as `head`, has enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
    """Set the run folder of a sweep's job, record the command line, check the values, resolve interpolations."""
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
        check_common(cfg)
    except OmegaConfBaseException as error:
        raise UserError(f"a setting refers to a setting that does not exist: {str(error).splitlines()[0]}") from error
    return cfg


def _user_error(error: BaseException | None) -> str | None:
    """Message of the UserError in a chain of causes (worker processes wrap exceptions), or None.

    Too little memory is a mistake in the settings, or in a file that has them.
    """
    while error is not None and not isinstance(error, UserError):
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # the latter is PyTorch's
            return (
                f"this machine has not enough memory for these settings ({one_line(error, 100)}); lower the batch size "
                "or the sizes of the policy, and check the files that hold them"
            )
        error = error.__cause__
    return None if error is None else str(error)


def _complain(message: str) -> None:
    print(f"error: {one_line(message, limit=None)}", file=sys.stderr)


def _quiet_libraries() -> None:
    """Silence the warnings and progress bars of libraries, here and in worker processes."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "critical",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "PYTHONWARNINGS": "ignore",
    }.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.WARNING)
