"""Runs a script in a process that reaches no other machine.

python tests/browser/offline.py SCRIPT [ARGUMENT ...]
"""

import pathlib
import runpy
import sys

_HERE = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "", None)


def _refuse(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
    else:
        return
    if host not in _HERE:
        print(f"ASKED FOR {host}", flush=True)
        raise OSError(f"There is no network: {host}")


if __name__ == "__main__":
    sys.addaudithook(_refuse)
    sys.argv = sys.argv[1:]
    sys.path[0] = str(pathlib.Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
