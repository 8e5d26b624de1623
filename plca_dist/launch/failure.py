"""What went wrong while running and is not the user's input. Imports nothing, so that the command line may know it."""


class RunFailed(RuntimeError):
    """Work stopped for a reason that better input would not have prevented; the message says which and what it left.

    The command line prints it as one line and exits with code 1.
    """
