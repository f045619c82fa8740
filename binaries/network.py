"""A network of the process's own, which nothing outside it reaches. Imports no TensorFlow.

Reverb's server listens on all interfaces and asks nobody who they are; with loopback alone there is nobody to ask.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 1
CAPABILITY_VERSION = 0x20080522
"""of capset(2)'s two structures"""
PRIVATE = "this run's own, loopback only (--private_network=False: this machine's)"
OPEN = "this machine's: others can reach the replay server, which asks nobody who they are"


def separate(flags: Mapping[str, Any], window: bool = False) -> str:
    """Takes a run with `flags` out of others' reach, unless it has business with them; returns what to say of it.

    `window`: whether it shows one.
    """
    alone = flags["private_network"] and flags["sys"] == "local" and not flags["port"]
    if alone and not (window and display_needs_network()) and enter_private():
        return PRIVATE
    return OPEN


def enter_private() -> bool:
    """Moves this process, and all that it starts from now on, into a network where only loopback exists, and is up.

    Returns whether it could; where not, nothing has changed. Root needs CAP_SYS_ADMIN (which containers often lack);
    others need user namespaces, and keep their user, their group and their files.

    To be called while the process has one thread, before TensorFlow is imported: threads stay in the network that they
    were started in.
    """
    # A trial by a child, because there is no way back: some systems allow the new namespace and refuse what follows.
    # The fork also ends the threads of numpy's OpenBLAS, which come back when they are needed.
    trial = os.fork()
    if trial == 0:
        code = 1
        try:
            with contextlib.suppress(OSError):
                _enter()
                code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(trial, 0)
    if status or len(os.listdir("/proc/self/task")) > 1:
        return False
    _enter()
    return True


def display_needs_network() -> bool:
    """Whether windows are shown through a TCP connection, as with `ssh -X`: a display on this machine is a file."""
    return os.environ.get("DISPLAY", "").partition(":")[0] not in ("", "unix")


def _enter() -> None:
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", CLONE_NEWNET)
    except PermissionError:
        # In a user namespace root would lose its rights to the files of others.
        if user == 0:
            raise
        _call("unshare", CLONE_NEWUSER | CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        _set_loopback_up()
        _drop_capabilities()
    else:
        _set_loopback_up()


def _set_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack("16xh14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def _drop_capabilities() -> None:
    """Those that a new user namespace gives its first process, over the user's own files too."""
    header = struct.pack("Ii", CAPABILITY_VERSION, 0)
    _call("capset", header, bytes(2 * 3 * 4))


def _call(name: str, *arguments: int | bytes) -> None:
    """Calls a function of the C library that returns 0 or sets errno; raises OSError."""
    if ctypes.CDLL(None, use_errno=True)[name](*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
