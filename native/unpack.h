/*
 * unpack.h: a tar stream becomes the directory of one layer.
 *
 * Owns: reading ustar, PAX, GNU and sparse headers from bytes as they come, and every system call that makes the layer's files.
 * Never: decompresses, hashes, allocates without a bound, or follows a link out of the root it was given.
 * Plain C without Python, so that it can be fuzzed and built with sanitizers: tests/fuzz/fuzz_unpack.c. The Python face is
 * unpackmodule.c; tests are tests/kernel/layers/test_unpack.py.
 *
 * The root must be private until unpack_finish has returned 0: nobody else may change it meanwhile. Even so every path is opened
 * with openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS), because the archive itself makes the links that it then walks through.
 *
 * A layer is applied without the layers below it ("order-free"), so:
 *   .wh.NAME        becomes an overlay whiteout: character device 0:0
 *   .wh..wh..opq    becomes the xattr trusted.overlay.opaque=y on the directory
 *   missing parents are made 0755 root:root and remembered (unpack_implicit): in a chain they must take the attributes that
 *                   the lower layers gave to the same directory
 */
#ifndef ORLOP_UNPACK_H
#define ORLOP_UNPACK_H

#include <stddef.h>
#include <stdint.h>

struct unpack;

struct unpack_limits {
    uint64_t stream_bytes; /* of the tar as a whole, and of one file's size with its holes */
    uint64_t entries;      /* headers of any kind, and parents made without a header */
    uint32_t path_bytes;   /* of a name and of a link's target */
    uint32_t pax_bytes;    /* of one PAX or GNU long name header, and of a sparse map */
    uint32_t xattr_bytes;  /* of all xattrs of one entry */
};

enum unpack_kind {
    UNPACK_OK = 0,
    UNPACK_MALFORMED, /* the archive breaks the format */
    UNPACK_REFUSED,   /* the archive asks for something that a layer may not have */
    UNPACK_LIMIT,     /* a limit is crossed */
    UNPACK_SYSTEM,    /* a system call failed; see errno_value */
};

struct unpack_error {
    enum unpack_kind kind;
    int errno_value;
    char entry[512];   /* name of the entry as in the archive, cut to fit */
    char reason[256];
};

struct unpack_totals {
    uint64_t stream_bytes;
    uint64_t file_bytes; /* sizes of regular files, holes not counted */
    uint64_t entries;
    uint64_t whiteouts;
};

/* root_fd stays the caller's and must live as long as the unpacker. Returns NULL when memory is out. */
struct unpack *unpack_new(int root_fd, const struct unpack_limits *limits);
void unpack_free(struct unpack *u);

/* Say that the calling thread's umask is 0, which saves a chmod a file. */
void unpack_set_umask_zero(struct unpack *u, int umask_zero);

/* Both return 0, or -1 with the error kept; after an error every call returns -1 and nothing is written any more. */
int unpack_feed(struct unpack *u, const void *data, size_t length);
int unpack_finish(struct unpack *u);

const struct unpack_error *unpack_last_error(const struct unpack *u);
const struct unpack_totals *unpack_get_totals(const struct unpack *u);

/* Directories that no entry described, valid after unpack_finish. Start with *cursor = 0; NULL at the end. No leading slash. */
const char *unpack_implicit(const struct unpack *u, size_t *cursor);

/* Remove a directory and all below it without following links, whatever its depth, with two fds. Returns 0 or -errno. */
int unpack_remove_tree(int parent_fd, const char *name);

#endif
