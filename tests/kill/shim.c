/* A library for LD_PRELOAD that counts what a command changes below a folder, and at the n-th change kills the command, has the disk full, or
   has one file that can no longer be written.

   It and its tests share the file $EDGEKIT_KILL_STATE (struct state). Every process that inherits the environment counts together: a worker's
   write is as good a moment for a power cut as the command's own. Calls inside libc itself (fwrite to fflush) are not seen; Python, libstdc++
   and the runtimes call write(2) and its like directly. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* TORN: the n-th is a write, half of which is done before the kill. FULL: from the n-th on whatever takes space fails. FAULTY: the n-th fails, and
   so does every later write to that path: a bad sector stays bad, while the rest of the disk goes on. An outage of everything is what FULL is. */
enum { COUNT, KILL, TORN, FULL, FAULTY };

/* What a change does: WRITES without taking space is the opening of a file that is there. */
enum { NEITHER, TAKES_SPACE, WRITES };

struct state {
    _Atomic int64_t command; /* process id; 0 while nothing is to be counted */
    _Atomic int64_t count;
    int64_t at; /* the first is 1 */
    int64_t kind;
    char root[PATH_MAX];
    char log[PATH_MAX];
    char faulty[PATH_MAX]; /* below the root; empty until the n-th change */
};

static struct state *state;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("EDGEKIT_KILL_STATE");
    if (path == NULL) return;
    int handle = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (handle < 0) return;
    void *memory = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
    syscall(SYS_close, handle);
    if (memory != MAP_FAILED) state = memory;
}

static void of_handle(int handle, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
}

static void of_name(int folder, const char *name, char *path) {
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    if (folder == AT_FDCWD) {
        if (syscall(SYS_getcwd, path, PATH_MAX) < 0) path[0] = 0;
    } else {
        of_handle(folder, path);
    }
    size_t length = strlen(path);
    snprintf(path + length, PATH_MAX - length, "/%s", name);
}

static void die(void) {
    syscall(SYS_kill, (pid_t)state->command, SIGKILL);
    syscall(SYS_kill, (pid_t)syscall(SYS_getpid), SIGKILL);
    for (;;) sleep(1);
}

/* Count a change. Gives what is to be done: COUNT to go on, TORN to do half of it and die, FULL or FAULTY to fail. */
static int change(const char *operation, const char *path, int does) {
    size_t length = strlen(state->root);
    if (strncmp(path, state->root, length) != 0 || path[length] != '/') return COUNT;
    int64_t n = atomic_fetch_add(&state->count, 1) + 1;
    char line[PATH_MAX + 64];
    int size = snprintf(line, sizeof line, "%lld %lld %d %s %s\n", (long long)n, (long long)syscall(SYS_getpid), does, operation,
                        path + length + 1);
    int log = syscall(SYS_openat, AT_FDCWD, state->log, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (log >= 0) {
        syscall(SYS_write, log, line, size);
        syscall(SYS_close, log);
    }
    if (state->kind == KILL && n >= state->at) die();
    if (state->kind == TORN && n >= state->at) return TORN;
    if (state->kind == FULL && n >= state->at && does == TAKES_SPACE) return FULL;
    if (state->kind == FAULTY && does != NEITHER) {
        if (n == state->at) strcpy(state->faulty, path);
        if (n >= state->at && strcmp(state->faulty, path) == 0) return FAULTY;
    }
    return COUNT;
}

static int by_handle(const char *operation, int handle, int does) {
    if (state == NULL || state->command == 0) return COUNT;
    int saved = errno;
    char path[PATH_MAX];
    of_handle(handle, path);
    int what = change(operation, path, does);
    errno = saved;
    return what;
}

static int by_name(const char *operation, int folder, const char *name, int does) {
    if (state == NULL || state->command == 0) return COUNT;
    int saved = errno;
    char path[PATH_MAX];
    of_name(folder, name, path);
    int what = change(operation, path, does);
    errno = saved;
    return what;
}

/* One line an operation: nothing but a write can be done by half. */
#define FAILED(answer)                        \
    case FULL: errno = ENOSPC; return answer; \
    case FAULTY: errno = EIO; return answer;

#define REFUSED(what)        \
    switch (what) {          \
    case TORN: die(); break; \
        FAILED(-1)           \
    }

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* What is there already takes no more space when it is opened or "made" again. */
static int absent(int folder, const char *name) {
    struct stat status;
    int saved = errno, answer = state != NULL && state->command != 0 && fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) != 0;
    errno = saved;
    return answer;
}

static int opened(int folder, const char *name, int flags, mode_t mode) {
    if (flags & (O_CREAT | O_TRUNC)) REFUSED(by_name("open", folder, name, absent(folder, name) ? TAKES_SPACE : WRITES))
    return (int)syscall(SYS_openat, folder, name, flags, mode);
}

#define MODE(flags)                                          \
    mode_t mode = 0;                                         \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                 \
        va_list more;                                        \
        va_start(more, flags);                               \
        mode = va_arg(more, mode_t);                         \
        va_end(more);                                        \
    }

