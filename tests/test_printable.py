"""Text that is shown in a terminal: what it cannot do there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layer1.0/Conv", "layer1.0/Conv"),
        ("größe 猫 🦊 é", "größe 猫 🦊 é"),
        (r"C:\net.onnx", r"C:\net.onnx"),
        ("[red]a[/b]", "[red]a[/b]"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\x9b2Jb", r"a\x9b2Jb"),
        ("a\rb\nc\td", r"a\rb\nc\td"),
        ("a\0b", r"a\x00b"),
        ("a\u202eb\u2066c\u200bd", r"a\u202eb\u2066c\u200bd"),
        ("a\u2028b\u2029c\xa0d", r"a\u2028b\u2029c\xa0d"),
        ("a\udc80b", r"a\udc80b"),
        ("a\U000e0041b", r"a\U000e0041b"),
        ("", ""),
    ],
)
def test_what_is_not_printable_is_shown_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_what_is_shown_is_one_printable_line_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text
