"""Inputs of the emergency stop, and the thread that watches for people."""

import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

from robot_io.safety import EmergencyStop, PersonWatcher, on_button, on_interrupt, on_key


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def test_the_stop_remembers_what_pressed_it_first():
    stop = EmergencyStop()
    stop.press("button")
    stop.press("key")
    assert (stop.pressed, stop.source) == (True, "button")
    stop.release()
    assert (stop.pressed, stop.source) == (False, None)


def test_ctrl_c_presses_it_and_a_second_one_interrupts():
    stop, before = EmergencyStop(), signal.getsignal(signal.SIGINT)
    with on_interrupt(stop):
        signal.raise_signal(signal.SIGINT)
        assert stop.source == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_button_presses_it():
    stop, down = EmergencyStop(), threading.Event()
    with on_button(stop, down.is_set, "red button", every_s=0.001):
        time.sleep(0.02)
        assert not stop.pressed
        down.set()
        wait_for(lambda: stop.pressed)
    assert stop.source == "red button"


def test_a_button_that_cannot_be_read_presses_it():
    def unplugged():
        raise OSError("gone")

    stop = EmergencyStop()
    with on_button(stop, unplugged, "red button", every_s=0.001):
        wait_for(lambda: stop.pressed)


def test_a_key_presses_it(monkeypatch):
    keyboard, terminal = os.openpty()
    with os.fdopen(terminal, "r", closefd=True) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        stop = EmergencyStop()
        with on_key(stop):
            os.write(keyboard, b"x")
            time.sleep(0.05)
            assert not stop.pressed
            os.write(keyboard, b" ")
            wait_for(lambda: stop.pressed)
        assert stop.source == "key"
    os.close(keyboard)


def test_without_a_terminal_there_are_no_keys(monkeypatch):
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with on_key(stop := EmergencyStop()):
            pass
    assert not stop.pressed


def image(value):
    return np.full((2, 2, 3), value, np.uint8)


def test_a_view_is_of_the_frame_that_was_judged():
    with PersonWatcher(lambda frame: frame.mean() / 255) as watcher:
        assert watcher.view is None
        watcher.show(image(255), 7.0)
        wait_for(lambda: watcher.view is not None)
        assert watcher.view == (1.0, 7.0)


def test_a_slow_detector_is_given_the_newest_frame():
    busy, go, numbers = threading.Event(), threading.Event(), []

    def detector(frame):
        numbers.append(int(frame[0, 0, 0]))
        busy.set()
        go.wait(20)
        return 0.0

    with PersonWatcher(detector) as watcher:
        watcher.show(image(0), 0.0)
        busy.wait(20)
        for number in (1, 2, 3):
            watcher.show(image(number), float(number))
        go.set()
        wait_for(lambda: watcher.view is not None and watcher.view.time == 3)
    assert numbers == [0, 3]


def test_a_detector_that_fails_gives_no_view_and_goes_on():
    def detector(frame):
        if frame[0, 0, 0] == 1:
            raise RuntimeError("no")
        return 0.25

    with PersonWatcher(detector) as watcher:
        watcher.show(image(1), 1.0)
        time.sleep(0.05)
        assert watcher.view is None
        watcher.show(image(2), 2.0)
        wait_for(lambda: watcher.view is not None)
        assert watcher.view == (0.25, 2.0)
