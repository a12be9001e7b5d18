"""From a suite file to records: parse, plan, execute, run."""
