"""Names of the state and action numbers that a policy was trained with, from its checkpoint or its run folder."""

from pathlib import Path

from policies import feature_names
from tinyvla.errors import UserError
from tinyvla.untrusted import read_json_object

from .registry import embodiment_of
from .trained_env import run_settings


def trained_feature_names(checkpoint: Path | str) -> dict[str, list[str]]:
    """Names of the numbers in a policy's `observation.state` and `action`, in order, where they are known.

    Older checkpoints do not contain them; then those of the action come from the configuration of the run.
    """
    try:
        if names := feature_names(checkpoint):
            return names
        actions = _names_by_its_run(checkpoint)
    except UserError:
        actions = None
    return {} if actions is None else {"action": actions}


def _names_by_its_run(checkpoint: Path | str) -> list[str] | None:
    try:
        settings = run_settings(checkpoint)
        if (settings.get("dataset") or {}).get("repo_id"):
            return None
        if root := (settings.get("dataset") or {}).get("root"):
            names = read_json_object(Path(root) / "meta/info.json")["features"]["action"]["names"]
            return list(names) if isinstance(names, list) else None
        return list(embodiment_of(settings["env"]["name"]).action_names)
    except (UserError, OSError, ValueError, LookupError, AttributeError, TypeError):
        return None
