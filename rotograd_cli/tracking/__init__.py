"""Where the records of a run go: files, terminal, Weights & Biases."""
