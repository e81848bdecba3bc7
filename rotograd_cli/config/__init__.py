"""From command line and YAML files to a typed configuration and constructors."""
