from __future__ import annotations

import pytest

from deepseek.units import Duration, Percent, Size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("150us", 150e-6),
        ("2ms", 2e-3),
        ("1.5s", 1.5),
        ("5m", 300),
        ("1h", 3600),
        ("7d", 604800),
        (0, 0),
        (" 2 ms ", 2e-3),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert Duration.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["2 apples", "ms", "-2ms", 5, True, None, "", "2ms2", "1e400s2"])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (the message is made by the caller, who knows the key)
        Duration.parse(text)


@pytest.mark.parametrize(
    ("text", "count"), [("16GiB", 2**34), ("512MiB", 2**29), ("2GB", 2 * 10**9), (17, 17), ("1B", 1)]
)
def test_sizes(text: object, count: int) -> None:
    assert Size.parse(text) == count


@pytest.mark.parametrize("text", ["16 elephants", -1, True, "GiB", 1.5])
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Size.parse(text)


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("100%", 1), (0.25, 0.25), (1, 1), ("0.5 %", 0.005)])
def test_percentages(text: object, share: float) -> None:
    assert Percent.parse(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["101%", 2, "1", True, "-1%"])
def test_what_is_no_percentage(text: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Percent.parse(text)


@pytest.mark.parametrize(
    "value", [Duration(0.002), Duration(90), Duration(3600), Duration(15e-6), Size(2**34), Percent(0.01)]
)
def test_what_is_printed_can_be_read_again(value: Duration | Size | Percent) -> None:
    assert type(value).parse(str(value)) == pytest.approx(value)
