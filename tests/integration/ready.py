#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Waits until a daemon answers on its administrator's socket: ready.py SOCKET PID [SECONDS].

Waits for events, not for time to pass: the socket's file appears (inotify), or the process ends
(pidfd); then one request is sent, which the daemon answers when it has started.  Only between the
file's appearance and listen() there is nothing to wait for, so a refused connection is tried again
after a few milliseconds.  Exit status 0: it answers.  1: it ended, or does not answer in time.

ready.py --ended PID [SECONDS] waits for the process's end.
"""
import ctypes
import os
import select
import socket
import sys
import time

IN_CREATE = 0x100
IN_MOVED_TO = 0x80
REQUEST = b'{"quarry":1,"verb":"daemon.info"}\n'


def answers(path, pidfd, deadline):
    """True: it answered; False: it did not take the connection; raises if it ended."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        try:
            sock.sendall(REQUEST)
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            poll.register(pidfd, select.POLLIN)
            ready = {fd for fd, _ in poll.poll(max(0, deadline - time.monotonic()) * 1000)}
            if pidfd in ready:
                raise ProcessLookupError
            return sock.fileno() in ready and sock.recv(65536) != b""
        except (BrokenPipeError, ConnectionResetError):
            return False


def wait_ready(path, pid, seconds=30):
    deadline = time.monotonic() + seconds
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    inotify = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    libc.inotify_add_watch(inotify, os.path.dirname(os.path.abspath(path)).encode(), IN_CREATE | IN_MOVED_TO)
    try:
        while time.monotonic() < deadline:
            there = os.path.exists(path)
            if answers(path, pidfd, deadline):
                return True
            poll = select.poll()
            poll.register(inotify, select.POLLIN)
            poll.register(pidfd, select.POLLIN)
            left_ms = max(0, deadline - time.monotonic()) * 1000
            ready = {fd for fd, _ in poll.poll(min(left_ms, 5) if there else left_ms)}
            if pidfd in ready:
                return False
            if inotify in ready:
                os.read(inotify, 65536)
        return False
    except ProcessLookupError:
        return False
    finally:
        os.close(inotify)
        os.close(pidfd)


def wait_ended(pid, seconds=60):
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


if __name__ == "__main__":
    if sys.argv[1] == "--ended":
        sys.exit(0 if wait_ended(int(sys.argv[2]), float((sys.argv + ["60"])[3])) else 1)
    sys.exit(0 if wait_ready(sys.argv[1], int(sys.argv[2]), float((sys.argv + ["30"])[3])) else 1)
