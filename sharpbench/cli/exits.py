"""Exit codes of every verb; a signal that ends the program adds its number to 128, as in a shell."""

__all__ = ["BAD_INPUT", "DONE", "INTERRUPTED", "SOME_FAILED", "ended_by"]

DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def ended_by(signal_number: int) -> int:
    """The exit code after a signal."""
    return 128 + signal_number
