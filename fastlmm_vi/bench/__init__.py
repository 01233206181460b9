"""Benchmarks as a product: one registry of cases, measured side by side against yardsticks of the same run."""
