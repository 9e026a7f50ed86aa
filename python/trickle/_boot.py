# SPDX-License-Identifier: MIT
"""What the supervisor starts for each VM: PYTHON .../trickle/_boot.py

Any Python may be given, so the first lines must make sense to old ones too. The package is loaded
from this directory and nothing of it gets onto sys.path: user code sees the modules of its own
Python and what was injected.
"""
import sys

if sys.version_info < (3, 11):
    sys.stderr.write("trickle needs Python 3.11 or later for its VMs; %s is Python %s\n"
                     % (sys.executable, sys.version.split()[0]))
    sys.exit(2)


def load_package(directory):
    """Makes `trickle` importable without its parent directory on sys.path."""
    from importlib import _bootstrap, _bootstrap_external
    spec = _bootstrap_external.spec_from_file_location(
        "trickle", directory + "/__init__.py", submodule_search_locations=[directory])
    module = _bootstrap.module_from_spec(spec)
    sys.modules["trickle"] = module
    spec.loader.exec_module(module)


def main():
    import _signal
    import os
    directory = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.realpath(sys.path[0] or ".") == os.path.realpath(directory):
        del sys.path[0]
    load_package(directory)
    from trickle import _trickle
    from trickle._server import Server
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True,
                           write_through=False)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    namespace = type(sys)("__main__")
    namespace.__builtins__ = sys.modules["builtins"]
    namespace.__annotations__ = {}
    sys.modules["__main__"] = namespace
    sys.argv = [""]
    # Removed from the environment by serve(), which needs it; here it is a copy.
    getattr(os.environ, "_data", {}).pop(b"TRICKLE_VM_FDS", None)
    _trickle.serve(Server(namespace))


if __name__ == "__main__":
    main()
