/* plan.h: iterating over a validated plan, op by op. */
#ifndef ORLOP_PLAN_H
#define ORLOP_PLAN_H

#include "launch.h"
#include "wire.h"

enum phase { PHASE_POD, PHASE_SPAWN, PHASE_PARENT, PHASE_JOIN, PHASE_NS, PHASE_MOUNT, PHASE_ROOT, PHASE_IDENTITY, PHASE_GATE, PHASE_FINAL };

struct op_kind {
    uint32_t code;
    const char *name;
    enum phase phase;
    uint8_t types[FIELDS_MAX + 1];
};

struct op {
    const struct op_kind *kind;
    uint32_t index;
    struct field f[FIELDS_MAX];
};

struct plan_cursor {
    struct reader reader;
    uint32_t next, count;
};

const struct op_kind *op_kind_of(uint32_t code);
/* The op's place in ops.def, from 0: for tables that are made from it. */
size_t op_slot(const struct op_kind *kind);
void plan_rewind(const struct plan *plan, struct plan_cursor *cursor);
/* 1: *op is the next; 0: none is left. */
int plan_next(struct plan_cursor *cursor, struct op *op);
/* The fd that an FD field names, -1 for none. */
int plan_fd(const struct plan *plan, const struct field *field);

#define ORLOP_PLAN_MAGIC 0x504c524fu
#define ORLOP_PLAN_VERSION 1u
#define ORLOP_PLAN_OPS_MAX 8192u
#define ORLOP_PLAN_BYTES_MAX (8u << 20)

#endif
