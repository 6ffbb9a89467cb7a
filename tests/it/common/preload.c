/* Loaded into nepa by LD_PRELOAD: counts the system calls on paths below a folder, and lets one of them fail or kills
 * the process there. Chosen by environment variables:
 *
 *   FAULT_BELOW   the folder, as an absolute path without links
 *   FAULT_LOG     a file that gets one line a call: its number, its kind, its path, and "!" if it was struck
 *   FAULT_KINDS   the kinds that are counted, each between commas: ",write,sync,"
 *   FAULT_AT      the number of the call to strike, from 1; 0 strikes none
 *   FAULT_DO      what happens there: an error number; "kill" before the call; "torn", which does half of it (all of
 *                 it where there are no halves) and then kills; "short", which does half of it; "slow", 9 s later
 *   FAULT_LASTS   if set, the calls after it fail too
 *   FAULT_NO_EXCHANGE   if set, two folders cannot be exchanged, as on NFS
 *   FAULT_FREE    so many bytes are said to be free, on any file system
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define LONGEST 4096

enum blow { NOTHING, FAIL, HALF, TORN };

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* The path of an open file; empty if it has none. */
static void path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlink, link, path, LONGEST - 1);
    path[n < 0 ? 0 : n] = 0;
}

/* Makes the path of a call absolute; without a name it is the open file's. */
static void resolve(int dir, const char *name, char *path) {
    size_t n = 0;
    if (name && name[0] == '/') {
        snprintf(path, LONGEST, "%s", name);
        return;
    }
    if (dir != AT_FDCWD) {
        path_of(dir, path);
        n = strlen(path);
    } else if (syscall(SYS_getcwd, path, (size_t)LONGEST) > 0) {
        n = strlen(path);
    }
    if (name && name[0]) snprintf(path + n, LONGEST - n, "/%s", name);
}

static int is_below(const char *path, const char *folder) {
    size_t n = strlen(folder);
    return !strncmp(path, folder, n) && (path[n] == 0 || path[n] == '/');
}

static void write_line(long n, const char *kind, const char *path, int struck) {
    const char *log = getenv("FAULT_LOG");
    if (!log) return;
    char line[LONGEST + 64];
    int length = snprintf(line, sizeof line, "%ld %s %s%s\n", n, kind, path, struck ? " !" : "");
    int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd >= 0) {
        syscall(SYS_write, fd, line, (size_t)length);
        syscall(SYS_close, fd);
    }
}

/* Counts a call and says what happens to it; sets errno where it fails. */
static enum blow strike(const char *kind, int dir, const char *name) {
    static atomic_long calls;
    const char *below = getenv("FAULT_BELOW"), *kinds = getenv("FAULT_KINDS"), *at = getenv("FAULT_AT");
    const char *what = getenv("FAULT_DO");
    if (!below || !kinds || !at || !what) return NOTHING;
    char wanted[32], path[LONGEST];
    snprintf(wanted, sizeof wanted, ",%s,", kind);
    if (!strstr(kinds, wanted)) return NOTHING;
    int error = errno;
    resolve(dir, name, path);
    errno = error;
    if (!is_below(path, below)) return NOTHING;

    long n = atomic_fetch_add(&calls, 1) + 1, from = atol(at);
    int struck = from > 0 && (getenv("FAULT_LASTS") ? n >= from : n == from);
    write_line(n, kind, path, struck);
    errno = error;
    if (!struck) return NOTHING;
    if (!strcmp(what, "kill")) die();
    if (!strcmp(what, "slow")) {
        sleep(9);
        errno = error;
        return NOTHING;
    }
    if (!strcmp(what, "torn")) return TORN;
    if (!strcmp(what, "short")) return HALF;
    errno = atoi(what);
    return FAIL;
}

/* The function of the same name in libc. */
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Calls libc's function, unless the call is struck. */
#define THROUGH(failed, kind, dir, path, call)        \
    do {                                              \
        enum blow blow = strike(kind, dir, path);     \
        if (blow == FAIL) return failed;              \
        __typeof__(call) result = call;               \
        if (blow == TORN) die();                      \
        return result;                                \
    } while (0)

