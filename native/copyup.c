/* copyup.c: see copyup.h. Reads a hostile tree: every entry is opened without following links, the depth is bounded, the size is bounded by the tmpfs. */
#include "copyup.h"

#include "sys.h"

#include <stdio.h>
#include <limits.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#define DEPTH_MAX 64
#define CHUNK (1u << 20)

struct entry {
    uint64_t ino;
    int64_t offset;
    uint16_t length;
    uint8_t type;
    char name[];
};

static int copy_owner_mode_times(int fd, const struct stat *st) {
    const struct timespec times[2] = {st->st_atim, st->st_mtim};
    /* Owner first: a change of owner clears setuid. */
    return fchown(fd, st->st_uid, st->st_gid) || fchmod(fd, st->st_mode & 07777) || futimens(fd, times) ? -1 : 0;
}

static int copy_file(int from, int to, const char *name, const struct stat *expected) {
    SCOPED_FD in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    if (in < 0 || fstat(in, &st))
        return -1;
    if (!S_ISREG(st.st_mode) || st.st_ino != expected->st_ino) {
        errno = ESTALE;
        return -1;
    }
    SCOPED_FD out = openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (out < 0)
        return -1;
    ssize_t n;
    while ((n = sendfile(out, in, NULL, CHUNK)) > 0)
        ;
    return n < 0 ? -1 : copy_owner_mode_times(out, &st);
}

static int copy_dir(int from, int to, char *where, unsigned size, int depth);

static int copy_entry(int from, int to, const char *name, char *where, unsigned size, int depth) {
    struct stat st;
    char link[PATH_MAX];
    if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW))
        return -1;
    switch (st.st_mode & S_IFMT) {
    case S_IFREG:
        return copy_file(from, to, name, &st);
    case S_IFDIR: {
        if (mkdirat(to, name, 0700))
            return -1;
        SCOPED_FD in = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        SCOPED_FD out = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return in < 0 || out < 0 || copy_dir(in, out, where, size, depth + 1) ? -1 : copy_owner_mode_times(out, &st);
    }
    case S_IFLNK: {
        ssize_t n = readlinkat(from, name, link, sizeof link - 1);
        if (n < 0)
            return -1;
        link[n] = 0;
        if (symlinkat(link, to, name))
            return -1;
        break;
    }
    default:
        if (mknodat(to, name, st.st_mode, st.st_rdev))
            return -1;
    }
    return fchownat(to, name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW);
}

static int copy_dir(int from, int to, char *where, unsigned size, int depth) {
    _Alignas(struct entry) char buffer[4096];
    if (depth > DEPTH_MAX) {
        errno = ELOOP;
        return -1;
    }
    for (;;) {
        long n = syscall(SYS_getdents64, from, buffer, sizeof buffer);
        if (n <= 0)
            return (int)n;
        const struct entry *e;
        for (long at = 0; at < n; at += e->length) {
            e = (const struct entry *)(const void *)(buffer + at);
            if (!strcmp(e->name, ".") || !strcmp(e->name, ".."))
                continue;
            if (copy_entry(from, to, e->name, where, size, depth)) {
                int saved = errno;
                if (!*where)
                    snprintf(where, size, "%s", e->name);
                errno = saved;
                return -1;
            }
        }
    }
}

int copyup(int from, int to, char *where, unsigned size) {
    *where = 0;
    SCOPED_FD in = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return in < 0 ? -1 : copy_dir(in, to, where, size, 0);
}
