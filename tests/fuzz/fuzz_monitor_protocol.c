/*
 * fuzz_monitor_protocol.c: libFuzzer on the decoder of the daemon's requests. The first byte says how many fds came with the packet. Of what is accepted
 * every field is read to its last byte, every fd index must be one of the packet's, and bytes cut off or added must be refused.
 *
 *   make -C native fuzz && build/native/fuzz/fuzz_monitor_protocol -max_total_time=60 CORPUS
 */
#include "message.h"

#include <stdlib.h>

struct kind {
    uint32_t code;
    uint8_t types[MESSAGE_FIELDS_MAX + 1];
};

#define F(type, name) T_##type,
#define MSG(code, name, direction, fields) {code, {fields T_END}},
static const struct kind kinds[] = {
#include "messages.def"
};
#undef MSG
#undef F

static volatile unsigned sink;

static void touch(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        sink += (unsigned char)s[i];
}

static void walk(const struct message *m, uint32_t fds) {
    const struct kind *kind = kinds;
    while (kind->code != m->code)
        kind++;
    if (m->code >= MSG_ok)
        abort(); /* a reply or an event is no request */
    for (int i = 0; kind->types[i]; i++) {
        const struct field *f = &m->f[i];
        switch (kind->types[i]) {
        case T_STR:
            if (strlen(f->s) != f->count)
                abort();
            touch(f->s, f->count + 1);
            break;
        case T_U32S:
            for (uint32_t k = 0; k < f->count; k++)
                if (item_u32(f, k) >= fds)
                    abort();
            break;
        case T_FD:
            if (f->n != FD_NONE && f->n >= fds)
                abort();
            break;
        default:
            sink += (unsigned)f->n;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct message m;
    if (!size)
        return 0;
    uint32_t fds = data[0] % (MESSAGE_FDS_MAX + 1);
    data++, size--;
    if (message_decode(&m, data, size, fds))
        return 0;
    walk(&m, fds);
    if (message_decode(&m, data, size - 1, fds) == 0)
        abort();
    uint8_t *longer = malloc(size + 1);
    memcpy(longer, data, size);
    longer[size] = 0;
    if (message_decode(&m, longer, size + 1, fds) == 0)
        abort();
    free(longer);
    return 0;
}