/* The same for a call that moves `count` bytes, of which it may do half. */
#define IN_HALVES(kind, fd, count, call)                            \
    do {                                                            \
        enum blow blow = strike(kind, fd, NULL);                    \
        if (blow == FAIL) return -1;                                \
        if (blow == HALF || blow == TORN) count = (count + 1) / 2;  \
        ssize_t result = call;                                      \
        if (blow == TORN) die();                                    \
        return result;                                              \
    } while (0)

static const char *opening(int flags) {
    return flags & (O_CREAT | O_WRONLY | O_RDWR) ? "create" : "open";
}

#define MODE                                \
    int mode = 0;                           \
    if (flags & (O_CREAT | O_TMPFILE)) {    \
        va_list more;                       \
        va_start(more, flags);              \
        mode = va_arg(more, int);           \
        va_end(more);                       \
    }

int open(const char *path, int flags, ...) { MODE THROUGH(-1, opening(flags), AT_FDCWD, path, REAL(open)(path, flags, mode)); }
int open64(const char *path, int flags, ...) { MODE THROUGH(-1, opening(flags), AT_FDCWD, path, REAL(open64)(path, flags, mode)); }
int openat(int dir, const char *path, int flags, ...) { MODE THROUGH(-1, opening(flags), dir, path, REAL(openat)(dir, path, flags, mode)); }
int openat64(int dir, const char *path, int flags, ...) { MODE THROUGH(-1, opening(flags), dir, path, REAL(openat64)(dir, path, flags, mode)); }

ssize_t read(int fd, void *to, size_t n) { IN_HALVES("read", fd, n, REAL(read)(fd, to, n)); }
ssize_t pread(int fd, void *to, size_t n, off_t at) { IN_HALVES("read", fd, n, REAL(pread)(fd, to, n, at)); }
ssize_t pread64(int fd, void *to, size_t n, off64_t at) { IN_HALVES("read", fd, n, REAL(pread64)(fd, to, n, at)); }
ssize_t readv(int fd, const struct iovec *to, int n) { IN_HALVES("read", fd, n, REAL(readv)(fd, to, n)); }
void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t from) {
    if (fd < 0) return REAL(mmap)(at, n, protection, flags, fd, from);
    THROUGH(MAP_FAILED, "map", fd, NULL, REAL(mmap)(at, n, protection, flags, fd, from));
}
void *mmap64(void *at, size_t n, int protection, int flags, int fd, off64_t from) {
    if (fd < 0) return REAL(mmap64)(at, n, protection, flags, fd, from);
    THROUGH(MAP_FAILED, "map", fd, NULL, REAL(mmap64)(at, n, protection, flags, fd, from));
}

ssize_t write(int fd, const void *from, size_t n) { IN_HALVES("write", fd, n, REAL(write)(fd, from, n)); }
ssize_t pwrite(int fd, const void *from, size_t n, off_t at) { IN_HALVES("write", fd, n, REAL(pwrite)(fd, from, n, at)); }
ssize_t pwrite64(int fd, const void *from, size_t n, off64_t at) { IN_HALVES("write", fd, n, REAL(pwrite64)(fd, from, n, at)); }
ssize_t writev(int fd, const struct iovec *from, int n) { IN_HALVES("write", fd, n, REAL(writev)(fd, from, n)); }
int ftruncate(int fd, off_t n) { THROUGH(-1, "write", fd, NULL, REAL(ftruncate)(fd, n)); }
int ftruncate64(int fd, off64_t n) { THROUGH(-1, "write", fd, NULL, REAL(ftruncate64)(fd, n)); }
int fsync(int fd) { THROUGH(-1, "sync", fd, NULL, REAL(fsync)(fd)); }
int fdatasync(int fd) { THROUGH(-1, "sync", fd, NULL, REAL(fdatasync)(fd)); }

