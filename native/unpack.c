/*
 * unpack.c: see unpack.h for what the unpacker owns and promises. Here: its life, its errors, and the machine that turns bytes as they come into
 * headers and data.
 *
 *   HEADER -> META (PAX, GNU names) -> HEADER            unpack_header.c  a block of 512 bytes to an entry      unpack_pax.c  its extended attributes
 *          -> SPARSE_EXTENSION, SPARSE_MAP -> DATA       unpack_sparse.c  files with holes                      unpack_entry.c  an entry to a file
 *          -> DATA, SKIP -> HEADER ... TRAILER           unpack_directory.c  parents, removal                   unpack_attribute.c  owner, mode, xattrs, times
 */
#include "unpack_core.h"

#include <stdarg.h>

int fail(struct unpack *u, enum unpack_kind kind, int errno_value, const char *format, ...) {
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

int fail_system(struct unpack *u, const char *call) {
    int code = errno;
    /* What the archive's own names provoke is the archive's fault. */
    if (code == ENAMETOOLONG)
        return fail(u, UNPACK_LIMIT, code, "name is too long");
    if (code == ELOOP)
        return fail(u, UNPACK_REFUSED, code, "too many symbolic links");
    return fail(u, UNPACK_SYSTEM, code, "%s: %s", call, strerror(code));
}

int out_of_memory(struct unpack *u) {
    errno = ENOMEM;
    return fail_system(u, "malloc");
}

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

void forget_directories(struct unpack *u) {
    for (size_t i = 0; i < DIRECTORY_CACHE; i++) {
        if (u->cache[i].fd >= 0)
            close(u->cache[i].fd);
        free(u->cache[i].path);
        u->cache[i] = (struct cached_directory){.fd = -1};
    }
    u->last = NULL;
}

void forget_override(struct unpack *u) {
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

void forget_times(struct unpack *u) {
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

int count_entry(struct unpack *u) {
    if (++u->totals.entries > u->limits.entries)
        return fail(u, UNPACK_LIMIT, 0, "layer has more than %llu entries", (unsigned long long)u->limits.entries);
    return 0;
}

int finish_entry(struct unpack *u) {
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
