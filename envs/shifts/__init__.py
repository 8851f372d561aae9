"""Generalisation tests on the paper's axes, and domain randomisation of the same kinds.

The axes in `AXES` follow the generalisation experiments of TinyVLA (arXiv 2409.12514). `with_shift` returns an `env`
configuration with shifted episodes, for evaluation, and `with_randomisation` one with randomised episodes, for
collecting; `make_env` then wraps the environment in a `ShiftedEnv`.
"""

from .axes import AXES, PHYSICAL, SEVERITIES, Shift, with_randomisation, with_shift

__all__ = ["AXES", "PHYSICAL", "SEVERITIES", "Shift", "with_randomisation", "with_shift"]