int open(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE(flags) return opened(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) { MODE(flags) return opened(folder, name, flags, mode); }
int creat(const char *name, mode_t mode) { return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

#define FOPEN(function)                                                                               \
    FILE *function(const char *name, const char *mode) {                                              \
        if (strpbrk(mode, "wa") != NULL) {                                                            \
            switch (by_name("open", AT_FDCWD, name, absent(AT_FDCWD, name) ? TAKES_SPACE : WRITES)) { \
            case TORN: die(); break;                                                                  \
                FAILED(NULL)                                                                          \
            }                                                                                         \
        }                                                                                             \
        return NEXT(function)(name, mode);                                                            \
    }
FOPEN(fopen)
FOPEN(fopen64)

#define WRITTEN(operation, handle, half)                 \
    switch (by_handle(operation, handle, TAKES_SPACE)) { \
    case TORN: half; die(); break;                       \
        FAILED(-1)                                       \
    }

ssize_t write(int handle, const void *content, size_t size) {
    WRITTEN("write", handle, syscall(SYS_write, handle, content, size / 2))
    return syscall(SYS_write, handle, content, size);
}
ssize_t writev(int handle, const struct iovec *parts, int count) {
    WRITTEN("write", handle, syscall(SYS_writev, handle, parts, count / 2))
    return syscall(SYS_writev, handle, parts, count);
}
ssize_t pwrite(int handle, const void *content, size_t size, off_t at) {
    WRITTEN("write", handle, syscall(SYS_pwrite64, handle, content, size / 2, at))
    return syscall(SYS_pwrite64, handle, content, size, at);
}
ssize_t pwrite64(int handle, const void *content, size_t size, off64_t at) { return pwrite(handle, content, size, at); }
ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    WRITTEN("write", to, syscall(SYS_sendfile, to, from, at, 1))
    return syscall(SYS_sendfile, to, from, at, size);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { return sendfile(to, from, at, size); }
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *where, size_t size, unsigned flags) {
    WRITTEN("write", to, syscall(SYS_copy_file_range, from, at, to, where, (size_t)1, flags))
    return syscall(SYS_copy_file_range, from, at, to, where, size, flags);
}

int fsync(int handle) { REFUSED(by_handle("fsync", handle, TAKES_SPACE)) return (int)syscall(SYS_fsync, handle); }
int fdatasync(int handle) { REFUSED(by_handle("fsync", handle, TAKES_SPACE)) return (int)syscall(SYS_fdatasync, handle); }
int ftruncate(int handle, off_t size) {
    REFUSED(by_handle("truncate", handle, size > 0 ? TAKES_SPACE : WRITES))
    return (int)syscall(SYS_ftruncate, handle, size);
}
int ftruncate64(int handle, off64_t size) { return ftruncate(handle, size); }
int truncate(const char *name, off_t size) {
    REFUSED(by_name("truncate", AT_FDCWD, name, size > 0 ? TAKES_SPACE : WRITES))
    return (int)syscall(SYS_truncate, name, size);
}
int chmod(const char *name, mode_t mode) {
    REFUSED(by_name("chmod", AT_FDCWD, name, NEITHER))
    return (int)syscall(SYS_fchmodat, AT_FDCWD, name, mode);
}
int fchmod(int handle, mode_t mode) { REFUSED(by_handle("chmod", handle, NEITHER)) return (int)syscall(SYS_fchmod, handle, mode); }

int renameat2(int from, const char *old, int to, const char *name, unsigned flags) {
    REFUSED(by_name(flags & RENAME_EXCHANGE ? "exchange" : "rename", to, name, TAKES_SPACE))
    return (int)syscall(SYS_renameat2, from, old, to, name, flags);
}
int renameat(int from, const char *old, int to, const char *name) { return renameat2(from, old, to, name, 0); }
int rename(const char *old, const char *name) { return renameat2(AT_FDCWD, old, AT_FDCWD, name, 0); }
int linkat(int from, const char *old, int to, const char *name, int flags) {
    REFUSED(by_name("link", to, name, TAKES_SPACE))
    return (int)syscall(SYS_linkat, from, old, to, name, flags);
}
int link(const char *old, const char *name) { return linkat(AT_FDCWD, old, AT_FDCWD, name, 0); }
int symlinkat(const char *old, int to, const char *name) {
    REFUSED(by_name("symlink", to, name, TAKES_SPACE))
    return (int)syscall(SYS_symlinkat, old, to, name);
}
int symlink(const char *old, const char *name) { return symlinkat(old, AT_FDCWD, name); }
int unlinkat(int folder, const char *name, int flags) {
    REFUSED(by_name(flags & AT_REMOVEDIR ? "rmdir" : "unlink", folder, name, NEITHER))
    return (int)syscall(SYS_unlinkat, folder, name, flags);
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }
int mkdirat(int folder, const char *name, mode_t mode) {
    REFUSED(by_name("mkdir", folder, name, absent(folder, name) ? TAKES_SPACE : NEITHER))
    return (int)syscall(SYS_mkdirat, folder, name, mode);
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
