"""Export: a trained state as one inference model, in the format and precision that is asked for, proven as written."""

from netc_runtime.export.bake import bake, fold, load_infer
from netc_runtime.export.options import ExportOptions
from netc_runtime.export.report import ExportReport
from netc_runtime.export.run import export_run
from netc_runtime.export.verify import Agreement

__all__ = ["Agreement", "ExportOptions", "ExportReport", "bake", "export_run", "fold", "load_infer"]
