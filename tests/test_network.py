"""What FFmpeg is told about URLs, and how delays between attempts grow."""

from __future__ import annotations

import random

import pytest

from streamface.errors import UsageError
from streamface.network import Backoff, NetworkOptions, parse_duration_s


def test_delays_double_up_to_the_limit_and_begin_again():
    class Middle:
        def random(self):
            return 0.5

    backoff = Backoff(first_s=0.25, most_s=3, rng=Middle())
    assert [backoff.delay_s() for _ in range(6)] == [0.25, 0.5, 1, 2, 3, 3]
    backoff.reset(2)
    assert [backoff.delay_s() for _ in range(2)] == [2, 3]
    backoff.reset()
    assert [backoff.delay_s() for _ in range(2)] == [0.25, 0.5]
    backoff.reset(2)
    assert backoff.delay_s() == 1


def test_delays_differ_and_a_seed_repeats_them():
    def delays(seed):
        backoff = Backoff(rng=random.Random(seed))
        return [backoff.delay_s() for _ in range(20)]

    assert delays(1) == delays(1)
    assert delays(1) != delays(2)
    assert all(0.125 <= each <= 45 for each in delays(3))


@pytest.mark.parametrize(
    ("url", "expected_s"),
    [
        ("rtsp://cam/live", 5),
        ("http://cam/video.mjpg", 5),
        ("https://cdn/live/index.M3U8?token=x", 30),
        ("/dev/video0", 5),
    ],
)
def test_playlists_are_given_more_time(url, expected_s):
    assert NetworkOptions().read_timeout_of(url) == expected_s
    assert NetworkOptions(read_timeout_s=2).read_timeout_of(url) == 2


@pytest.mark.parametrize(
    ("url", "option"),
    [
        ("rtsp://cam/live", ("rtsp_transport", "udp")),
        ("RTSPS://cam/live", ("rtsp_transport", "udp")),
        ("udp://0.0.0.0:5000", ("overrun_nonfatal", "1")),
        ("https://host/file.mp4", ("reconnect", "1")),
    ],
)
def test_each_protocol_gets_its_options(url, option):
    assert option in NetworkOptions(rtsp_transport="udp").ffmpeg_options(url).items()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rtsp_transport": "sctp"}, "--rtsp-transport is tcp or udp, not 'sctp'"),
        ({"on_gap": "black"}, "--on-gap is hold, slate or skip, not 'black'"),
        ({"open_timeout_s": 0}, "--open-timeout must be above 0 .* got 0"),
        ({"read_timeout_s": -1}, "--read-timeout must be above 0 .* got -1"),
        ({"reconnect": -1}, "--reconnect must be 0 or more attempts, got -1"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, what):
    with pytest.raises(UsageError, match=what):
        NetworkOptions(**options)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("45s", 45), ("10m", 600), ("1.5h", 5400), (" 2M ", 120)]
)
def test_times_are_read(text, seconds):
    assert parse_duration_s(text, "--segment") == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-1", "10x", "m", "1e3"])
def test_wrong_times_are_refused(text):
    with pytest.raises(UsageError, match="--segment takes a time such as"):
        parse_duration_s(text, "--segment")
