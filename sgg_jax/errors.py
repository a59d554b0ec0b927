"""The one exception that is the user's business: its text says what is wrong, where, and how to mend it."""


class InputError(ValueError):
    """Bad input (config, file, label id, weights). `main.py` prints the sentence and exits with code 2."""
