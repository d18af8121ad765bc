/* unpack_pax.c: what PAX and GNU headers say about the entry that follows them; nothing of it is believed beyond the limits. */
#include "unpack_core.h"

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

int finish_meta(struct unpack *u) {
    switch (u->meta_type) {
    case 'x': return read_pax(u);
    case 'L': return pax_string(u, &u->next.path, u->meta, strnlen(u->meta, u->meta_size), "GNU long name");
    case 'K': return pax_string(u, &u->next.link, u->meta, strnlen(u->meta, u->meta_size), "GNU long link name");
    default: return 0; /* 'g': global headers carry nothing that a layer needs (git archive's comment) */
    }
}
