"""MATLAB files read by scipy in a process of its own, which a damaged file may end.

scipy believes the sizes that a file names: of 3,000 files with changed bytes 21 ended its process by a wrong address,
and one asked for 11 GiB. This module is also that process' program, for which it imports nothing of the package.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

# Many times what the largest honest file takes.
MEMORY_BYTES = 2 << 30
CPU_SECONDS = 3
# By which numpy pickles an array: any of its versions, contiguous or not.
_NAMES_OF_ARRAYS = frozenset({"_reconstruct", "_frombuffer", "ndarray", "dtype"})


class MatReader:
    """``reader(path)`` gives a file's variables by name; its process lives on until a file ends it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def __call__(self, path: str | Path) -> dict[str, Any]:
        """The variables of a MATLAB 5 file, as ``scipy.io.loadmat`` gives them.

        Raises:
            ValueError: says what is wrong with the file, without its name.
        """
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{json.dumps(os.path.abspath(path))}\n".encode())
            process.stdin.flush()
            content, error = _Answers(process.stdout).load()
        except (EOFError, OSError) as broken:
            self._process = None
            status = process.wait()
            ended = signal.Signals(-status).name if status < 0 else f"exit code {status}"
            raise ValueError(f"it is damaged: reading it ended the process ({ended})") from broken
        except pickle.UnpicklingError as refused:
            self._stop(process)
            raise ValueError(f"it holds more than arrays and texts: {refused}") from refused
        except BaseException:
            # An answer that nobody waited for would be taken for the next file's.
            self._stop(process)
            raise
        if error is not None:
            raise ValueError(error)
        return content

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        self._process = None
        process.kill()
        process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        # A forked process must not share the pipes of the one before it.
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"},
            )
            self._owner = os.getpid()
        return self._process


class _Answers(pickle.Unpickler):
    """Unpickles arrays and plain values alone: a file that took the other process over can run no code in this one."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] != "numpy" or name not in _NAMES_OF_ARRAYS:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers paths with (content, None) or (None, what is wrong), until there are no more."""
    from scipy.io import loadmat

    # An interrupt is the parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit("RLIMIT_AS", _held_memory() + MEMORY_BYTES)
    while True:
        request = requests.readline()
        if not request:
            return
        path = json.loads(request)
        times = os.times()
        _limit("RLIMIT_CPU", int(times.user + times.system) + CPU_SECONDS)
        try:
            with open(path, "rb") as file:
                answer = pickle.dumps((loadmat(file), None), pickle.HIGHEST_PROTOCOL)
        except MemoryError:
            answer = pickle.dumps((None, f"it is damaged: reading it asks for more than {MEMORY_BYTES >> 30} GiB"))
        except Exception as error:  # A damaged file makes scipy raise anything.
            answer = pickle.dumps((None, f"{type(error).__name__}: {error}"))
        answers.write(answer)
        answers.flush()


def _held_memory() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if statm.is_file() else 0


def _limit(name: str, value: int) -> None:
    try:
        import resource

        kind = getattr(resource, name)
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))
    except (ImportError, ValueError, OSError):  # Windows and macOS know not all limits.
        pass


if __name__ == "__main__":
    # This file's own folder, whose modules are the package's.
    del sys.path[0]
    _serve(sys.stdin.buffer, sys.stdout.buffer)
