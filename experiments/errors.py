"""Errors a user can mend: one line on the terminal, no traceback."""


class RunError(RuntimeError):
    """The run's folder cannot be used: foreign, read-only, or on a full disk."""


class NotFinite(FloatingPointError):
    """NaN or infinity in a loss, a gradient or a parameter."""
