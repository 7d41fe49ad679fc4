from __future__ import annotations

import signal
import threading

import pytest

from maskpack.compressor.training.checkpoint import deferred_interrupt


def test_the_first_ctrl_c_is_noted_and_the_second_stops_at_once():
    with deferred_interrupt() as pressed:
        assert pressed() is False
        signal.raise_signal(signal.SIGINT)
        assert pressed() is True
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_however_the_block_ends_ctrl_c_means_what_it_did_before(error):
    before = signal.getsignal(signal.SIGINT)
    try:
        with deferred_interrupt():
            assert signal.getsignal(signal.SIGINT) is not before
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt) as raised:
        assert type(raised) is error  # noqa: PT017 - either may come, or none
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_nothing_is_ever_pressed():
    said = []

    def look() -> None:
        before = signal.getsignal(signal.SIGINT)
        with deferred_interrupt() as pressed:
            said.extend([pressed(), signal.getsignal(signal.SIGINT) is before])

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(10)
    assert said == [False, True]
