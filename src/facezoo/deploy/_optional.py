"""Optional packages."""

from __future__ import annotations

import importlib
from typing import Any


def need(name: str) -> Any:
    """Import an optional package of the ``export`` extra.

    Raises:
        ImportError: it is not installed; the message says what to install.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"this needs {package}, which could not be imported ({error}): pip install 'facezoo[export]'"
        ) from error
