"""Commands run under observation: every host that a process of theirs asks for, and every file that they leave below their home.

The observer is a library that the dynamic linker loads first (LD_PRELOAD), into all processes that the command starts. It stands in
front of the C library's calls, so that connections of compiled code are seen as well as Python's, and lets none of them out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_NETWORK = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *call, const char *where) {
    char line[512];
    int length = snprintf(line, sizeof line, "%s %s\n", call, where ? where : "");
    int file = open(getenv("OBSERVED_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (file >= 0) { if (write(file, line, length) < 0) abort(); close(file); }
}

static int outside(const char *call, const struct sockaddr *address) {
    char text[64] = "";
    if (address == NULL) return 0;
    if (address->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr, text, sizeof text);
    else if (address->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)address)->sin6_addr, text, sizeof text);
    else
        return 0;  /* AF_UNIX: the machine's own */
    note(call, text);
    errno = ENETUNREACH;
    return 1;
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    return outside("connect", address) ? -1 : real(fd, address, length);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length) {
    ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "sendto");
    return outside("sendto", address) ? -1 : real(fd, data, size, flags, address, length);
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    note("getaddrinfo", host);
    return EAI_FAIL;
}
"""

# A container's filter of system calls that refuses to set an affinity, as seccomp profiles do: the calls fail with EPERM.
_NO_AFFINITY = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>

int sched_setaffinity(pid_t pid, size_t size, const cpu_set_t *set) { errno = EPERM; return -1; }
int pthread_setaffinity_np(pthread_t thread, size_t size, const cpu_set_t *set) { return EPERM; }
int pthread_attr_setaffinity_np(pthread_attr_t *attributes, size_t size, const cpu_set_t *set) { return EPERM; }
"""


def network_observer(cc: str, folder: Path) -> Path:
    """The observer of connections, compiled into `folder`."""
    return _compiled(cc, folder / "network.so", _NETWORK)


def no_affinity(cc: str, folder: Path) -> Path:
    """A library under which no process may set its affinity, compiled into `folder`."""
    return _compiled(cc, folder / "no_affinity.so", _NO_AFFINITY)


def _compiled(cc: str, library: Path, source: str) -> Path:
    command = [cc, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
    subprocess.run(command, input=source, text=True, check=True, capture_output=True)
    return library


@dataclass(frozen=True)
class Observed:
    """What a command did: how it ended, whom it asked for, and what lies below its home folder, which was empty before."""

    done: subprocess.CompletedProcess[str]
    asked: list[str]
    left: list[str]


def observed(observer: Path, folder: Path, *arguments: object, home: Path | None = None, **variables: str) -> Observed:
    """Run `python ARGUMENTS` in a home folder of its own; nothing but PATH and the Python path comes from this environment.

    Args:
        observer: see `network_observer`.
        folder: for the log and the home; also the working folder.
        arguments: of Python.
        home: one that is there already, in place of an empty one.
        variables: of the environment.
    """
    log = folder / "network.log"
    log.unlink(missing_ok=True)
    home = home or folder / "home"
    home.mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "HOME": str(home),
        "OMP_NUM_THREADS": "1", "EDGEKIT_CACHE": str(folder / "cache"), "LD_PRELOAD": str(observer), "OBSERVED_LOG": str(log), **variables,
    }  # fmt: skip
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    asked = log.read_text().splitlines() if log.exists() else []
    return Observed(done, asked, sorted(str(p.relative_to(home)) for p in home.rglob("*")))
