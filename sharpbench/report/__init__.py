"""Tables to figures (seaborn) to one self-contained HTML page. Knows nothing of how they were computed."""
