"""Records on disk: crash-safe, resumable, nothing pickled."""
