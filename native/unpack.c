/* unpack.c: see unpack.h for what this owns and promises. */
#include "unpack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/xattr.h>
#include <unistd.h>

#define BLOCK 512
#define DIRECTORY_CACHE 64
#define LINKS_MAX 40
#define SPARSE_SEGMENTS_MAX (1u << 16)
#define DIRECTORY_TIMES_BYTES (64u << 20)
#define IMPLICIT_BYTES (64u << 20)
#define XATTRS_MAX 256

enum state { HEADER, META, SPARSE_EXTENSION, SPARSE_MAP, DATA, SKIP, TRAILER };

struct segment {
    uint64_t offset;
    uint64_t length;
};

struct xattr {
    const char *name; /* both point into the PAX buffer */
    const char *value;
    size_t length;
};

/* What PAX and GNU headers say about the entry that follows them. */
struct override {
    char *path;
    char *link;
    char *sparse_name; /* GNU.sparse.name; the path beside it is made up */
    bool has_size, has_mtime, has_uid, has_gid;
    int64_t size;
    struct timespec mtime;
    int64_t uid, gid;
    int sparse_major, sparse_minor; /* -1: not given */
    bool sparse_old;                /* formats 0.0 and 0.1 */
    bool has_real_size;
    int64_t real_size;
    size_t xattr_count;
    struct xattr xattrs[XATTRS_MAX];
};

struct cached_directory {
    char *path;
    size_t length;
    uint64_t used;
    int fd;
};

struct implicit {
    char *path;
    ino_t inode;
    bool described; /* an entry came later, or it was removed */
};

struct directory_time {
    char *path;
    struct timespec mtime;
};

struct unpack {
    int root_fd;
    struct unpack_limits limits;
    struct unpack_totals totals;
    struct unpack_error error;
    uid_t own_uid;
    gid_t own_gid;
    bool umask_zero;
    bool set_gid_seen; /* below a set-gid directory new files do not get our own gid */

    enum state state;
    unsigned zero_blocks;
    unsigned char block[BLOCK];
    size_t block_used;

    char meta_type;
    char *meta; /* payload of the header that is being read, NUL-terminated */
    size_t meta_size, meta_used;
    char *pax; /* payload that next.xattrs point into */
    struct override next;

    /* The entry at work. */
    char name[PATH_MAX * 2]; /* as in the archive */
    char path[PATH_MAX * 2]; /* clean */
    char link[PATH_MAX * 2];
    char type;
    mode_t mode;
    uid_t uid;
    gid_t gid;
    struct timespec mtime;
    dev_t device;
    uint64_t size; /* bytes in the archive */
    uint64_t real_size;
    int fd;

    uint64_t left; /* of DATA or SKIP */
    size_t padding;
    struct segment *segments;
    size_t segment_count, segment_room;
    bool sparse;
    size_t segment_at;
    uint64_t segment_done;
    /* PAX sparse 1.0: the map is text at the head of the data. */
    uint64_t map_expected, map_number;
    size_t map_read;
    bool map_has_digit;
    bool map_count_known;

    struct cached_directory cache[DIRECTORY_CACHE];
    struct cached_directory *last;
    uint64_t clock;

    struct implicit *implicit;
    size_t implicit_count, implicit_room, implicit_bytes;
    size_t *implicit_index; /* open addressing by inode; value is index + 1 */
    size_t index_size;
    struct directory_time *times;
    size_t time_count, time_room, time_bytes;
};

/* errors */

