"""Live page of an arm's run: images, joints and the safety layer's state in a browser on this machine."""

from .view import LivePage

__all__ = ["LivePage"]
