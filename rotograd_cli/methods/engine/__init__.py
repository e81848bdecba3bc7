"""The network of K tasks, forward and backward.

One training step, in the order of the modules:

1. ``network.py`` runs the backbone and detaches its features z. The heads run on *leaves*
   (``methods/heads/``): what each of them sees of z, rotated or not.
2. ``passes.py`` keeps leaves and outputs of this forward pass, a :class:`ForwardPass`, until the
   backward pass, which differentiates the losses at the leaves.
3. ``method.py`` is that backward pass. It reads the losses (``step.py``), asks whether each
   depends on its own head alone (``attribution.py``), has the task gradients measured
   (``methods/statistics.py``), lets the rule combine them, and carries the result on through the
   backbone.

``methods/parts.py`` refuses what no network can be made of; ``misuse.py`` watches the first steps
for training loops that train something else.
"""
