"""How fast each stage of tracking is: several engines interleaved in one run."""
