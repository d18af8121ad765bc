/*
 * unpack_core.h: what the files of the unpacker share: its state and each other's steps. unpack.h is for everybody else.
 * A step returns 0, or -1 with the error kept (fail); after that nothing is written any more.
 */
#ifndef ORLOP_UNPACK_CORE_H
#define ORLOP_UNPACK_CORE_H

#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
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

/* Inside of the extension module: neither seen by Python's other modules nor replaced by theirs. */
#pragma GCC visibility push(hidden)

/* unpack.c: its life, its errors */
int fail(struct unpack *u, enum unpack_kind kind, int errno_value, const char *format, ...) __attribute__((format(printf, 4, 5)));
int fail_system(struct unpack *u, const char *call);
int out_of_memory(struct unpack *u);
void forget_directories(struct unpack *u);
void forget_override(struct unpack *u);
void forget_times(struct unpack *u);
int count_entry(struct unpack *u);
int finish_entry(struct unpack *u);

/* unpack_header.c: headers */
int read_number(const unsigned char *field, size_t width, int64_t *value);
int clean_path(const char *in, char *out);
int read_header(struct unpack *u, const unsigned char *block);

/* unpack_pax.c: PAX and GNU headers */
int finish_meta(struct unpack *u);

/* unpack_sparse.c: sparse files */
int add_segment(struct unpack *u, int64_t offset, int64_t length);
int start_sparse_data(struct unpack *u, uint64_t data);
int write_all(struct unpack *u, const unsigned char *data, size_t length, int64_t offset);
int write_sparse(struct unpack *u, const unsigned char *data, size_t length);
int read_old_sparse(struct unpack *u, const unsigned char *at, size_t count, bool *full);
int read_sparse_extension(struct unpack *u, const unsigned char *block);
int read_sparse_map(struct unpack *u, const unsigned char *block);

/* unpack_directory.c: directories and removal */
int open_in_root(const struct unpack *u, const char *path, uint64_t flags, uint64_t resolve);
void forget_implicit(struct unpack *u, ino_t inode);
int set_opaque(struct unpack *u, int directory_fd);
bool is_whiteout(const struct stat *st);
int locate(struct unpack *u, char *path, const char **base, bool make);
int remove_tree(struct unpack *u, int parent, const char *base);
int remove_existing(struct unpack *u, int *parent, const char **base);

/* unpack_attribute.c: attributes */
int set_xattrs(struct unpack *u, int fd);
int close_file(struct unpack *u);
int apply_times(struct unpack *u);
int remember_time(struct unpack *u);
int set_attributes(struct unpack *u, int parent, const char *base);

/* unpack_entry.c: entries */
int begin_file(struct unpack *u);
int apply_entry(struct unpack *u);

#pragma GCC visibility pop

#endif
