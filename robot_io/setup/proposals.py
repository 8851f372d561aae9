"""Proposals of a setup: devices that were found, and the settings and commands with which they are used."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyvla.errors import UserError

from .person import Person
from .search import FoundArm, cameras_setting, find_arms, find_cameras, moved_port, section_text
from .twins import RunningTwin, running_twins

_COMMAND = "python robot_setup.py"
_FOLLOWER, _LEADER = "robot=so101 robot.id=my_follower", "robot=so101_leader robot.id=my_leader"


def find(images: Path, person: Person, patience: float = 30.0) -> None:
    """List ports with servos, running twins, and cameras, and propose the next commands.

    Args:
        images: folder for an image of each camera.
        person: who is asked to move the leader if there are two arms that look alike; nothing is asked otherwise.
        patience: seconds that the person has for it.
    """
    arms, twins = find_arms(), running_twins()
    person.say("Serial ports:" if arms else "No USB serial port; plug the arm's controller board in.")
    for arm in arms:
        person.say(f"  {arm}" + (f"  -> robot.port={arm.port}" if arm.ids else ""))
    for twin in twins:
        person.say(f"  {twin.folder}/port: twin of a {'leader' if twin.is_leader else 'follower'}  -> {twin.settings}")
    propose_cameras(images, person)
    propose_setup(arms, twins, person, patience)


def propose_cameras(images: Path, person: Person) -> None:
    """List cameras, those of running twins too, and the setting robot.cameras that has them all."""
    cameras = find_cameras(images)
    for twin in running_twins():
        if twin.cameras:
            sections = {name: section_text(section) for name, section in twin.cameras.items()}
            person.say(f"Cameras of the twin in {twin.folder}:\n  {cameras_setting(sections)}")
    person.say("Cameras:" if cameras else "No camera gives an image.")
    for number, camera in enumerate(cameras):
        person.say(f"  camera{number}: {camera}")
    if cameras:
        setting = cameras_setting({f"camera{number}": camera.setting for number, camera in enumerate(cameras)})
        person.say(f"Give them names that you like, such as front and wrist:\n  {setting}")


def propose_use(robot: Mapping[str, Any], leader: bool, person: Person) -> None:
    """Say the settings with which programs use the arm or the leader of a `robot` section."""
    keys = [key for key in ("type", "port", "id", "calibration_dir") if robot.get(key) is not None]
    name = "teleop" if leader else "robot"
    person.say(f"LeRobot's programs take: {' '.join(f'--{name}.{key}={robot[key]}' for key in keys)}")
    if leader:
        person.say(f"deploy.py takes: {' '.join(f'takeover.{key}={robot[key]}' for key in keys)}")


def propose_setup(arms: list[FoundArm], twins: list[RunningTwin], person: Person, patience: float) -> None:
    """Say the command that sets up each arm. A person moves the leader to tell it from a follower that looks alike."""
    ports = [arm.port for arm in arms if not arm.trouble]
    alike = [arm.port for arm in arms if arm.is_arm and not arm.is_follower]
    leader = None
    if len(alike) > 1:
        person.say("Which arm is the leader? Move it by hand, or press ENTER to go on without.")
        with contextlib.suppress(UserError):  # without a terminal
            leader = moved_port(alike, person.enter_pressed, patience)
    elif alike and len(ports) > 1:
        leader = alike[0]  # the others are followers by their voltage
    for port in ports:
        person.say(f"Next: {_COMMAND} {_LEADER if port == leader else _FOLLOWER} robot.port={port} step=all")
    if ports and leader is None:
        person.say(f"For a leader: {_COMMAND} {_LEADER} robot.port={ports[0]} step=all")
    for twin in twins:
        person.say(f"Next: {_COMMAND} {twin.settings} step=all")
