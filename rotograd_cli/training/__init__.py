"""The training loop: state, step, loop, evaluation, checkpoints."""
