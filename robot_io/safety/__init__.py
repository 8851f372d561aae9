"""Safety layer of a real arm: every command passes its stages, see docs/safety.md.

layer = SafetyLayer(SafetyLimits.decode(section))  # configs/safety/so101.yaml
layer.start(time.monotonic(), state)
command = layer.step(time.monotonic(), action, state)     # every tick
"""

from .emergency import EmergencyStop, on_button, on_interrupt, on_key
from .layer import SafeCommand, SafetyLayer
from .limits import SafetyLimits
from .monitors import ArmState, PersonView, Reaction
from .person_watcher import PersonDetector, PersonWatcher
from .readings import agree
from .report import Cause, Interventions

__all__ = [
    "ArmState",
    "Cause",
    "EmergencyStop",
    "Interventions",
    "PersonDetector",
    "PersonView",
    "PersonWatcher",
    "Reaction",
    "SafeCommand",
    "SafetyLayer",
    "SafetyLimits",
    "agree",
    "on_button",
    "on_interrupt",
    "on_key",
]
