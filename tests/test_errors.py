"""One line of an error, whatever its message looks like."""

import pytest

from plca_dist.errors import UserError, counted, first_line


@pytest.mark.parametrize(
    ("error", "line", "with_type"),
    [
        (ValueError("too large"), "too large", "ValueError: too large"),
        (UserError("two\nlines become one"), "two lines become one", "UserError: two lines become one"),
        (RuntimeError("\n  what is wrong  \nand where\n"), "what is wrong  ", "RuntimeError: what is wrong  "),
        (RuntimeError(" \n"), "no message", "RuntimeError: no message"),
        (KeyboardInterrupt(), "no message", "KeyboardInterrupt: no message"),
    ],
    ids=repr,
)
def test_the_first_line_of_an_error(error: BaseException, line: str, with_type: str) -> None:
    assert first_line(error) == line
    assert first_line(error, with_type=True) == with_type


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 nodes"), (1, "1 node"), (2, "2 nodes"), (1.0, "1 node"), (1.5, "1.5 nodes")]
)
def test_a_number_and_its_noun_agree(number: float, text: str) -> None:
    assert counted(number, "nodes") == text
