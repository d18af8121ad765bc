/*
 * unpack_directory.c: names below the root: fds of directories (cached, opened with openat2), parents that no entry has described, and the removal
 * of what an entry replaces. Nothing here leaves the root, whatever links the archive has made.
 */
#include "unpack_core.h"

#include <sys/syscall.h>
#include <sys/xattr.h>

int open_in_root(const struct unpack *u, const char *path, uint64_t flags, uint64_t resolve) {
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve};
    if (!*path)
        path = ".";
    for (int attempt = 0;; attempt++) {
        int fd = (int)syscall(SYS_openat2, u->root_fd, path, &how, sizeof how);
        /* EAGAIN: a rename somewhere on the machine raced with ".." of a link's target */
        if (fd >= 0 || (errno != EAGAIN && errno != EINTR) || attempt == 128)
            return fd;
    }
}

static size_t *index_slot(struct unpack *u, ino_t inode) {
    size_t mask = u->index_size - 1;
    for (size_t i = (size_t)(inode * 0x9e3779b97f4a7c15u) & mask;; i = (i + 1) & mask) {
        size_t *slot = &u->implicit_index[i];
        if (*slot == 0 || u->implicit[*slot - 1].inode == inode)
            return slot;
    }
}

static int remember_implicit(struct unpack *u, const char *path, ino_t inode) {
    size_t length = strlen(path) + 1;
    u->implicit_bytes += length + sizeof(struct implicit);
    if (u->implicit_bytes > IMPLICIT_BYTES)
        return fail(u, UNPACK_LIMIT, 0, "layer leaves out too many parent directories");
    if (u->implicit_count == u->implicit_room) {
        size_t room = u->implicit_room ? u->implicit_room * 2 : 64;
        struct implicit *grown = realloc(u->implicit, room * sizeof *grown);
        if (!grown)
            return out_of_memory(u);
        u->implicit = grown;
        u->implicit_room = room;
        size_t *index = calloc(room * 2, sizeof *index);
        if (!index)
            return out_of_memory(u);
        free(u->implicit_index);
        u->implicit_index = index;
        u->index_size = room * 2;
        for (size_t i = 0; i < u->implicit_count; i++)
            *index_slot(u, u->implicit[i].inode) = i + 1;
    }
    char *copy = strdup(path);
    if (!copy)
        return out_of_memory(u);
    u->implicit[u->implicit_count] = (struct implicit){.path = copy, .inode = inode};
    *index_slot(u, inode) = ++u->implicit_count;
    return 0;
}

/* An entry describes this directory after all, or it is gone and its inode number may come back as another's. */
void forget_implicit(struct unpack *u, ino_t inode) {
    if (u->index_size == 0)
        return;
    size_t *slot = index_slot(u, inode);
    if (*slot)
        u->implicit[*slot - 1].described = true;
}

int set_opaque(struct unpack *u, int directory_fd) {
    int fd = openat(directory_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_system(u, "open");
    int result = fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0);
    int code = errno;
    close(fd);
    errno = code;
    return result == 0 ? 0 : fail_system(u, "setxattr trusted.overlay.opaque");
}

bool is_whiteout(const struct stat *st) { return S_ISCHR(st->st_mode) && st->st_rdev == 0; }

static int make_directory(struct unpack *u, int parent, const char *base) {
    if (mkdirat(parent, base, 0755) != 0)
        return fail_system(u, "mkdir");
    if (!u->umask_zero && fchmodat(parent, base, 0755, 0) != 0)
        return fail_system(u, "chmod");
    return 0;
}

/*
 * Open a directory below the root, making what is missing. The walk is done here and not by the kernel because a link may point to
 * a directory that only a lower layer has (var/run -> /run): in this layer that directory must be made, not found missing.
 * Each step opens one component with O_NOFOLLOW below the fd of the one before, so it cannot leave the root either.
 */
