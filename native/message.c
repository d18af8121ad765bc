/* message.c: see message.h. Hostile bytes are possible (any process of our uid may connect): tests/fuzz/fuzz_monitor_protocol.c. */
#include "message.h"

struct message_kind {
    uint32_t code;
    const char *name;
    int request;
    uint8_t types[MESSAGE_FIELDS_MAX + 1];
};

#define DIRECTION_REQ 1
#define DIRECTION_REP 0
#define DIRECTION_EVT 0
#define F(type, name) T_##type,
#define MSG(code, name, direction, fields) {code, #name, DIRECTION_##direction, {fields T_END}},
static const struct message_kind kinds[] = {
#include "messages.def"
};
#undef MSG
#undef F

int message_decode(struct message *message, const uint8_t *bytes, size_t length, uint32_t fd_count) {
    struct reader r = {bytes, bytes + length, 0};
    uint32_t magic = read_u32(&r), version = read_u16(&r), code = read_u16(&r), seq = read_u32(&r), body = read_u32(&r);
    if (r.bad || magic != MESSAGE_MAGIC || version != MESSAGE_VERSION || body != length - MESSAGE_HEADER)
        return -1;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const struct message_kind *kind = &kinds[i];
        if (kind->code != code || !kind->request)
            continue;
        message->code = code;
        message->seq = seq;
        message->name = kind->name;
        for (int k = 0; kind->types[k]; k++) {
            struct field *f = &message->f[k];
            read_field(&r, (enum field_type)kind->types[k], f);
            if (r.bad)
                return -1;
            if (kind->types[k] == T_FD && f->n != FD_NONE && f->n >= fd_count)
                return -1;
            if (kind->types[k] == T_U32S)
                for (uint32_t j = 0; j < f->count; j++)
                    if (item_u32(f, j) >= fd_count)
                        return -1;
        }
        return r.at == r.end ? 0 : -1;
    }
    return -1;
}

static uint8_t *room(struct builder *b, size_t n) {
    if (b->overflow || sizeof b->bytes - b->length < n) {
        b->overflow = 1;
        return NULL;
    }
    uint8_t *at = b->bytes + b->length;
    b->length += n;
    return at;
}

static void put(uint8_t *at, uint64_t value, int bytes) {
    for (int i = 0; at && i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

void build_begin(struct builder *b, uint32_t code, uint32_t seq) {
    b->length = 0, b->fd_count = 0, b->overflow = 0;
    uint8_t *at = room(b, MESSAGE_HEADER);
    put(at, MESSAGE_MAGIC, 4), put(at + 4, MESSAGE_VERSION, 2), put(at + 6, code, 2), put(at + 8, seq, 4);
}

void build_u32(struct builder *b, uint32_t value) { put(room(b, 4), value, 4); }
void build_u64(struct builder *b, uint64_t value) { put(room(b, 8), value, 8); }

void build_str(struct builder *b, const char *text) {
    size_t n = strlen(text);
    build_u32(b, (uint32_t)n);
    uint8_t *at = room(b, n + 1);
    if (at)
        memcpy(at, text, n + 1);
}

void build_fd(struct builder *b, int fd) {
    if (fd < 0 || b->fd_count == MESSAGE_FDS_MAX) {
        build_u32(b, FD_NONE);
        return;
    }
    build_u32(b, b->fd_count);
    b->fds[b->fd_count++] = fd;
}

int build_end(struct builder *b) {
    put(b->bytes + 12, b->length - MESSAGE_HEADER, 4);
    return b->overflow ? -1 : 0;
}
