"""The audit of arXiv:2511.01438: its claims, what the records say of them, its section of the report."""
