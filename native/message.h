/* message.h: packets of the daemon's socket (messages.def): decode a request, build a reply. Knows no container. */
#ifndef ORLOP_MESSAGE_H
#define ORLOP_MESSAGE_H

#include "wire.h"

#define MESSAGE_MAGIC 0x4d4c524fu
#define MESSAGE_VERSION 1u
#define MESSAGE_HEADER 16
#define MESSAGE_BYTES_MAX (64u << 10)
#define MESSAGE_FDS_MAX 64
#define MESSAGE_FIELDS_MAX 12

#define F(type, name)
#define MSG(code, name, direction, fields) MSG_##name = code,
enum message_code {
#include "messages.def"
};
#undef MSG
#undef F

struct message {
    uint32_t code, seq;
    const char *name;
    struct field f[MESSAGE_FIELDS_MAX];
};

/* 0, or -1: not a well-formed request. fd_count bounds the FD and planfds fields. Never reads outside the bytes. Fuzzed. */
int message_decode(struct message *message, const uint8_t *bytes, size_t length, uint32_t fd_count);

struct builder {
    uint8_t bytes[4096 + 60 * 1024];
    size_t length;
    int fds[MESSAGE_FDS_MAX];
    uint32_t fd_count;
    int overflow;
};

void build_begin(struct builder *b, uint32_t code, uint32_t seq);
void build_u32(struct builder *b, uint32_t value);
void build_u64(struct builder *b, uint64_t value);
void build_str(struct builder *b, const char *text);
void build_fd(struct builder *b, int fd); /* -1: none */
/* Fills in the length; -1 when something did not fit. */
int build_end(struct builder *b);

#endif