int rename(const char *from, const char *to) { THROUGH(-1, "rename", AT_FDCWD, to, REAL(rename)(from, to)); }
int renameat(int dir, const char *from, int to_dir, const char *to) { THROUGH(-1, "rename", to_dir, to, REAL(renameat)(dir, from, to_dir, to)); }
int renameat2(int dir, const char *from, int to_dir, const char *to, unsigned flags) {
    if (flags && getenv("FAULT_NO_EXCHANGE")) {
        errno = EINVAL;
        return -1;
    }
    THROUGH(-1, "rename", to_dir, to, REAL(renameat2)(dir, from, to_dir, to, flags));
}
int link(const char *from, const char *to) { THROUGH(-1, "rename", AT_FDCWD, to, REAL(link)(from, to)); }
int linkat(int dir, const char *from, int to_dir, const char *to, int flags) {
    THROUGH(-1, "rename", to_dir, to, REAL(linkat)(dir, from, to_dir, to, flags));
}

int mkdir(const char *path, mode_t mode) { THROUGH(-1, "mkdir", AT_FDCWD, path, REAL(mkdir)(path, mode)); }
int mkdirat(int dir, const char *path, mode_t mode) { THROUGH(-1, "mkdir", dir, path, REAL(mkdirat)(dir, path, mode)); }
int unlink(const char *path) { THROUGH(-1, "remove", AT_FDCWD, path, REAL(unlink)(path)); }
int unlinkat(int dir, const char *path, int flags) { THROUGH(-1, "remove", dir, path, REAL(unlinkat)(dir, path, flags)); }
int rmdir(const char *path) { THROUGH(-1, "remove", AT_FDCWD, path, REAL(rmdir)(path)); }
int flock(int fd, int operation) { THROUGH(-1, "lock", fd, NULL, REAL(flock)(fd, operation)); }
int chmod(const char *path, mode_t mode) { THROUGH(-1, "mode", AT_FDCWD, path, REAL(chmod)(path, mode)); }
int fchmod(int fd, mode_t mode) { THROUGH(-1, "mode", fd, NULL, REAL(fchmod)(fd, mode)); }
int fchmodat(int dir, const char *path, mode_t mode, int flags) { THROUGH(-1, "mode", dir, path, REAL(fchmodat)(dir, path, mode, flags)); }

int statx(int dir, const char *path, int flags, unsigned mask, struct statx *to) { THROUGH(-1, "stat", dir, path, REAL(statx)(dir, path, flags, mask, to)); }
int stat64(const char *path, struct stat64 *to) { THROUGH(-1, "stat", AT_FDCWD, path, REAL(stat64)(path, to)); }
int lstat64(const char *path, struct stat64 *to) { THROUGH(-1, "stat", AT_FDCWD, path, REAL(lstat64)(path, to)); }
int fstat64(int fd, struct stat64 *to) { THROUGH(-1, "stat", fd, NULL, REAL(fstat64)(fd, to)); }
int fstatat64(int dir, const char *path, struct stat64 *to, int flags) { THROUGH(-1, "stat", dir, path, REAL(fstatat64)(dir, path, to, flags)); }
int access(const char *path, int mode) { THROUGH(-1, "stat", AT_FDCWD, path, REAL(access)(path, mode)); }
DIR *opendir(const char *path) { THROUGH(NULL, "list", AT_FDCWD, path, REAL(opendir)(path)); }
struct dirent64 *readdir64(DIR *dir) { THROUGH(NULL, "list", dirfd(dir), NULL, REAL(readdir64)(dir)); }

#define SPACE(call)                                    \
    int result = call;                                 \
    const char *free_bytes = getenv("FAULT_FREE");     \
    if (!result && free_bytes) {                       \
        to->f_bavail = strtoul(free_bytes, NULL, 10);  \
        to->f_frsize = 1;                              \
    }                                                  \
    return result;

int statvfs(const char *path, struct statvfs *to) { SPACE(REAL(statvfs)(path, to)); }
int statvfs64(const char *path, struct statvfs64 *to) { SPACE(REAL(statvfs64)(path, to)); }
