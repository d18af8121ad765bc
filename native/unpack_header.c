/* unpack_header.c: the 512 bytes of a tar header (ustar, GNU, v7): numbers, names, checksum, and what kind of entry it begins. */
#include "unpack_core.h"

#include <sys/sysmacros.h>

/* Octal text, or two's complement base 256 when the first bit is set (GNU). */
int read_number(const unsigned char *field, size_t width, int64_t *value) {
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

/* Clean a name by its text alone: no leading slash, no empty, "." or ".." components. -1: it leaves the root. */
int clean_path(const char *in, char *out) {
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

int read_header(struct unpack *u, const unsigned char *block) {
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
