"""The command line: each verb parses, calls and prints; torch is imported inside the verbs."""

from sharpbench.cli.app import app, main

__all__ = ["app", "main"]
