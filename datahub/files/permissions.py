"""Who may do what with a file."""

from __future__ import annotations

import os
import pwd
import stat

__all__ = ["set_mode", "user_name"]


def set_mode(file: int, mode: int) -> None:
    """Give an open file or folder its mode whatever the umask; a folder keeps the set-group-id bit it inherited."""
    os.fchmod(file, mode | os.fstat(file).st_mode & stat.S_ISGID)


def user_name() -> str:
    """Give the name of the user whose rights this process has, or the number of one without a name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
