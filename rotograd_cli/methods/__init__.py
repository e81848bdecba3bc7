"""Multi-task-learning methods for loops of your own, and every rule that they combine.

``from rotograd_cli.methods import RotoGrad`` replaces ``from rotograd import RotoGrad``;
``docs/migration.md`` lists what differs on purpose. A *network* (``RotoGrad``, ``VanillaMTL``)
takes a backbone and heads. All others are *rules*, which a network takes:
``MultiTaskMethod(backbone, heads, CAGrad(c=0.4))``, or with rotations
``Rotate(backbone, heads, 64, rule=PCGrad())``. ``docs/recipes.md`` has loops to copy.
"""

from rotograd_cli.methods.alignedmtl import AlignedMTL
from rotograd_cli.methods.cagrad import CAGrad
from rotograd_cli.methods.dbmtl import DBMTL
from rotograd_cli.methods.distributed import distribute
from rotograd_cli.methods.dwa import DynamicWeightAverage
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.engine.passes import ExtraOutputs
from rotograd_cli.methods.excessmtl import ExcessMTL
from rotograd_cli.methods.fairgrad import FairGrad
from rotograd_cli.methods.famo import FAMO
from rotograd_cli.methods.fixed import FixedWeights
from rotograd_cli.methods.gls import GeometricLoss
from rotograd_cli.methods.go4align import GO4Align
from rotograd_cli.methods.graddrop import GradDrop
from rotograd_cli.methods.gradnorm import GradNorm, GradNormWeights
from rotograd_cli.methods.imtl import IMTL
from rotograd_cli.methods.imtlg import IMTLG
from rotograd_cli.methods.imtlg_rotations import IMTLGRotations
from rotograd_cli.methods.imtll import IMTLL
from rotograd_cli.methods.mgda import MGDA
from rotograd_cli.methods.nashmtl import NashMTL
from rotograd_cli.methods.pcgrad import PCGrad
from rotograd_cli.methods.pivrg import PIVRG
from rotograd_cli.methods.rlw import RandomLossWeighting
from rotograd_cli.methods.rotate import Rotate
from rotograd_cli.methods.rotateonly import RotateOnly
from rotograd_cli.methods.rotation.holding import cached
from rotograd_cli.methods.rotograd import RotoGrad
from rotograd_cli.methods.rotogradnorm import RotoGradNorm
from rotograd_cli.methods.rule import Rule
from rotograd_cli.methods.scaleonly import ScaleOnly
from rotograd_cli.methods.si import ScaleInvariant
from rotograd_cli.methods.single import SingleTask
from rotograd_cli.methods.stch import STCH
from rotograd_cli.methods.uncertainty import UncertaintyWeighting
from rotograd_cli.methods.upgrad import UPGrad
from rotograd_cli.methods.vanilla import VanillaMTL

__all__ = [
    "DBMTL",
    "FAMO",
    "IMTL",
    "IMTLG",
    "IMTLL",
    "MGDA",
    "PIVRG",
    "STCH",
    "AlignedMTL",
    "CAGrad",
    "DynamicWeightAverage",
    "ExcessMTL",
    "ExtraOutputs",
    "FairGrad",
    "FixedWeights",
    "GO4Align",
    "GeometricLoss",
    "GradDrop",
    "GradNorm",
    "GradNormWeights",
    "IMTLGRotations",
    "MultiTaskMethod",
    "NashMTL",
    "PCGrad",
    "RandomLossWeighting",
    "Rotate",
    "RotateOnly",
    "RotoGrad",
    "RotoGradNorm",
    "Rule",
    "ScaleInvariant",
    "ScaleOnly",
    "SingleTask",
    "UPGrad",
    "UncertaintyWeighting",
    "VanillaMTL",
    "cached",
    "distribute",
]