static int make_parents(struct unpack *u, const char *directory) {
    char current[PATH_MAX * 2] = "";
    char rest[PATH_MAX * 4];
    size_t current_length = 0;
    int links = 0;
    if (strlen(directory) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return fail_system(u, "open");
    }
    strcpy(rest, directory);
    char *at = rest;
    int fd = open_in_root(u, ".", O_PATH | O_DIRECTORY, 0);
    if (fd < 0)
        return fail_system(u, "open");
    while (*at) {
        char *base = at;
        size_t length = strcspn(at, "/");
        at += length;
        while (*at == '/')
            *at++ = 0;
        if (length == 0 || strcmp(base, ".") == 0)
            continue;
        if (strcmp(base, "..") == 0) {
            while (current_length > 0 && current[current_length - 1] != '/')
                current_length--;
            if (current_length > 0)
                current_length--;
            current[current_length] = 0;
            close(fd);
            fd = open_in_root(u, current, O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
            if (fd < 0)
                return fail_system(u, "open");
            continue;
        }
        if (length > NAME_MAX || current_length + length + 2 > PATH_MAX) {
            close(fd);
            errno = ENAMETOOLONG;
            return fail_system(u, "open");
        }
        struct stat st;
        bool made = false, opaque = false;
        int found = fstatat(fd, base, &st, AT_SYMLINK_NOFOLLOW);
        if (found != 0 && errno != ENOENT)
            goto broken;
        if (found == 0 && S_ISLNK(st.st_mode)) {
            char target[PATH_MAX * 4];
            ssize_t got = readlinkat(fd, base, target, PATH_MAX);
            if (got < 0)
                goto broken;
            size_t tail = strlen(at);
            if (++links > LINKS_MAX || (size_t)got + tail + 2 > sizeof rest) {
                errno = ELOOP;
                goto broken;
            }
            target[got] = '/';
            memcpy(target + got + 1, at, tail + 1);
            if (target[0] == '/') {
                current_length = 0;
                current[0] = 0;
                close(fd);
                fd = open_in_root(u, ".", O_PATH | O_DIRECTORY, 0);
                if (fd < 0)
                    return fail_system(u, "open");
            }
            strcpy(rest, target);
            at = rest;
            continue;
        }
        if (found == 0 && is_whiteout(&st)) {
            /* removed and made again in one layer: nothing of the lower directory may show */
            if (unlinkat(fd, base, 0) != 0)
                goto broken;
            opaque = true;
            found = -1;
        }
        if (found != 0) {
            if (count_entry(u) != 0 || make_directory(u, fd, base) != 0) {
                close(fd);
                return -1;
            }
            made = true;
        } else if (!S_ISDIR(st.st_mode)) {
            close(fd);
            return fail(u, UNPACK_REFUSED, ENOTDIR, "its parent %.200s is not a directory", base);
        }
        int child = openat(fd, base, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (child < 0)
            goto broken;
        close(fd);
        fd = child;
        if (current_length > 0)
            current[current_length++] = '/';
        memcpy(current + current_length, base, length);
        current_length += length;
        current[current_length] = 0;
        if (opaque && set_opaque(u, fd) != 0) {
            close(fd);
            return -1;
        }
        if (made && !opaque) {
            if (fstat(fd, &st) != 0)
                goto broken;
            if (remember_implicit(u, current, st.st_ino) != 0) {
                close(fd);
                return -1;
            }
        }
        continue;
    broken:;
        int code = errno;
        close(fd);
        errno = code;
        return fail_system(u, "open parent");
    }
    return fd;
}

/* Return an fd (of the cache; never to be closed) of the directory that has `length` first bytes of `path` as its name. */
static int parent_directory(struct unpack *u, const char *path, size_t length, bool make) {
    if (length == 0)
        return u->root_fd;
    struct cached_directory *oldest = &u->cache[0];
    if (u->last && u->last->length == length && memcmp(u->last->path, path, length) == 0)
        return u->last->fd;
    for (size_t i = 0; i < DIRECTORY_CACHE; i++) {
        struct cached_directory *slot = &u->cache[i];
        if (slot->fd >= 0 && slot->length == length && memcmp(slot->path, path, length) == 0) {
            slot->used = ++u->clock;
            u->last = slot;
            return slot->fd;
        }
        if (slot->used < oldest->used)
            oldest = slot;
    }
    char *copy = strndup(path, length);
    if (!copy)
        return out_of_memory(u);
    int fd = open_in_root(u, copy, O_PATH | O_DIRECTORY, 0);
    if (fd < 0) {
        if (errno == ENOENT && make)
            fd = make_parents(u, copy);
        else if (errno == ENOTDIR && make)
            /* a file in the way, or a whiteout that make_parents turns into a directory */
            fd = make_parents(u, copy);
        else if (errno == ENOENT || errno == ENOTDIR)
            fail(u, UNPACK_REFUSED, errno, "hard link target: directory %.200s is not in this layer", copy);
        else
            fail_system(u, "open parent");
    }
    if (fd < 0) {
        free(copy);
        return -1;
    }
    if (oldest->fd >= 0)
        close(oldest->fd);
    free(oldest->path);
    *oldest = (struct cached_directory){.path = copy, .length = length, .used = ++u->clock, .fd = fd};
    u->last = oldest;
    return fd;
}

/* Split a clean path into the fd of its parent and the pointer to its last component. */
int locate(struct unpack *u, char *path, const char **base, bool make) {
    char *slash = strrchr(path, '/');
    *base = slash ? slash + 1 : path;
    return parent_directory(u, path, slash ? (size_t)(slash - path) : 0, make);
}

struct linux_dirent64 {
    uint64_t d_ino;
    int64_t d_off;
    unsigned short d_reclen;
    unsigned char d_type;
    char d_name[];
};

/* Remove a directory with all that is in it. It holds one fd whatever the depth, and goes back up by "..": the tree is private. */
int remove_tree(struct unpack *u, int parent, const char *base) {
    int fd = openat(parent, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return fail_system(u, "open");
    size_t depth = 0;
    for (;;) {
        union {
            char bytes[8192];
            struct linux_dirent64 align;
        } buffer;
        int child = -1;
        bool removed = false;
        if (lseek(fd, 0, SEEK_SET) < 0)
            goto broken;
        for (;;) {
            long got = syscall(SYS_getdents64, fd, buffer.bytes, sizeof buffer.bytes);
            if (got < 0)
                goto broken;
            if (got == 0)
                break;
            for (long at = 0; at < got && child < 0;) {
                struct linux_dirent64 *entry = (struct linux_dirent64 *)(buffer.bytes + at);
                at += entry->d_reclen;
                if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
                    continue;
                removed = true;
                if (unlinkat(fd, entry->d_name, 0) == 0)
                    continue;
                if (errno != EISDIR && errno != EPERM)
                    goto broken;
                if (unlinkat(fd, entry->d_name, AT_REMOVEDIR) == 0) {
                    forget_implicit(u, entry->d_ino);
                    continue;
                }
                if (errno != ENOTEMPTY && errno != EEXIST)
                    goto broken;
                child = openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (child < 0)
                    goto broken;
            }
            if (child >= 0)
                break;
        }
        if (child >= 0) {
            close(fd);
            fd = child;
            depth++;
            continue;
        }
        if (removed) /* a directory changes while it is read: look again until a pass finds nothing */
            continue;
        if (depth == 0)
            break;
        int up = openat(fd, "..", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (up < 0)
            goto broken;
        close(fd);
        fd = up;
        depth--;
    }
    struct stat st;
    if (fstat(fd, &st) == 0)
        forget_implicit(u, st.st_ino);
    close(fd);
    if (unlinkat(parent, base, AT_REMOVEDIR) != 0)
        return fail_system(u, "rmdir");
    return 0;
broken:;
    int code = errno;
    close(fd);
    errno = code;
    return fail_system(u, "remove");
}

/* Remove what an entry replaces. A directory or link may be part of a cached path, so the cache goes with it. */
int remove_existing(struct unpack *u, int *parent, const char **base) {
    struct stat st;
    if (fstatat(*parent, *base, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return fail_system(u, "stat");
    if (S_ISDIR(st.st_mode)) {
        if (remove_tree(u, *parent, *base) != 0)
            return -1;
    } else if (unlinkat(*parent, *base, 0) != 0) {
        return fail_system(u, "unlink");
    }
    if (S_ISDIR(st.st_mode) || S_ISLNK(st.st_mode)) {
        forget_directories(u);
        *parent = locate(u, u->path, base, true);
        if (*parent < 0)
            return -1;
    }
    return 0;
}