static int fail(struct unpack *u, enum unpack_kind kind, int errno_value, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static int fail(struct unpack *u, enum unpack_kind kind, int errno_value, const char *format, ...) {
    if (u->error.kind != UNPACK_OK)
        return -1;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(u->error.reason, sizeof u->error.reason, format, arguments);
    va_end(arguments);
    snprintf(u->error.entry, sizeof u->error.entry, "%.*s", (int)sizeof u->error.entry - 1, u->name);
    u->error.kind = kind;
    u->error.errno_value = errno_value;
    return -1;
}

static int fail_system(struct unpack *u, const char *call) {
    int code = errno;
    /* What the archive's own names provoke is the archive's fault. */
    if (code == ENAMETOOLONG)
        return fail(u, UNPACK_LIMIT, code, "name is too long");
    if (code == ELOOP)
        return fail(u, UNPACK_REFUSED, code, "too many symbolic links");
    return fail(u, UNPACK_SYSTEM, code, "%s: %s", call, strerror(code));
}

static int out_of_memory(struct unpack *u) {
    errno = ENOMEM;
    return fail_system(u, "malloc");
}

/* life */

struct unpack *unpack_new(int root_fd, const struct unpack_limits *limits) {
    struct unpack *u = calloc(1, sizeof *u);
    if (!u)
        return NULL;
    u->root_fd = root_fd;
    u->limits = *limits;
    if (u->limits.path_bytes >= PATH_MAX * 2)
        u->limits.path_bytes = PATH_MAX * 2 - 1;
    u->own_uid = geteuid();
    u->own_gid = getegid();
    u->fd = -1;
    u->next.sparse_major = u->next.sparse_minor = -1;
    for (size_t i = 0; i < DIRECTORY_CACHE; i++)
        u->cache[i].fd = -1;
    struct stat st;
    u->set_gid_seen = fstat(root_fd, &st) != 0 || (st.st_mode & S_ISGID);
    return u;
}

static void forget_directories(struct unpack *u) {
    for (size_t i = 0; i < DIRECTORY_CACHE; i++) {
        if (u->cache[i].fd >= 0)
            close(u->cache[i].fd);
        free(u->cache[i].path);
        u->cache[i] = (struct cached_directory){.fd = -1};
    }
    u->last = NULL;
}

static void forget_override(struct unpack *u) {
    free(u->next.path);
    free(u->next.link);
    free(u->next.sparse_name);
    free(u->pax);
    u->pax = NULL;
    /* xattrs[] is 6 kB and only its first xattr_count members are ever read */
    u->next.path = u->next.link = u->next.sparse_name = NULL;
    u->next.has_size = u->next.has_mtime = u->next.has_uid = u->next.has_gid = false;
    u->next.sparse_major = u->next.sparse_minor = -1;
    u->next.sparse_old = u->next.has_real_size = false;
    u->next.xattr_count = 0;
}

static void forget_times(struct unpack *u) {
    for (size_t i = 0; i < u->time_count; i++)
        free(u->times[i].path);
    u->time_count = u->time_bytes = 0;
}

void unpack_free(struct unpack *u) {
    if (!u)
        return;
    if (u->fd >= 0)
        close(u->fd);
    forget_directories(u);
    forget_override(u);
    forget_times(u);
    free(u->times);
    for (size_t i = 0; i < u->implicit_count; i++)
        free(u->implicit[i].path);
    free(u->implicit);
    free(u->implicit_index);
    free(u->segments);
    free(u->meta);
    free(u);
}

void unpack_set_umask_zero(struct unpack *u, int umask_zero) { u->umask_zero = umask_zero != 0; }
const struct unpack_error *unpack_last_error(const struct unpack *u) { return &u->error; }
const struct unpack_totals *unpack_get_totals(const struct unpack *u) { return &u->totals; }

static int count_entry(struct unpack *u) {
    if (++u->totals.entries > u->limits.entries)
        return fail(u, UNPACK_LIMIT, 0, "layer has more than %llu entries", (unsigned long long)u->limits.entries);
    return 0;
}

/* numbers and names of headers */

/* Octal text, or two's complement base 256 when the first bit is set (GNU). */
static int read_number(const unsigned char *field, size_t width, int64_t *value) {
    if (field[0] & 0x80) {
        bool negative = field[0] & 0x40;
        uint64_t number = negative ? UINT64_MAX : 0;
        for (size_t i = 0; i < width; i++) {
            unsigned char byte = field[i];
            if (i == 0) /* the mark is no digit */
                byte = negative ? byte | 0x80 : byte & 0x7f;
            if (i + 8 < width || (i == width - 8 && ((byte & 0x80) != (negative ? 0x80 : 0)))) {
                if (i + 8 < width ? byte != (negative ? 0xff : 0) : true)
                    return -1; /* more than 63 bits */
            }
            number = number << 8 | byte;
        }
        *value = (int64_t)number;
        return 0;
    }
    size_t i = 0;
    while (i < width && (field[i] == ' ' || field[i] == 0))
        i++;
    uint64_t number = 0;
    for (; i < width && field[i] >= '0' && field[i] <= '7'; i++) {
        if (number >> 60)
            return -1;
        number = number << 3 | (uint64_t)(field[i] - '0');
    }
    for (; i < width; i++)
        if (field[i] != ' ' && field[i] != 0)
            return -1;
    *value = (int64_t)number;
    return 0;
}

/* Decimal text of exactly this length. */
static int read_decimal(const char *text, size_t length, int64_t *value) {
    bool negative = length > 0 && text[0] == '-';
    size_t i = negative ? 1 : 0;
    if (i == length)
        return -1;
    int64_t number = 0;
    for (; i < length; i++) {
        if (text[i] < '0' || text[i] > '9' || number > (INT64_MAX - 9) / 10)
            return -1;
        number = number * 10 + (text[i] - '0');
    }
    *value = negative ? -number : number;
    return 0;
}

/* Seconds with a fraction. */
static int read_time(const char *text, size_t length, struct timespec *time) {
    const char *dot = memchr(text, '.', length);
    size_t whole = dot ? (size_t)(dot - text) : length;
    int64_t seconds;
    bool negative = length > 0 && text[0] == '-';
    if (negative && whole == 1)
        seconds = 0;
    else if (read_decimal(text, whole, &seconds) != 0)
        return -1;
    long nanoseconds = 0, unit = 100000000;
    for (size_t i = whole + 1; i < length; i++, unit /= 10) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        nanoseconds += unit * (text[i] - '0');
    }
    if (negative && nanoseconds) {
        seconds -= 1;
        nanoseconds = 1000000000 - nanoseconds;
    }
    time->tv_sec = seconds;
    time->tv_nsec = nanoseconds;
    return 0;
}

