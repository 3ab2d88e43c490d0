"""What the benchmarks of training share: models of random weights, the ways to train them, FLOPs, clocks."""
