"""What torch differentiates wrongly or not often enough, by its formula."""
