"""A limit ends what it is over, and leaves nothing behind, at whichever moment it is reached."""

from __future__ import annotations

import signal
import time

import pytest

from sharpbench.errors import TimeLimitExceeded
from sharpbench.suite.limits import time_limit


@pytest.fixture
def around():
    """A handler and a timer of somebody else, who is to find them as they were."""
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    signal.setitimer(signal.ITIMER_REAL, 3600)
    yield rung
    assert signal.setitimer(signal.ITIMER_REAL, 0)[0] > 3000
    signal.raise_signal(signal.SIGALRM)
    assert rung == [1]
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("around")
def test_a_limit_that_is_over_at_once_leaves_nothing():
    for _ in range(200):
        with pytest.raises(TimeLimitExceeded, match="it took longer"), time_limit(1e-6, "it"):
            time.sleep(60)


@pytest.mark.usefixtures("around")
def test_a_limit_that_is_over_while_it_is_set_leaves_nothing(monkeypatch):
    real = signal.setitimer

    def rings(which, seconds):
        told = real(which, seconds)
        if seconds == 60:
            signal.raise_signal(signal.SIGALRM)
        return told

    monkeypatch.setattr(signal, "setitimer", rings)
    with pytest.raises(TimeLimitExceeded), time_limit(60, "it"):
        pytest.fail("it began")
    monkeypatch.undo()


@pytest.mark.usefixtures("around")
def test_a_limit_that_is_over_while_it_is_taken_away_comes_too_late(monkeypatch):
    real = signal.setitimer

    def rings(which, seconds):
        if seconds == 0:
            signal.raise_signal(signal.SIGALRM)
        return real(which, seconds)

    monkeypatch.setattr(signal, "setitimer", rings)
    with time_limit(60, "it"):
        pass
    monkeypatch.undo()
