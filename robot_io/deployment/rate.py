"""Rate of a deployment's control loop: that of the recordings that its policy was trained on."""

from collections.abc import Mapping
from typing import Any

from tinyvla.errors import UserError

from ..safety import SafetyLimits


def limits_at_rate(safety: Mapping[str, Any], fps: float | None, is_set: bool) -> SafetyLimits:
    """Safety limits whose rate is that of a policy's recordings: at another one it would play them slower or faster.

    Args:
        safety: section of the configuration. Its limits are in seconds, so they hold at any rate.
        fps: frames per second of the recordings; None: not known, and the section's rate is taken.
        is_set: the user has set the section's rate.

    Raises UserError for a rate that was set and is another, and for one at which the arm cannot be driven.
    """
    limits = SafetyLimits.decode(safety)
    if fps is None or fps == limits.rate_hz:
        return limits
    if is_set:
        raise UserError(
            f"the policy was trained on {fps:g} frames per second and safety.rate_hz={limits.rate_hz:g} would play "
            f"them {limits.rate_hz / fps:.2g} times as fast; leave safety.rate_hz out"
        )
    try:
        return SafetyLimits.decode({**safety, "rate_hz": fps})
    except UserError as error:
        raise UserError(
            f"the policy was trained on {fps:g} frames per second and the arm cannot be driven at that rate: {error}"
        ) from error
