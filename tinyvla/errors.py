"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake the user can mend. The message is one line: what is wrong, then what to do about it.

    Entry points print it on stderr and leave with exit code 2; anything else is a bug and keeps its traceback.
    """
