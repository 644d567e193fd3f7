"""Libraries that only some sources need: imported where they are used, and named where they are missing."""

import importlib
from types import ModuleType

from netc_runtime.errors import DriverError, ExitCode


def require(module: str, extra: str, what: str) -> ModuleType:
    """Return a module; raises DriverError (3) that says what it is for and which extra installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise DriverError(
            f'{what} needs {library}, which is not installed; install it with: pip install "netc[{extra}]"',
            ExitCode.ENVIRONMENT,
        ) from error
