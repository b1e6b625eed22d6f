"""The error that a person at the command line sees."""


class UserError(Exception):
    """A wrong key, value, file or missing package: one line that names it and says what is allowed.

    The command line prints the message alone and exits with code 2 (`debug=true` shows the traceback).
    """
