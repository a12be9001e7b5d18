"""asv benchmarks of sharpbench; `asv.conf.json` points here."""
