"""Many runs from one file: plan, run, log, table."""
