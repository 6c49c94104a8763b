"""How the first process of a job is started: by posix_spawn, or by fork where limits are asked for."""

from __future__ import annotations

import errno
import os
import resource
import signal
from typing import Any, Final

from datahub.processes.kernel import IGNORED

__all__ = ["spawn"]

LIMITS: Final = {
    "memory": resource.RLIMIT_AS,
    "cpu_time": resource.RLIMIT_CPU,
    "open_files": resource.RLIMIT_NOFILE,
    "file_size": resource.RLIMIT_FSIZE,
}


def find_program(name: str, environ: dict[str, str]) -> str:
    """Give the path of ``name``, looked for in the job's own PATH; raises `FileNotFoundError`."""
    if "/" in name:
        return name
    for folder in environ.get("PATH", os.defpath).split(":"):
        path = os.path.join(folder or ".", name)  # noqa: PTH118 - pathlib is not loaded here
        if os.access(path, os.X_OK) and not os.path.isdir(path):  # noqa: PTH112
            return path
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def spawn(order: dict[str, Any], stdin: int, stdout: int, stderr: int) -> int:
    """Start the program of ``order`` in a session of its own, its pid; raises `OSError` if that is impossible."""
    os.chdir(order["cwd"])
    argv, environ = order["argv"], order["env"]
    path = find_program(argv[0], environ)
    limits = {LIMITS[name]: value for name, value in order["limits"].items() if name in LIMITS}
    if limits:
        return _fork_and_exec(path, argv, environ, (stdin, stdout, stderr), limits)
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((stdin, stdout, stderr))]
    return os.posix_spawn(path, argv, environ, file_actions=actions, setsid=True, setsigmask=(), setsigdef=IGNORED)


def _fork_and_exec(
    path: str, argv: list[str], environ: dict[str, str], fds: tuple[int, ...], limits: dict[int, int]
) -> int:
    """As posix_spawn, which knows no limits: they must hold before the first instruction."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            os.setsid()
            for each in (*IGNORED, signal.SIGCHLD):
                signal.signal(each, signal.SIG_DFL)
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
            for kind, value in limits.items():
                _limit(kind, value)
            os.execve(path, argv, environ)  # noqa: S606 - there is no shell on purpose
        except OSError as error:
            os.write(writer, b"%d" % (error.errno or 0))
        finally:
            os._exit(127)
    os.close(writer)
    failed = os.read(reader, 16)
    os.close(reader)
    if failed:
        os.waitpid(pid, 0)
        raise OSError(int(failed), os.strerror(int(failed)), path)
    return pid


def _limit(kind: int, value: int) -> None:
    """Set a limit, within what we may have ourselves."""
    hard = resource.getrlimit(kind)[1]
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    # One more second, so that a job is ended by the signal that says why, SIGXCPU.
    resource.setrlimit(kind, (most, most + (kind == resource.RLIMIT_CPU and most != hard)))
