"""Published networks in plain torch, compactly, that the other benchmarks run on."""
