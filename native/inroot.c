/*
 * inroot.c: see inroot.h. Owns path resolution in a root that the container's image and volumes control; decides nothing about what is mounted or
 * made there. Everything is an fd: a path is never checked and then used again, so a symlink that is exchanged meanwhile (CVE-2021-30465,
 * CVE-2024-45310) leads to another place in the container at worst. Test: tests/kernel/executor/test_hostile_rootfs.py.
 */
#include "inroot.h"

#include "sys.h"

#include <stdio.h>
#include <string.h>

#define LINKS_MAX 40
/* A rename or mount anywhere on the host during a walk through ".." makes openat2 give up with EAGAIN; it says: try again. */
#define TRIES_MAX 128

static int open_retrying(int dir, const char *path, uint64_t flags, uint64_t resolve) {
    int fd;
    for (int i = 0; i < TRIES_MAX; i++)
        if ((fd = sys_openat2(dir, path, flags | O_CLOEXEC, 0, resolve)) >= 0 || (errno != EAGAIN && errno != EINTR))
            break;
    return fd;
}

int inroot_open(int root, const char *path, uint64_t flags) {
    return open_retrying(root, *path ? path : "/", flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

int inroot_open_plain(int root, const char *path, uint64_t flags) {
    return open_retrying(root, *path ? path : "/", flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS);
}

/* A directory entry that we have just made or that must be one already: never through a symlink. */
static int open_entry(int dir, const char *name, uint64_t flags) {
    return open_retrying(dir, name, flags | O_PATH | O_NOFOLLOW, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
}

/* Length of the parent part of path[0..length): "/a/b" -> "/a" -> "". */
static size_t parent_length(const char *path, size_t length) {
    while (length && path[length - 1] == '/')
        length--;
    while (length && path[length - 1] != '/')
        length--;
    while (length && path[length - 1] == '/')
        length--;
    return length;
}

/* The component that starts at or after at; 0 at the end. */
static size_t component(const char **at) {
    while (**at == '/')
        ++*at;
    return strcspn(*at, "/");
}

static int copy_name(char name[NAME_MAX + 1], const char *from, size_t length) {
    if (length > NAME_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(name, from, length);
    name[length] = 0;
    /* What does not exist has no parent to go up to: refused rather than guessed. */
    if (!strcmp(name, "..")) {
        errno = EINVAL;
        return -1;
    }
    return 0;
}

/* Makes rest, component by component, each relative to the directory that holds it. Takes over `dir`. */
static int make_below(int dir, const char *rest, mode_t kind, mode_t mode) {
    char name[NAME_MAX + 1];
    size_t length;
    for (; (length = component(&rest)); rest += length) {
        const char *after = rest + length;
        int last = component(&after) == 0, next = -1;
        if (copy_name(name, rest, length) == 0 && strcmp(name, ".")) {
            int made;
            if (last && kind == S_IFREG) {
                made = openat(dir, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, mode);
                if (made >= 0)
                    close(made);
            } else {
                made = mkdirat(dir, name, last ? mode : 0755);
            }
            if (made >= 0 || errno == EEXIST)
                next = open_entry(dir, name, last && kind == S_IFREG ? 0 : O_DIRECTORY);
        } else if (!strcmp(name, ".")) {
            continue;
        }
        int saved = errno;
        close(dir);
        errno = saved;
        if (next < 0)
            return -1;
        dir = next;
    }
    return dir;
}

int inroot_ensure(int root, const char *path, mode_t kind, mode_t mode) {
    char at[PATH_MAX], link[PATH_MAX], next[PATH_MAX], name[NAME_MAX + 1];
    if (strlen(path) >= sizeof at) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(at, path, strlen(path) + 1);
    for (int links = 0; links <= LINKS_MAX; links++) {
        int fd = inroot_open(root, at, O_PATH);
        if (fd >= 0 || errno != ENOENT)
            return fd;
        /* The deepest directory that exists. */
        size_t cut = strlen(at);
        int parent;
        do {
            cut = parent_length(at, cut);
            memcpy(next, at, cut);
            next[cut] = 0;
            parent = inroot_open(root, next, O_PATH | O_DIRECTORY);
        } while (parent < 0 && errno == ENOENT && cut);
        if (parent < 0)
            return -1;
        const char *rest = at + cut;
        size_t length = component(&rest);
        if (copy_name(name, rest, length)) {
            close(parent);
            return -1;
        }
        ssize_t n = readlinkat(parent, name, link, sizeof link - 1);
        if (n < 0 && errno == ENOENT)
            return make_below(parent, rest, kind, mode);
        close(parent);
        if (n < 0 && errno != EINVAL)
            return -1;
        if (n < 0)
            continue; /* it appeared meanwhile and is no link: look again */
        /* A link to what does not exist (an /etc/resolv.conf into /run, say): make what it points to, as the container would see it. */
        link[n] = 0;
        int total = link[0] == '/' ? snprintf(next, sizeof next, "%s%s", link, rest + length)
                                   : snprintf(next, sizeof next, "%.*s/%s%s", (int)cut, at, link, rest + length);
        if (total < 0 || (size_t)total >= sizeof next) {
            errno = ENAMETOOLONG;
            return -1;
        }
        memcpy(at, next, (size_t)total + 1);
    }
    errno = ELOOP;
    return -1;
}

int inroot_parent(int root, const char *path, char name[NAME_MAX + 1]) {
    char dir[PATH_MAX];
    size_t length = strlen(path), cut = parent_length(path, length);
    const char *last = path + cut;
    size_t n = component(&last);
    if (cut >= sizeof dir) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (!n || copy_name(name, last, n) || !strcmp(name, ".")) {
        if (!n || !strcmp(name, "."))
            errno = EINVAL;
        return -1;
    }
    memcpy(dir, path, cut);
    dir[cut] = 0;
    return inroot_ensure(root, dir, S_IFDIR, 0755);
}
