"""Figures: a file of this folder and one of ``conf/figure`` each (``base.py``)."""
