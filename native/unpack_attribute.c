/* unpack_attribute.c: owner, mode, xattrs and times of what an entry has made, in the order in which they do not undo each other. */
#include "unpack_core.h"

#include <sys/xattr.h>

static bool owner_differs(const struct unpack *u) {
    return u->set_gid_seen || u->uid != u->own_uid || u->gid != u->own_gid;
}

static bool xattr_wanted(const char *name) {
    /* user.overlay.* would be orders to overlayfs; trusted.* and the other security.* are the host's to give */
    if (strncmp(name, "user.", 5) == 0)
        return strncmp(name, "user.overlay.", 13) != 0;
    return strcmp(name, "security.capability") == 0;
}

int set_xattrs(struct unpack *u, int fd) {
    for (size_t i = 0; i < u->next.xattr_count; i++) {
        const struct xattr *x = &u->next.xattrs[i];
        if (!xattr_wanted(x->name))
            continue;
        /* a filesystem without xattrs must still be able to hold layers, as with every other runtime */
        if (fsetxattr(fd, x->name, x->value, x->length, 0) != 0 && errno != ENOTSUP)
            return fail(u, UNPACK_SYSTEM, errno, "setxattr %.100s: %s", x->name, strerror(errno));
    }
    return 0;
}

/* Order matters: chown clears set-uid and capabilities, so mode and xattrs come after it; times come last. */
int close_file(struct unpack *u) {
    struct timespec times[2] = {u->mtime, u->mtime};
    if (owner_differs(u) && fchown(u->fd, u->uid, u->gid) != 0)
        return fail_system(u, "chown");
    if (u->next.xattr_count && set_xattrs(u, u->fd) != 0)
        return -1;
    if ((!u->umask_zero || (u->mode & 07000)) && fchmod(u->fd, u->mode) != 0)
        return fail_system(u, "chmod");
    if (futimens(u->fd, times) != 0)
        return fail_system(u, "utimens");
    int result = close(u->fd);
    u->fd = -1;
    return result == 0 ? 0 : fail_system(u, "close");
}

int apply_times(struct unpack *u) {
    for (size_t i = 0; i < u->time_count; i++) {
        struct timespec times[2] = {u->times[i].mtime, u->times[i].mtime};
        int fd = open_in_root(u, u->times[i].path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
        if (fd < 0) {
            /* a later entry may have put something else in its place */
            if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)
                continue;
            return fail_system(u, "open");
        }
        int result = futimens(fd, times);
        int code = errno;
        close(fd);
        errno = code;
        if (result != 0)
            return fail_system(u, "utimens");
    }
    forget_times(u);
    return 0;
}

int remember_time(struct unpack *u) {
    if (u->time_bytes > DIRECTORY_TIMES_BYTES && apply_times(u) != 0)
        return -1;
    if (u->time_count == u->time_room) {
        size_t room = u->time_room ? u->time_room * 2 : 256;
        struct directory_time *grown = realloc(u->times, room * sizeof *grown);
        if (!grown)
            return out_of_memory(u);
        u->times = grown;
        u->time_room = room;
    }
    char *copy = strdup(u->path);
    if (!copy)
        return out_of_memory(u);
    u->time_bytes += strlen(copy) + 1 + sizeof(struct directory_time);
    u->times[u->time_count++] = (struct directory_time){.path = copy, .mtime = u->mtime};
    return 0;
}

/* Owner, mode and times of what is neither a regular file nor a directory. */
int set_attributes(struct unpack *u, int parent, const char *base) {
    struct timespec times[2] = {u->mtime, u->mtime};
    if (owner_differs(u) && fchownat(parent, base, u->uid, u->gid, AT_SYMLINK_NOFOLLOW) != 0)
        return fail_system(u, "chown");
    if (u->type != '2' && fchmodat(parent, base, u->mode, 0) != 0)
        return fail_system(u, "chmod");
    if (utimensat(parent, base, times, AT_SYMLINK_NOFOLLOW) != 0)
        return fail_system(u, "utimens");
    return 0;
}
