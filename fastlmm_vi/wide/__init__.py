"""The wide model y = Zω + Xβ + e: design → storage → spectrum → newton | em | mean_field → estimator."""
