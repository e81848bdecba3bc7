"""Multi-task-learning methods, with the names and signatures of the authors' package.

``from rotograd_cli.methods import RotoGrad`` replaces ``from rotograd import RotoGrad``;
``docs/migration.md`` lists what differs on purpose.
"""

from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rotateonly import RotateOnly
from rotograd_cli.methods.rotation.holding import cached
from rotograd_cli.methods.rotograd import RotoGrad
from rotograd_cli.methods.rotogradnorm import RotoGradNorm
from rotograd_cli.methods.vanilla import VanillaMTL

__all__ = ["MultiTaskMethod", "RotateOnly", "RotoGrad", "RotoGradNorm", "VanillaMTL", "cached"]
