"""Pure tensor functions, without state: the equations of the paper, each in one place."""
