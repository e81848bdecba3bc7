"""The network of K tasks: forward and backward pass, and what is measured of the gradients."""
