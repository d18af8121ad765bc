/*
 * backlog.c: output that clients of a container have not taken yet. It is kept once a container, however many clients are behind: a chain of
 * blocks, and in each client the place that it has reached. A block goes when the last client has passed it.
 *
 *   container.tail -> last block            block.refs = clients in it + 1 if a block before links to it + 1 if it is a container's tail
 *
 * All that a monitor keeps is bounded (BACKLOG_MAX): when there is no more room, the client that is farthest behind is cut off. The blocks are
 * mapped and unmapped: what a burst took is the system's again after it. Test: tests/kernel/monitor/test_attach.py.
 */
#include "monitor.h"

#include <string.h>
#include <sys/mman.h>

#define BLOCK_BYTES (256u << 10)

struct block {
    struct block *next;
    uint32_t refs, used;
    char bytes[]; /* records: u32 length, then the packet */
};

#define ROOM (BLOCK_BYTES - (uint32_t)sizeof(struct block))

static void let_go(struct block *block) {
    while (block && --block->refs == 0) {
        struct block *next = block->next;
        munmap(block, BLOCK_BYTES);
        pod.backlog -= BLOCK_BYTES;
        block = next;
    }
}

/* Nobody is behind any more: the tail is of no use. */
static void settle(struct container *k) {
    for (const struct attach *a = k->attached; a; a = a->next)
        if (a->block)
            return;
    let_go(k->tail);
    k->tail = NULL;
}

void backlog_leave(struct attach *a) {
    let_go(a->block);
    a->block = NULL;
    if (a->container && a->container->tail)
        settle(a->container);
}

void backlog_end(struct container *k) {
    let_go(k->tail);
    k->tail = NULL;
}

static size_t behind(const struct attach *a) {
    size_t blocks = 0;
    for (const struct block *at = a->block; at; at = at->next)
        blocks++;
    return blocks;
}

static void farthest(struct attach *list, struct attach **worst, size_t *most) {
    for (struct attach *a = list; a; a = a->next)
        if (behind(a) > *most)
            *most = behind(a), *worst = a;
}

static int cut_one(void) {
    struct attach *worst = NULL;
    size_t most = 0;
    farthest(pod.leaving, &worst, &most);
    for (const struct container *k = pod.containers; k; k = k->next)
        farthest(k->attached, &worst, &most);
    if (!worst)
        return 0;
    cut_attach(worst);
    return 1;
}

static int new_block(struct container *k) {
    while (pod.backlog + BLOCK_BYTES > BACKLOG_MAX)
        if (!cut_one())
            return -1;
    struct block *block = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED)
        return -1;
    pod.backlog += BLOCK_BYTES;
    struct block *before = k->tail; /* what was cut may have taken it away */
    block->refs = before ? 2 : 1;
    if (before)
        before->next = block;
    k->tail = block;
    let_go(before);
    return 0;
}

int backlog_keep(struct container *k, const char *head, size_t head_length, const char *data, size_t length) {
    uint32_t size = (uint32_t)(head_length + length);
    if ((!k->tail || ROOM - k->tail->used < size + sizeof size) && new_block(k))
        return -1;
    char *at = k->tail->bytes + k->tail->used;
    memcpy(at, &size, sizeof size);
    memcpy(at + sizeof size, head, head_length);
    memcpy(at + sizeof size + head_length, data, length);
    k->tail->used += size + (uint32_t)sizeof size;
    return 0;
}

void backlog_join(struct attach *a, size_t size) {
    a->block = a->container->tail;
    a->block->refs++;
    a->block_at = a->block->used - (uint32_t)(size + sizeof(uint32_t));
}

const char *backlog_next(struct attach *a, uint32_t *size) {
    while (a->block_at == a->block->used) {
        struct block *next = a->block->next;
        if (!next)
            return NULL;
        next->refs++;
        let_go(a->block);
        a->block = next;
        a->block_at = 0;
    }
    memcpy(size, a->block->bytes + a->block_at, sizeof *size);
    return a->block->bytes + a->block_at + sizeof *size;
}

void backlog_pass(struct attach *a, uint32_t size) { a->block_at += size + (uint32_t)sizeof size; }
