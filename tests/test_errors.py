"""One line of an error, whatever its message looks like."""

import pytest

from plca_dist.errors import UserError, first_line


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
