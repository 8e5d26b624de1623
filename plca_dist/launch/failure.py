"""How a run ends other than by reaching its end or bad input. Imports nothing, so that the command line may know it."""


class RunFailed(RuntimeError):
    """Work stopped for a reason that better input would not have prevented; the message says which and what it left.

    The command line prints it as one line and exits with code 1.
    """


class RunPreempted(RuntimeError):
    """The run was told to leave and left; the message says by whom and where it stands. Exit code 85: requeue it."""
