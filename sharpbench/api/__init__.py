"""What users call from Python: one measurement, a suite, its results and page, a metric's rank."""
