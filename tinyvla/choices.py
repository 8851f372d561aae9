"""Option dataclasses that a `type` field selects, imported when they are first needed."""

from typing import Any, ClassVar

from .registry import Registry


class LazyChoices:
    """Mixin for a family of option dataclasses: `class BackboneConfig(LazyChoices, draccus.ChoiceRegistry)`.

    draccus and LeRobot ask the family for the dataclass of a `type`. Names come from three places: the registry's own,
    entry points of installed packages (`registry.group`), and `register_subclass`, draccus's decorator.

    Attributes:
        registry: names and places of the dataclasses.
    """

    registry: ClassVar[Registry]
    _choice_registry: ClassVar[dict[str, Any]]  # of draccus.ChoiceRegistry: the dataclasses that are imported

    @classmethod
    def get_choice_class(cls, name: str) -> Any:
        """Dataclass of a `type`. Raises UserError for an unknown one, naming the nearest."""
        if name not in cls._choice_registry:
            config_class = cls.registry.load(name)
            cls._choice_registry.setdefault(name, config_class)  # the import may have registered it
        return cls._choice_registry[name]

    @classmethod
    def get_known_choices(cls) -> dict[str, Any]:
        """Every dataclass by its `type`; imports them all. Raises UserError for an entry point that is broken."""
        for name in cls.registry.names():
            cls.get_choice_class(name)
        return cls._choice_registry

    @classmethod
    def get_choice_name(cls, subcls: type) -> str:
        """The `type` of a dataclass. Raises ValueError if it has none, as the family itself."""
        if LazyChoices not in subcls.__bases__ and subcls not in cls._choice_registry.values():
            cls.get_known_choices()
        for name, choice in cls._choice_registry.items():
            if choice == subcls:
                return name
        raise ValueError(f"{subcls.__name__} is not registered under a name")
