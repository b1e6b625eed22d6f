"""The error that a person at the command line sees, and what other errors say in one line."""


class UserError(Exception):
    """A wrong key, value, file or missing package: one line that names it and says what is allowed.

    The command line prints the message alone and exits with code 2 (`debug=true` shows the traceback).
    """


def reason_of(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
