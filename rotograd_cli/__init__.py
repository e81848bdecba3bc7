"""rotograd-cli: train and compare RotoGrad and its rivals from YAML."""

__version__ = "0.1.0"
