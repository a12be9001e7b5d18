"""Exit codes of every verb."""

__all__ = ["BAD_INPUT", "DONE", "INTERRUPTED", "SOME_FAILED"]

DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
