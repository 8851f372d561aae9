"""The person gate: steady against noise, safe against everything that can go wrong."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tinyvla.errors import UserError
from tinyvla.frontends.wake import GateLimits, PersonGate, Reason

FPS = 8.0  # so that times are exact
LIMITS = GateLimits(on=0.6, off=0.4, on_count=2, hold_s=1.0, stale_s=0.35, repeat_s=0.5)
RNG = np.random.default_rng(0)


def frame():
    return RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)


class Stream:
    """A gate, and frames one after the other at 8 Hz."""

    def __init__(self, limits=LIMITS):
        self.gate, self.now = PersonGate(limits), 100.0

    def see(self, *probabilities, images=None):
        """Reason of the gate after each frame."""
        reasons = []
        for index, probability in enumerate(probabilities):
            self.now += 1 / FPS
            self.gate.see(self.now, probability, frame() if images is None else images[index])
            reasons.append(self.gate.reason(self.now))
        return reasons

    @classmethod
    def open(cls, limits=LIMITS):
        stream = cls(limits)
        stream.see(*[0.0] * 15)
        assert stream.gate.reason(stream.now) == Reason.EMPTY
        return stream


def test_before_the_first_frames_somebody_might_be_there():
    stream = Stream()
    assert stream.gate.reason(stream.now) == Reason.NO_FRAME
    assert stream.see(*[0.0] * 10) == [Reason.HOLDING] * 8 + [Reason.EMPTY] * 2


def test_one_frame_is_no_person_and_two_are():
    stream = Stream.open()
    assert stream.see(0.9, 0.0, 0.7, 0.5, 0.9) == [Reason.EMPTY] * 5
    assert stream.see(0.6, 0.0) == [Reason.PERSON, Reason.HOLDING]


def test_once_seen_it_takes_less_to_stay_so():
    stream = Stream.open()
    assert stream.see(0.5, 0.5, 0.5) == [Reason.EMPTY] * 3
    assert stream.see(0.9, 0.9, 0.5, 0.4, 0.39) == [Reason.EMPTY] + [Reason.PERSON] * 3 + [Reason.HOLDING]
    # No person for less than the hold time, then a person who is hard to see.
    assert stream.see(*[0.0] * 6, 0.45)[-1] == Reason.PERSON
    # No person for the whole hold time: from then on a probability of `on` is needed again.
    assert stream.see(*[0.0] * 12, 0.45)[-2:] == [Reason.EMPTY, Reason.EMPTY]


def test_it_opens_when_no_person_was_seen_for_the_hold_time():
    stream = Stream.open()
    stream.see(0.9, 0.9)
    assert stream.see(*[0.0] * 9) == [Reason.HOLDING] * 7 + [Reason.EMPTY] * 2
    in_view = [stream.gate.person_in_view(stream.now + late) for late in (0.0, 0.3, 0.4)]
    assert in_view == [False, False, True]  # asking changes nothing


def test_without_a_hold_time_hysteresis_still_works():
    stream = Stream.open(GateLimits(on=0.6, off=0.4, on_count=1, hold_s=0.0))
    assert stream.see(0.7, 0.5, 0.3, 0.5) == [Reason.PERSON, Reason.PERSON, Reason.EMPTY, Reason.EMPTY]


def test_frames_that_stop():
    stream = Stream.open()
    assert stream.gate.reason(stream.now + 0.34) == Reason.EMPTY
    assert stream.gate.reason(stream.now + 0.36) == Reason.NO_FRAME
    stream.now += 0.5
    assert stream.see(*[0.0] * 9) == [Reason.HOLDING] * 8 + [Reason.EMPTY]


def test_frames_that_repeat():
    stream, same = Stream.open(), frame()
    reasons = stream.see(*[0.0] * 6, images=[same.copy() for _ in range(6)])
    assert reasons == [Reason.EMPTY] * 4 + [Reason.FROZEN] * 2
    assert stream.see(*[0.0] * 8) == [Reason.HOLDING] * 7 + [Reason.EMPTY]
    drawn = Stream.open(replace(LIMITS, repeat_s=None))
    assert set(drawn.see(*[0.0] * 20, images=[same] * 20)) == {Reason.EMPTY}


def test_a_detector_that_fails():
    stream = Stream.open()
    stream.now += 1 / FPS
    stream.gate.fail(stream.now)
    assert stream.gate.reason(stream.now) == Reason.FAILED
    assert stream.see(0.0) == [Reason.HOLDING]


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, 2.0])
def test_a_probability_that_is_none(nonsense):
    stream = Stream.open()
    assert stream.see(nonsense, nonsense)[-1] == Reason.PERSON


def test_times_that_make_no_sense():
    stream = Stream.open()
    stream.gate.see(stream.now - 1, 1.0)  # older than what is known
    stream.gate.see(stream.now, 1.0)
    assert stream.gate.reason(stream.now) == Reason.EMPTY
    assert stream.gate.reason(stream.now - 1) == Reason.NO_FRAME  # the newest frame comes from the future
    assert stream.gate.reason(math.nan) == Reason.NO_FRAME
    stream.gate.see(math.nan, 0.0)
    assert stream.gate.reason(stream.now) == Reason.NO_FRAME
    assert stream.see(*[0.0] * 11)[0] == Reason.HOLDING
    assert stream.gate.reason(stream.now) == Reason.EMPTY


@pytest.mark.parametrize(
    "wrong",
    [
        {"on": 0.3, "off": 0.4},
        {"on": 1.2},
        {"on": math.nan},
        {"on_count": 0},
        {"hold_s": -1.0},
        {"stale_s": math.inf},
        {"repeat_s": 0.0},
    ],
)
def test_limits_that_make_no_sense(wrong):
    with pytest.raises(UserError, match="the gate's"):
        GateLimits(**wrong)


def test_random_streams_never_open_onto_a_person():
    """Whatever came before, two sure frames close the gate, and it stays closed for the hold time."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        stream = Stream()
        stream.see(*rng.choice([0.0, 0.5, 0.9, math.nan], rng.integers(0, 30)))
        stream.now += rng.choice([0.0, 1.0])
        assert stream.see(0.9, 0.9)[-1] == Reason.PERSON
        assert stream.see(*rng.uniform(0, 1, 7)).count(Reason.EMPTY) == 0
