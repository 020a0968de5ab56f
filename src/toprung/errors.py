"""The error a user can mend: its text is the one line the command line prints."""


class UserError(ValueError):
    """What a user gave cannot be used.

    The text says what was given, what is needed and what to type next; the command line prints it without a
    traceback and ends with exit code 2.
    """
