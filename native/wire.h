/*
 * wire.h: the field encoding that plans and messages share, read with bounds. Owns nothing; allocates nothing.
 * A value that does not fit sets `bad` and yields zeros, so a caller checks once at the end.
 */
#ifndef ORLOP_WIRE_H
#define ORLOP_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum field_type { T_END = 0, T_U32, T_U64, T_I64, T_STR, T_BYTES, T_STRS, T_U32S, T_FD };

#define FIELDS_MAX 10
#define FD_NONE 0xffffffffu

/* One decoded field; pointers refer into the source. */
struct field {
    uint64_t n;         /* U32 U64 I64(two's complement) FD(index) */
    const char *s;      /* STR: NUL-terminated; STRS U32S BYTES: the first byte of the contents */
    uint32_t count;     /* STR BYTES: length; STRS U32S: number of items */
};

struct reader {
    const uint8_t *at, *end;
    int bad;
};

static inline const uint8_t *read_raw(struct reader *r, size_t n) {
    if (r->bad || (size_t)(r->end - r->at) < n) {
        r->bad = 1;
        return NULL;
    }
    const uint8_t *p = r->at;
    r->at += n;
    return p;
}

static inline uint32_t read_u16(struct reader *r) {
    const uint8_t *p = read_raw(r, 2);
    return p ? (uint32_t)p[0] | (uint32_t)p[1] << 8 : 0;
}

static inline uint32_t read_u32(struct reader *r) {
    const uint8_t *p = read_raw(r, 4);
    return p ? (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24 : 0;
}

static inline uint64_t read_u64(struct reader *r) {
    uint64_t low = read_u32(r);
    return low | (uint64_t)read_u32(r) << 32;
}

/* u32 length, bytes, one NUL; no NUL inside. */
static inline const char *read_str(struct reader *r, uint32_t *length) {
    uint32_t n = read_u32(r);
    const uint8_t *p = n == UINT32_MAX ? NULL : read_raw(r, (size_t)n + 1);
    if (!p || p[n] != 0 || memchr(p, 0, n)) {
        r->bad = 1;
        return "";
    }
    if (length)
        *length = n;
    return (const char *)p;
}

static inline void read_field(struct reader *r, enum field_type type, struct field *f) {
    f->n = 0, f->s = NULL, f->count = 0;
    switch (type) {
    case T_U32:
    case T_FD:
        f->n = read_u32(r);
        break;
    case T_U64:
    case T_I64:
        f->n = read_u64(r);
        break;
    case T_STR:
        f->s = read_str(r, &f->count);
        break;
    case T_BYTES:
        f->count = read_u32(r);
        f->s = (const char *)read_raw(r, f->count);
        break;
    case T_STRS:
        f->count = read_u32(r);
        f->s = (const char *)r->at;
        for (uint32_t i = 0; i < f->count && !r->bad; i++)
            read_str(r, NULL);
        break;
    case T_U32S:
        f->count = read_u32(r);
        f->s = (const char *)r->at;
        read_raw(r, (size_t)f->count * 4);
        break;
    case T_END:
        r->bad = 1;
    }
}

/* Next string of a STRS field; start with *at = field->s. The field has been validated by read_field. */
static inline const char *next_str(const char **at) {
    const uint8_t *p = (const uint8_t *)*at;
    uint32_t n = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    *at += 4 + (size_t)n + 1;
    return (const char *)p + 4;
}

static inline uint32_t item_u32(const struct field *f, uint32_t i) {
    const uint8_t *p = (const uint8_t *)f->s + (size_t)i * 4;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

#endif
