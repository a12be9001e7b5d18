"""Records (a pandas frame) to tables; one file a question. Knows nothing of HTML or files."""
