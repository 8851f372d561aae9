"""Generalisation tests on the paper's axes, and domain randomisation of the same kinds.

The axes, which `AXES` names, follow the generalisation experiments of TinyVLA (arXiv 2409.12514). `with_shift` has an
`env` configuration make shifted environments, for evaluation, and `with_randomisation` randomised ones, for collecting;
`make_env` then wraps what it makes in a `ShiftedEnv`.
"""

from .axes import AXES, PHYSICAL, SEVERITIES, Shift, shift_of, with_randomisation, with_shift

__all__ = ["AXES", "PHYSICAL", "SEVERITIES", "Shift", "shift_of", "with_randomisation", "with_shift"]
