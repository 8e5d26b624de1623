"""A fault of this program: one line for the person, and the traceback in a file of theirs."""

import os
import re
import tempfile
import traceback

from plca_dist.errors import first_line

#: Names of variables whose values are no one else's business, such as AWS_SECRET_ACCESS_KEY.
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|KEY|CONNECTION_STRING", re.IGNORECASE)


def explained(error: BaseException) -> str:
    """The line about `error`. It names the file with the traceback, which only its owner can read."""
    line = _without_secrets(" ".join(first_line(error, with_type=True)[:300].split()))
    report = _without_secrets("".join(traceback.format_exception(error)))
    try:
        descriptor, log = tempfile.mkstemp(".log", "error-", tempfile.mkdtemp(prefix="plca-"))  # 0600 in 0700
        with os.fdopen(descriptor, "w", errors="backslashreplace") as file:
            file.write(report)
    except OSError as refused:
        return f"unexpected {line}; its traceback could not be written ({refused.strerror})."
    return f"unexpected {line}; please report it with {log}."


def _without_secrets(text: str) -> str:
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= 6:
            text = text.replace(value, f"<{name}>")
    return text
