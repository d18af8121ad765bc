/* unpack_entry.c: from a header to the file, directory, link, node or whiteout that it stands for. */
#include "unpack_core.h"

#include <sys/syscall.h>

static int apply_directory(struct unpack *u, int parent, const char *base) {
    struct stat st;
    bool opaque = false;
    if (mkdirat(parent, base, u->mode & 0777) != 0) {
        if (errno != EEXIST)
            return fail_system(u, "mkdir");
        if (fstatat(parent, base, &st, AT_SYMLINK_NOFOLLOW) != 0)
            return fail_system(u, "stat");
        if (S_ISDIR(st.st_mode)) {
            forget_implicit(u, st.st_ino);
        } else {
            opaque = is_whiteout(&st);
            if (remove_existing(u, &parent, &base) != 0)
                return -1;
            if (mkdirat(parent, base, u->mode & 0777) != 0)
                return fail_system(u, "mkdir");
        }
    }
    int fd = openat(parent, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return fail_system(u, "open");
    /* chown always: the directory may have been there before with another owner */
    int result = 0;
    if (fchown(fd, u->uid, u->gid) != 0)
        result = fail_system(u, "chown");
    else if (u->next.xattr_count && set_xattrs(u, fd) != 0)
        result = -1;
    else if (fchmod(fd, u->mode) != 0)
        result = fail_system(u, "chmod");
    else if (opaque && set_opaque(u, fd) != 0)
        result = -1;
    close(fd);
    if (result != 0)
        return -1;
    if (u->mode & S_ISGID)
        u->set_gid_seen = true;
    return remember_time(u);
}

static int open_file(struct unpack *u, int parent, const char *base) {
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    u->fd = openat(parent, base, flags, u->mode & 0777);
    if (u->fd < 0 && errno == EEXIST) {
        if (remove_existing(u, &parent, &base) != 0)
            return -1;
        u->fd = openat(parent, base, flags, u->mode & 0777);
    }
    if (u->fd < 0)
        return fail_system(u, "create");
    if (u->sparse && ftruncate(u->fd, (off_t)u->real_size) != 0)
        return fail_system(u, "truncate");
    return 0;
}

static int apply_link(struct unpack *u, int parent, const char *base) {
    char target[sizeof u->link];
    if (clean_path(u->link, target) != 0)
        return fail(u, UNPACK_REFUSED, 0, "hard link target %.200s is outside of the layer", u->link);
    /* the fd of the target's parent may push the entry's own out of the cache, so the entry's is kept by a copy */
    int own = fcntl(parent, F_DUPFD_CLOEXEC, 3);
    if (own < 0)
        return fail_system(u, "dup");
    const char *target_base;
    int target_parent = locate(u, target, &target_base, false);
    struct stat st;
    if (target_parent < 0) {
        close(own);
        return -1;
    }
    int result = -1;
    if (!*target_base || fstatat(target_parent, target_base, &st, AT_SYMLINK_NOFOLLOW) != 0 || is_whiteout(&st)) {
        fail(u, UNPACK_REFUSED, ENOENT, "hard link target %.200s is not in this layer", u->link);
    } else if (S_ISDIR(st.st_mode)) {
        fail(u, UNPACK_REFUSED, EISDIR, "hard link target %.200s is a directory", u->link);
    } else if (linkat(target_parent, target_base, own, base, 0) == 0) {
        result = 0;
    } else if (errno != EEXIST) {
        fail_system(u, "link");
    } else {
        struct stat old;
        if (fstatat(own, base, &old, AT_SYMLINK_NOFOLLOW) == 0 && old.st_ino == st.st_ino) {
            result = 0; /* a link to itself */
        } else {
            int keep = fcntl(target_parent, F_DUPFD_CLOEXEC, 3);
            int again = own;
            if (keep < 0)
                fail_system(u, "dup");
            else if (remove_existing(u, &again, &base) == 0)
                result = linkat(keep, target_base, again, base, 0) == 0 ? 0 : fail_system(u, "link");
            if (keep >= 0)
                close(keep);
        }
    }
    close(own);
    return result;
}

static int apply_symlink(struct unpack *u, int parent, const char *base) {
    if (!u->link[0])
        return fail(u, UNPACK_MALFORMED, 0, "symbolic link has no target");
    if (symlinkat(u->link, parent, base) != 0) {
        if (errno != EEXIST)
            return fail_system(u, "symlink");
        if (remove_existing(u, &parent, &base) != 0)
            return -1;
        if (symlinkat(u->link, parent, base) != 0)
            return fail_system(u, "symlink");
    }
    return set_attributes(u, parent, base);
}

static int apply_node(struct unpack *u, int parent, const char *base) {
    mode_t kind = u->type == '3' ? S_IFCHR : u->type == '4' ? S_IFBLK : S_IFIFO;
    if (mknodat(parent, base, kind | (u->mode & 0777), u->device) != 0) {
        if (errno != EEXIST)
            return fail_system(u, "mknod");
        if (remove_existing(u, &parent, &base) != 0)
            return -1;
        if (mknodat(parent, base, kind | (u->mode & 0777), u->device) != 0)
            return fail_system(u, "mknod");
    }
    return set_attributes(u, parent, base);
}

static int apply_whiteout(struct unpack *u, int parent, const char *base) {
    const char *hidden = base + 4;
    if (strcmp(hidden, ".wh..opq") == 0) {
        u->totals.whiteouts++;
        return set_opaque(u, parent);
    }
    if (strncmp(hidden, ".wh.", 4) == 0)
        return 0; /* .wh..wh.plnk and its kin: bookkeeping of aufs, no content */
    if (!*hidden || strcmp(hidden, ".") == 0 || strcmp(hidden, "..") == 0)
        return fail(u, UNPACK_REFUSED, 0, "whiteout names no file");
    u->totals.whiteouts++;
    if (mknodat(parent, hidden, S_IFCHR, 0) == 0)
        return 0;
    if (errno != EEXIST)
        return fail_system(u, "mknod whiteout");
    /* The layer has the name as well: a directory then hides the lower one's content, a file hides it by being there. */
    struct stat st;
    if (fstatat(parent, hidden, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return fail_system(u, "stat");
    if (!S_ISDIR(st.st_mode))
        return 0;
    int fd = openat(parent, hidden, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return fail_system(u, "open");
    int result = set_opaque(u, fd);
    close(fd);
    return result;
}

int begin_file(struct unpack *u) {
    const char *base;
    int parent = locate(u, u->path, &base, true);
    if (parent < 0)
        return -1;
    if (strncmp(base, ".wh.", 4) == 0)
        return fail(u, UNPACK_REFUSED, 0, "whiteout is a sparse file");
    return open_file(u, parent, base);
}

/* Apply an entry that has no data, or get ready for the data. */
int apply_entry(struct unpack *u) {
    const char *base;
    int parent = locate(u, u->path, &base, true);
    if (parent < 0)
        return -1;
    if (strncmp(base, ".wh.", 4) == 0) {
        if (apply_whiteout(u, parent, base) != 0)
            return -1;
        if (u->type == '0') {
            u->left = u->size;
            u->state = SKIP;
        }
        return 0;
    }
    switch (u->type) {
    case '0': return open_file(u, parent, base);
    case '1': return apply_link(u, parent, base);
    case '2': return apply_symlink(u, parent, base);
    case '5': return apply_directory(u, parent, base);
    default: return apply_node(u, parent, base);
    }
}
