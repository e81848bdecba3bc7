from rotograd_cli.runs.loading import LoadedRun as LoadedRun
from rotograd_cli.runs.loading import load_run as load_run
from rotograd_cli.runs.prediction_files import Predictions as Predictions
from rotograd_cli.runs.prediction_files import read_predictions as read_predictions

__version__: str
__all__ = ["LoadedRun", "Predictions", "__version__", "load_run", "read_predictions"]