/* Clean a name by its text alone: no leading slash, no empty, "." or ".." components. -1: it leaves the root. */
static int clean_path(const char *in, char *out) {
    size_t used = 0;
    while (*in) {
        size_t length = strcspn(in, "/");
        if (length == 2 && in[0] == '.' && in[1] == '.') {
            if (used == 0)
                return -1;
            while (used > 0 && out[used - 1] != '/')
                used--;
            if (used > 0)
                used--;
        } else if (length > 0 && !(length == 1 && in[0] == '.')) {
            if (used > 0)
                out[used++] = '/';
            memcpy(out + used, in, length);
            used += length;
        }
        in += length;
        while (*in == '/')
            in++;
    }
    out[used] = 0;
    return 0;
}

/* directories */

static int open_in_root(const struct unpack *u, const char *path, uint64_t flags, uint64_t resolve) {
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
static void forget_implicit(struct unpack *u, ino_t inode) {
    if (u->index_size == 0)
        return;
    size_t *slot = index_slot(u, inode);
    if (*slot)
        u->implicit[*slot - 1].described = true;
}

static int set_opaque(struct unpack *u, int directory_fd) {
    int fd = openat(directory_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_system(u, "open");
    int result = fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0);
    int code = errno;
    close(fd);
    errno = code;
    return result == 0 ? 0 : fail_system(u, "setxattr trusted.overlay.opaque");
}

static bool is_whiteout(const struct stat *st) { return S_ISCHR(st->st_mode) && st->st_rdev == 0; }

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
static int locate(struct unpack *u, char *path, const char **base, bool make) {
    char *slash = strrchr(path, '/');
    *base = slash ? slash + 1 : path;
    return parent_directory(u, path, slash ? (size_t)(slash - path) : 0, make);
}

/* removal */

struct linux_dirent64 {
    uint64_t d_ino;
    int64_t d_off;
    unsigned short d_reclen;
    unsigned char d_type;
    char d_name[];
};

/* Remove a directory with all that is in it. It holds one fd whatever the depth, and goes back up by "..": the tree is private. */
static int remove_tree(struct unpack *u, int parent, const char *base) {
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
static int remove_existing(struct unpack *u, int *parent, const char **base) {
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

/* attributes */

static bool owner_differs(const struct unpack *u) {
    return u->set_gid_seen || u->uid != u->own_uid || u->gid != u->own_gid;
}

static bool xattr_wanted(const char *name) {
    /* user.overlay.* would be orders to overlayfs; trusted.* and the other security.* are the host's to give */
    if (strncmp(name, "user.", 5) == 0)
        return strncmp(name, "user.overlay.", 13) != 0;
    return strcmp(name, "security.capability") == 0;
}

static int set_xattrs(struct unpack *u, int fd) {
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
static int close_file(struct unpack *u) {
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

static int apply_times(struct unpack *u) {
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

static int remember_time(struct unpack *u) {
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
static int set_attributes(struct unpack *u, int parent, const char *base) {
    struct timespec times[2] = {u->mtime, u->mtime};
    if (owner_differs(u) && fchownat(parent, base, u->uid, u->gid, AT_SYMLINK_NOFOLLOW) != 0)
        return fail_system(u, "chown");
    if (u->type != '2' && fchmodat(parent, base, u->mode, 0) != 0)
        return fail_system(u, "chmod");
    if (utimensat(parent, base, times, AT_SYMLINK_NOFOLLOW) != 0)
        return fail_system(u, "utimens");
    return 0;
}

/* entries */

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

static int begin_file(struct unpack *u) {
    const char *base;
    int parent = locate(u, u->path, &base, true);
    if (parent < 0)
        return -1;
    if (strncmp(base, ".wh.", 4) == 0)
        return fail(u, UNPACK_REFUSED, 0, "whiteout is a sparse file");
    return open_file(u, parent, base);
}

/* Apply an entry that has no data, or get ready for the data. */
static int apply_entry(struct unpack *u) {
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

/* sparse files */

static int add_segment(struct unpack *u, int64_t offset, int64_t length) {
    if (offset < 0 || length < 0)
        return fail(u, UNPACK_MALFORMED, 0, "sparse map has a negative number");
    if (u->segment_count == SPARSE_SEGMENTS_MAX)
        return fail(u, UNPACK_LIMIT, 0, "sparse map has more than %u segments", SPARSE_SEGMENTS_MAX);
    if (u->segment_count == u->segment_room) {
        size_t room = u->segment_room ? u->segment_room * 2 : 64;
        struct segment *grown = realloc(u->segments, room * sizeof *grown);
        if (!grown)
            return out_of_memory(u);
        u->segments = grown;
        u->segment_room = room;
    }
    u->segments[u->segment_count++] = (struct segment){.offset = (uint64_t)offset, .length = (uint64_t)length};
    return 0;
}

/* Segments must rise, lie inside the file and take exactly the data that follows. */
static int check_segments(struct unpack *u, uint64_t data) {
    uint64_t end = 0, sum = 0;
    if (u->real_size > u->limits.stream_bytes)
        return fail(u, UNPACK_LIMIT, 0, "sparse file is larger than %llu bytes",
                    (unsigned long long)u->limits.stream_bytes);
    for (size_t i = 0; i < u->segment_count; i++) {
        const struct segment *s = &u->segments[i];
        if (s->offset < end || s->length > u->real_size || s->offset > u->real_size - s->length)
            return fail(u, UNPACK_MALFORMED, 0, "sparse map overlaps itself or leaves the file");
        end = s->offset + s->length;
        sum += s->length;
    }
    if (sum != data)
        return fail(u, UNPACK_MALFORMED, 0, "sparse map does not fit its data");
    return 0;
}

static int start_sparse_data(struct unpack *u, uint64_t data) {
    if (check_segments(u, data) != 0)
        return -1;
    u->segment_at = 0;
    u->segment_done = 0;
    u->left = data;
    u->state = DATA;
    return begin_file(u);
}

static int write_all(struct unpack *u, const unsigned char *data, size_t length, int64_t offset) {
    while (length > 0) {
        ssize_t written = offset < 0 ? write(u->fd, data, length) : pwrite(u->fd, data, length, offset);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            return fail_system(u, "write");
        }
        data += written;
        length -= (size_t)written;
        if (offset >= 0)
            offset += written;
    }
    return 0;
}

static int write_sparse(struct unpack *u, const unsigned char *data, size_t length) {
    while (length > 0) {
        while (u->segment_done == u->segments[u->segment_at].length) {
            u->segment_at++;
            u->segment_done = 0;
        }
        const struct segment *s = &u->segments[u->segment_at];
        uint64_t part = s->length - u->segment_done;
        if (part > length)
            part = length;
        if (write_all(u, data, (size_t)part, (int64_t)(s->offset + u->segment_done)) != 0)
            return -1;
        u->segment_done += part;
        data += part;
        length -= (size_t)part;
    }
    return 0;
}

/* headers */

static int pax_string(struct unpack *u, char **slot, const char *value, size_t length, const char *what) {
    if (length > u->limits.path_bytes)
        return fail(u, UNPACK_LIMIT, 0, "%s is longer than %u bytes", what, u->limits.path_bytes);
    if (memchr(value, 0, length))
        return fail(u, UNPACK_MALFORMED, 0, "%s has a NUL byte", what);
    free(*slot);
    *slot = NULL;
    if (length == 0)
        return 0; /* PAX: an empty value takes the record back */
    *slot = strndup(value, length);
    return *slot ? 0 : out_of_memory(u);
}

static int pax_number(struct unpack *u, const char *key, const char *value, size_t length, bool *has, int64_t *number) {
    *has = length > 0;
    if (length > 0 && (read_decimal(value, length, number) != 0 || *number < 0))
        return fail(u, UNPACK_MALFORMED, 0, "PAX %s is not a number: %.*s", key, (int)(length > 40 ? 40 : length), value);
    return 0;
}

/* GNU sparse 0.1: "offset,length,offset,length,..." */
static int pax_sparse_map(struct unpack *u, const char *value, size_t length) {
    u->segment_count = 0;
    int64_t offset = -1;
    for (size_t at = 0; at < length;) {
        const char *comma = memchr(value + at, ',', length - at);
        size_t part = comma ? (size_t)(comma - (value + at)) : length - at;
        int64_t number;
        if (read_decimal(value + at, part, &number) != 0 || number < 0)
            return fail(u, UNPACK_MALFORMED, 0, "sparse map is not a list of numbers");
        if (offset < 0) {
            offset = number;
        } else {
            if (add_segment(u, offset, number) != 0)
                return -1;
            offset = -1;
        }
        at += part + 1;
    }
    return offset < 0 ? 0 : fail(u, UNPACK_MALFORMED, 0, "sparse map has an offset without a length");
}

static bool key_is(const char *key, size_t length, const char *name) {
    return strlen(name) == length && memcmp(key, name, length) == 0;
}

static int pax_record(struct unpack *u, char *key, size_t key_length, char *value, size_t length) {
    static const char xattr[] = "SCHILY.xattr.";
    struct override *next = &u->next;
    bool has;
    int64_t number;
    if (key_is(key, key_length, "path"))
        return pax_string(u, &next->path, value, length, "PAX path");
    if (key_is(key, key_length, "linkpath"))
        return pax_string(u, &next->link, value, length, "PAX linkpath");
    if (key_is(key, key_length, "size"))
        return pax_number(u, "size", value, length, &next->has_size, &next->size);
    if (key_is(key, key_length, "uid"))
        return pax_number(u, "uid", value, length, &next->has_uid, &next->uid);
    if (key_is(key, key_length, "gid"))
        return pax_number(u, "gid", value, length, &next->has_gid, &next->gid);
    if (key_is(key, key_length, "mtime")) {
        next->has_mtime = length > 0;
        if (length > 0 && read_time(value, length, &next->mtime) != 0)
            return fail(u, UNPACK_MALFORMED, 0, "PAX mtime is not a time");
        return 0;
    }
    if (key_length >= sizeof xattr - 1 && memcmp(key, xattr, sizeof xattr - 1) == 0) {
        size_t name_length = key_length - (sizeof xattr - 1);
        if (name_length == 0 || memchr(key, 0, key_length))
            return fail(u, UNPACK_MALFORMED, 0, "PAX xattr has a bad name");
        if (next->xattr_count == XATTRS_MAX)
            return fail(u, UNPACK_LIMIT, 0, "entry has more than %d xattrs", XATTRS_MAX);
        size_t sum = length + name_length;
        for (size_t i = 0; i < next->xattr_count; i++)
            sum += next->xattrs[i].length + strlen(next->xattrs[i].name);
        if (sum > u->limits.xattr_bytes)
            return fail(u, UNPACK_LIMIT, 0, "xattrs are larger than %u bytes", u->limits.xattr_bytes);
        key[key_length] = 0; /* over the '=' */
        next->xattrs[next->xattr_count++] =
            (struct xattr){.name = key + sizeof xattr - 1, .value = value, .length = length};
        return 0;
    }
    if (key_length < 11 || memcmp(key, "GNU.sparse.", 11) != 0)
        return 0;
    key += 11;
    key_length -= 11;
    if (key_is(key, key_length, "name"))
        return pax_string(u, &next->sparse_name, value, length, "GNU.sparse.name");
    if (key_is(key, key_length, "map")) {
        next->sparse_old = true;
        return pax_sparse_map(u, value, length);
    }
    if (pax_number(u, "GNU.sparse", value, length, &has, &number) != 0)
        return -1;
    if (!has)
        return 0;
    if (key_is(key, key_length, "major"))
        next->sparse_major = (int)(number > 9 ? 9 : number);
    else if (key_is(key, key_length, "minor"))
        next->sparse_minor = (int)(number > 9 ? 9 : number);
    else if (key_is(key, key_length, "realsize") || key_is(key, key_length, "size")) {
        next->has_real_size = true;
        next->real_size = number;
    } else if (key_is(key, key_length, "offset")) {
        next->sparse_old = true;
        return add_segment(u, number, 0);
    } else if (key_is(key, key_length, "numbytes")) {
        if (u->segment_count == 0)
            return fail(u, UNPACK_MALFORMED, 0, "sparse map has a length without an offset");
        u->segments[u->segment_count - 1].length = (uint64_t)number;
    }
    return 0;
}

/* Records are "LENGTH KEY=VALUE\n"; LENGTH counts itself. */
static int read_pax(struct unpack *u) {
    forget_override(u);
    u->segment_count = 0;
    u->pax = u->meta;
    u->meta = NULL;
    char *at = u->pax, *end = u->pax + u->meta_size;
    while (at < end) {
        char *space = memchr(at, ' ', (size_t)(end - at));
        int64_t length;
        if (!space || space - at > 12 || read_decimal(at, (size_t)(space - at), &length) != 0 || length > end - at ||
            length < (space - at) + 3 || at[length - 1] != '\n')
            return fail(u, UNPACK_MALFORMED, 0, "PAX header has a broken record");
        char *key = space + 1;
        char *stop = at + length - 1;
        char *equals = memchr(key, '=', (size_t)(stop - key));
        if (!equals || equals == key)
            return fail(u, UNPACK_MALFORMED, 0, "PAX header has a record without a key");
        if (pax_record(u, key, (size_t)(equals - key), equals + 1, (size_t)(stop - equals - 1)) != 0)
            return -1;
        at += length;
    }
    if (u->next.sparse_name) {
        free(u->next.path);
        u->next.path = u->next.sparse_name;
        u->next.sparse_name = NULL;
    }
    return 0;
}

static int finish_meta(struct unpack *u) {
    switch (u->meta_type) {
    case 'x': return read_pax(u);
    case 'L': return pax_string(u, &u->next.path, u->meta, strnlen(u->meta, u->meta_size), "GNU long name");
    case 'K': return pax_string(u, &u->next.link, u->meta, strnlen(u->meta, u->meta_size), "GNU long link name");
    default: return 0; /* 'g': global headers carry nothing that a layer needs (git archive's comment) */
    }
}

static int start_meta(struct unpack *u, char type, int64_t size) {
    if (size < 0 || (uint64_t)size > u->limits.pax_bytes)
        return fail(u, UNPACK_LIMIT, 0, "extended header is larger than %u bytes", u->limits.pax_bytes);
    free(u->meta);
    u->meta = malloc((size_t)size + 1);
    if (!u->meta)
        return out_of_memory(u);
    u->meta[size] = 0;
    u->meta_type = type;
    u->meta_size = (size_t)size;
    u->meta_used = 0;
    u->padding = (size_t)(-size & (BLOCK - 1));
    u->state = META;
    return 0;
}

static int copy_field(struct unpack *u, char *out, const char *override, const unsigned char *field, size_t width,
                      const unsigned char *prefix) {
    size_t used = 0;
    if (override) {
        strcpy(out, override); /* pax_string has checked the length */
        return 0;
    }
    if (prefix && prefix[0]) {
        used = strnlen((const char *)prefix, 155);
        memcpy(out, prefix, used);
        out[used++] = '/';
    }
    size_t length = strnlen((const char *)field, width);
    memcpy(out + used, field, length);
    out[used + length] = 0;
    if (used + length > u->limits.path_bytes)
        return fail(u, UNPACK_LIMIT, 0, "name is longer than %u bytes", u->limits.path_bytes);
    return 0;
}

static int checksum_ok(const unsigned char *block) {
    int64_t stored;
    unsigned sum = 0;
    int signed_sum = 0;
    if (read_number(block + 148, 8, &stored) != 0)
        return 0;
    for (size_t i = 0; i < BLOCK; i++) {
        unsigned char byte = i >= 148 && i < 156 ? ' ' : block[i];
        sum += byte;
        signed_sum += (signed char)byte; /* some ancient tars sum signed chars */
    }
    return stored == (int64_t)sum || stored == (int64_t)signed_sum;
}

static int read_old_sparse(struct unpack *u, const unsigned char *at, size_t count, bool *full) {
    *full = true;
    for (size_t i = 0; i < count; i++, at += 24) {
        int64_t offset, length;
        if (at[0] == 0 || at[12] == 0) {
            *full = false;
            return 0;
        }
        if (read_number(at, 12, &offset) != 0 || read_number(at + 12, 12, &length) != 0)
            return fail(u, UNPACK_MALFORMED, 0, "sparse map has a bad number");
        if (add_segment(u, offset, length) != 0)
            return -1;
    }
    return 0;
}

static int finish_entry(struct unpack *u) {
    if (u->fd >= 0) {
        u->totals.file_bytes += u->size;
        if (close_file(u) != 0)
            return -1;
    }
    forget_override(u);
    u->segment_count = 0;
    u->sparse = false;
    u->state = HEADER;
    return 0;
}

/* Regular files: decide by which of four ways the data is laid out. */
static int start_file(struct unpack *u, const unsigned char *block, char type) {
    u->padding = (size_t)(-u->size & (BLOCK - 1));
    u->real_size = u->size;
    if (type == 'S') {
        int64_t real;
        bool full;
        u->sparse = true;
        u->segment_count = 0;
        if (read_number(block + 483, 12, &real) != 0 || real < 0)
            return fail(u, UNPACK_MALFORMED, 0, "sparse file has a bad size");
        u->real_size = (uint64_t)real;
        if (read_old_sparse(u, block + 386, 4, &full) != 0)
            return -1;
        if (block[482]) {
            u->state = SPARSE_EXTENSION;
            return 0;
        }
        return start_sparse_data(u, u->size);
    }
    if (u->next.sparse_major == 1 && u->next.sparse_minor == 0) {
        u->sparse = true;
        u->segment_count = 0;
        if (!u->next.has_real_size)
            return fail(u, UNPACK_MALFORMED, 0, "sparse file has no real size");
        u->real_size = (uint64_t)u->next.real_size;
        u->left = u->size;
        u->map_expected = u->map_number = 0;
        u->map_read = 0;
        u->map_has_digit = u->map_count_known = false;
        u->state = SPARSE_MAP;
        return 0;
    }
    if (u->next.sparse_major > 0)
        return fail(u, UNPACK_MALFORMED, 0, "sparse format %d.%d is not known", u->next.sparse_major, u->next.sparse_minor);
    if (u->next.sparse_old) {
        u->sparse = true;
        if (!u->next.has_real_size)
            return fail(u, UNPACK_MALFORMED, 0, "sparse file has no real size");
        u->real_size = (uint64_t)u->next.real_size;
        return start_sparse_data(u, u->size);
    }
    u->left = u->size;
    u->state = DATA;
    return apply_entry(u);
}

static int read_owner(struct unpack *u, const unsigned char *field, bool has, int64_t over, const char *what, unsigned *id) {
    int64_t number = over;
    if (!has && read_number(field, 8, &number) != 0)
        return fail(u, UNPACK_MALFORMED, 0, "%s is not a number", what);
    if (number < 0 || number >= (int64_t)UINT32_MAX)
        return fail(u, UNPACK_MALFORMED, 0, "%s %lld is out of range", what, (long long)number);
    *id = (unsigned)number;
    return 0;
}

static int read_header(struct unpack *u, const unsigned char *block) {
    static const unsigned char zeros[BLOCK];
    if (block[0] == 0 && memcmp(block, zeros, BLOCK) == 0) {
        if (++u->zero_blocks == 2)
            u->state = TRAILER;
        return 0;
    }
    const bool posix = memcmp(block + 257, "ustar\0", 6) == 0;
    const bool gnu = memcmp(block + 257, "ustar ", 6) == 0;
    char type = (char)block[156];
    u->name[0] = 0;
    if (u->zero_blocks)
        return fail(u, UNPACK_MALFORMED, 0, "an entry follows the end of the archive");
    if (!checksum_ok(block))
        return fail(u, UNPACK_MALFORMED, 0, "a header has a wrong checksum");
    if (copy_field(u, u->name, u->next.path, block, 100, posix ? block + 345 : NULL) != 0 || count_entry(u) != 0)
        return -1;
    int64_t size;
    if (read_number(block + 124, 12, &size) != 0 || size < 0)
        return fail(u, UNPACK_MALFORMED, 0, "size is not a number");
    if (type == 'x' || type == 'g' || type == 'L' || type == 'K')
        return start_meta(u, type, size);

    if (u->next.has_size)
        size = u->next.size;
    if ((uint64_t)size > u->limits.stream_bytes)
        return fail(u, UNPACK_LIMIT, 0, "file is larger than %llu bytes", (unsigned long long)u->limits.stream_bytes);
    size_t length = strlen(u->name);
    if (type == 0 || type == '7') /* old regular, contiguous */
        type = '0';
    if (type == '0' && length > 0 && u->name[length - 1] == '/') /* v7: a directory is a file with a slash */
        type = '5';
    if (type != '0' && type != 'S' && (type < '1' || type > '6'))
        return fail(u, UNPACK_REFUSED, 0, "entry type %#x is not known", (unsigned char)type);
    if (copy_field(u, u->link, u->next.link, block + 157, 100, NULL) != 0)
        return -1;
    int64_t mode, seconds;
    if (read_number(block + 100, 8, &mode) != 0 || read_number(block + 136, 12, &seconds) != 0)
        return fail(u, UNPACK_MALFORMED, 0, "mode or mtime is not a number");
    u->mode = (mode_t)(mode & 07777);
    u->mtime = u->next.has_mtime ? u->next.mtime : (struct timespec){.tv_sec = seconds};
    if (read_owner(u, block + 108, u->next.has_uid, u->next.uid, "uid", &u->uid) != 0 ||
        read_owner(u, block + 116, u->next.has_gid, u->next.gid, "gid", &u->gid) != 0)
        return -1;
    u->device = 0;
    if (type == '3' || type == '4') {
        int64_t major_number = 0, minor_number = 0;
        if ((posix || gnu) &&
            (read_number(block + 329, 8, &major_number) != 0 || read_number(block + 337, 8, &minor_number) != 0))
            return fail(u, UNPACK_MALFORMED, 0, "device number is not a number");
        if (major_number < 0 || major_number > 0xfff || minor_number < 0 || minor_number > 0xfffff)
            return fail(u, UNPACK_MALFORMED, 0, "device number is out of range");
        u->device = makedev((unsigned)major_number, (unsigned)minor_number);
    }
    if (clean_path(u->name, u->path) != 0)
        return fail(u, UNPACK_REFUSED, 0, "name is outside of the layer");
    u->type = type == 'S' ? '0' : type;
    u->size = (uint64_t)size;
    if (!u->path[0]) {
        /* The root belongs to whoever mounts the layer: like containerd, its own entry is read over. */
        if (u->type != '5')
            return fail(u, UNPACK_REFUSED, 0, "entry is the root, but not a directory");
        return finish_entry(u);
    }
    if (u->type == '0') {
        if (start_file(u, block, type) != 0)
            return -1;
        if (u->state == DATA && u->left == 0)
            return finish_entry(u);
        if (u->state == SKIP) {
            u->left += u->padding;
            if (u->left == 0)
                return finish_entry(u);
        }
        return 0;
    }
    if (apply_entry(u) != 0)
        return -1;
    return finish_entry(u);
}

static int read_sparse_extension(struct unpack *u, const unsigned char *block) {
    bool full;
    if (read_old_sparse(u, block, 21, &full) != 0)
        return -1;
    if (block[504]) {
        if (count_entry(u) != 0)
            return -1;
        return full ? 0 : fail(u, UNPACK_MALFORMED, 0, "sparse map goes on after its end");
    }
    if (start_sparse_data(u, u->size) != 0)
        return -1;
    return u->left == 0 ? finish_entry(u) : 0;
}

/* One block of a PAX 1.0 map: decimal numbers, a line each; the first is how many pairs follow. */
static int read_sparse_map(struct unpack *u, const unsigned char *block) {
    if (u->left < BLOCK)
        return fail(u, UNPACK_MALFORMED, 0, "sparse map is cut off");
    u->left -= BLOCK;
    for (size_t i = 0; i < BLOCK; i++) {
        if (u->map_count_known && u->map_read == u->map_expected * 2)
            break;
        if (block[i] >= '0' && block[i] <= '9') {
            if (u->map_number > (uint64_t)INT64_MAX / 10 - 9)
                return fail(u, UNPACK_MALFORMED, 0, "sparse map has too large a number");
            u->map_number = u->map_number * 10 + (uint64_t)(block[i] - '0');
            u->map_has_digit = true;
            continue;
        }
        if (block[i] != '\n' || !u->map_has_digit)
            return fail(u, UNPACK_MALFORMED, 0, "sparse map is not a list of numbers");
        if (!u->map_count_known) {
            if (u->map_number > SPARSE_SEGMENTS_MAX)
                return fail(u, UNPACK_LIMIT, 0, "sparse map has more than %u segments", SPARSE_SEGMENTS_MAX);
            u->map_count_known = true;
            u->map_expected = u->map_number;
        } else if (u->map_read++ % 2 == 0) {
            if (add_segment(u, (int64_t)u->map_number, 0) != 0)
                return -1;
        } else {
            u->segments[u->segment_count - 1].length = u->map_number;
        }
        u->map_number = 0;
        u->map_has_digit = false;
    }
    if (!u->map_count_known || u->map_read < u->map_expected * 2)
        return 0;
    u->size = u->left;
    if (start_sparse_data(u, u->left) != 0)
        return -1;
    return u->left == 0 ? finish_entry(u) : 0;
}

int unpack_feed(struct unpack *u, const void *data, size_t length) {
    const unsigned char *at = data;
    if (u->error.kind != UNPACK_OK)
        return -1;
    if (length > u->limits.stream_bytes - u->totals.stream_bytes)
        return fail(u, UNPACK_LIMIT, 0, "layer is larger than %llu bytes", (unsigned long long)u->limits.stream_bytes);
    u->totals.stream_bytes += length;
    while (length > 0) {
        size_t part;
        switch (u->state) {
        case TRAILER: return 0; /* what follows the end counts for the digest only */
        case SKIP:
            part = u->left < length ? (size_t)u->left : length;
            u->left -= part;
            if (u->left == 0 && finish_entry(u) != 0)
                return -1;
            break;
        case DATA:
            if (u->left > 0) {
                part = u->left < length ? (size_t)u->left : length;
                if ((u->sparse ? write_sparse(u, at, part) : write_all(u, at, part, -1)) != 0)
                    return -1;
                u->left -= part;
            } else {
                part = u->padding < length ? u->padding : length;
                u->padding -= part;
            }
            if (u->left == 0 && u->padding == 0 && finish_entry(u) != 0)
                return -1;
            break;
        case META:
            if (u->meta_used < u->meta_size) {
                part = u->meta_size - u->meta_used;
                if (part > length)
                    part = length;
                memcpy(u->meta + u->meta_used, at, part);
                u->meta_used += part;
            } else {
                part = u->padding < length ? u->padding : length;
                u->padding -= part;
            }
            if (u->meta_used == u->meta_size && u->padding == 0) {
                u->state = HEADER;
                if (finish_meta(u) != 0)
                    return -1;
            }
            break;
        default: { /* states that work on whole blocks */
            const unsigned char *block = at;
            part = BLOCK;
            if (u->block_used > 0 || length < BLOCK) {
                part = BLOCK - u->block_used;
                if (part > length)
                    part = length;
                memcpy(u->block + u->block_used, at, part);
                u->block_used += part;
                if (u->block_used < BLOCK)
                    return 0;
                u->block_used = 0;
                block = u->block;
            }
            int result = u->state == HEADER             ? read_header(u, block)
                         : u->state == SPARSE_EXTENSION ? read_sparse_extension(u, block)
                                                        : read_sparse_map(u, block);
            if (result != 0)
                return -1;
        }
        }
        at += part;
        length -= part;
    }
    return 0;
}

int unpack_finish(struct unpack *u) {
    if (u->error.kind != UNPACK_OK)
        return -1;
    if (u->state != TRAILER && (u->state != HEADER || u->block_used > 0 || u->next.path || u->next.link || u->pax))
        return fail(u, UNPACK_MALFORMED, 0, "archive ends in the middle of an entry");
    u->name[0] = 0;
    forget_directories(u);
    return apply_times(u);
}

const char *unpack_implicit(const struct unpack *u, size_t *cursor) {
    while (*cursor < u->implicit_count) {
        const struct implicit *directory = &u->implicit[(*cursor)++];
        if (!directory->described)
            return directory->path;
    }
    return NULL;
}

int unpack_remove_tree(int parent_fd, const char *name) {
    static const struct unpack_limits none;
    struct unpack *u = unpack_new(parent_fd, &none);
    if (!u)
        return -ENOMEM;
    int result = remove_tree(u, parent_fd, name) == 0 ? 0 : -u->error.errno_value;
    unpack_free(u);
    return result;
}
