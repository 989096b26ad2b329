"""The checks of ``collector-config`` are on files, and the same whatever Python runs them.

So an environment that was made to try the package alone, without their tools (PyYAML is one), leaves them out and
says so; the one that ``make unit`` sets up has them.
"""

import warnings
from importlib.util import find_spec

MISSING = [name for name in ("yaml", "kubernetes_validate") if find_spec(name) is None]
collect_ignore_glob = ["*"] if MISSING else []
if MISSING:
    warnings.warn(f"collector-config is NOT checked here: {', '.join(MISSING)} not installed", stacklevel=1)
