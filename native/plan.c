/*
 * plan.c: decodes and validates launch plans (docs/native-protocol.md). Owns the format; never acts on it. Bytes come from the daemon in a
 * sealed memfd, and are treated as hostile all the same: tests/fuzz/fuzz_plan.c.
 */
#include "plan.h"

#include <stdio.h>

#define F(type, name) T_##type,
#define OP(code, name, phase, fields) {code, #name, PHASE_##phase, {fields T_END}},
static const struct op_kind kinds[] = {
#include "ops.def"
};
#undef OP
#undef F

#define KINDS (sizeof kinds / sizeof kinds[0])
#define HEADER_BYTES 20
/* CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET: a plan makes namespaces, it does not share memory with the monitor. */
#define CLONE_NEW_ALL 0x7e020080u

/* The codes in ops.def ascend (a test holds them to it). A launch looks up some 400 ops. */
const struct op_kind *op_kind_of(uint32_t code) {
    size_t low = 0, high = KINDS;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (kinds[middle].code == code)
            return &kinds[middle];
        if (kinds[middle].code < code)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

size_t op_slot(const struct op_kind *kind) { return (size_t)(kind - kinds); }

void plan_rewind(const struct plan *plan, struct plan_cursor *cursor) {
    cursor->reader = (struct reader){plan->bytes + HEADER_BYTES, plan->bytes + plan->length, 0};
    cursor->next = 0;
    cursor->count = plan->op_count;
}

/* 1: op read; 0: end; -1: malformed. */
static int decode_op(struct plan_cursor *cursor, struct op *op) {
    if (cursor->next == cursor->count)
        return 0;
    struct reader *r = &cursor->reader;
    uint32_t code = read_u16(r), zero = read_u16(r), length = read_u32(r);
    const uint8_t *body = read_raw(r, length);
    op->index = cursor->next++;
    op->kind = body && !zero ? op_kind_of(code) : NULL;
    if (!op->kind)
        return -1;
    struct reader fields = {body, body + length, 0};
    for (int i = 0; op->kind->types[i]; i++)
        read_field(&fields, (enum field_type)op->kind->types[i], &op->f[i]);
    return fields.bad || fields.at != fields.end ? -1 : 1;
}

int plan_next(struct plan_cursor *cursor, struct op *op) { return decode_op(cursor, op) == 1; }

int plan_fd(const struct plan *plan, const struct field *field) {
    return field->n < plan->fd_count ? plan->fds[field->n] : -1;
}

static int refuse(struct launch_error *error, uint32_t index, const char *op, const char *why) {
    error->errnum = 71; /* EPROTO */
    error->op_index = index;
    snprintf(error->op, sizeof error->op, "%s", op);
    snprintf(error->detail, sizeof error->detail, "plan refused: %s", why);
    return -1;
}

int plan_decode(struct plan *plan, const uint8_t *bytes, size_t length, const int *fds, uint32_t fd_count, struct launch_error *error) {
    struct reader r = {bytes, bytes + length, 0};
    uint32_t magic = read_u32(&r), version = read_u16(&r), flags = read_u16(&r), total = read_u32(&r), ops = read_u32(&r), wanted = read_u32(&r);
    if (r.bad || magic != ORLOP_PLAN_MAGIC)
        return refuse(error, UINT32_MAX, "plan", "no plan header");
    if (version != ORLOP_PLAN_VERSION)
        return refuse(error, UINT32_MAX, "plan", "unknown version");
    if (total != length || length > ORLOP_PLAN_BYTES_MAX || ops > ORLOP_PLAN_OPS_MAX || flags > 1)
        return refuse(error, UINT32_MAX, "plan", "lengths or flags of the header do not fit");
    if (wanted != fd_count)
        return refuse(error, UINT32_MAX, "plan", "number of fds differs from the header");
    *plan = (struct plan){bytes, length, ops, fd_count, fds, (int)(flags & 1)};

    struct plan_cursor cursor;
    struct op op;
    enum phase phase = PHASE_POD;
    int outcome, execs = 0, clones = 0, gates = 0, last_is_exec = 0;
    plan_rewind(plan, &cursor);
    while ((outcome = decode_op(&cursor, &op)) == 1) {
        if (op.kind->phase < phase)
            return refuse(error, op.index, op.kind->name, "its phase has passed");
        if ((op.kind->phase == PHASE_POD) != plan->is_pod)
            return refuse(error, op.index, op.kind->name, "pod ops stand only in pod plans, others only in container plans");
        phase = op.kind->phase;
        for (int i = 0; op.kind->types[i]; i++)
            if (op.kind->types[i] == T_FD && op.f[i].n != FD_NONE && op.f[i].n >= fd_count)
                return refuse(error, op.index, op.kind->name, "fd index out of range");
        execs += op.kind->code == 0x0903;
        clones += op.kind->code == 0x0101;
        gates += op.kind->code == 0x0801;
        last_is_exec = op.kind->code == 0x0903;
        if (op.kind->code == 0x0101 && op.f[0].n & ~(uint64_t)CLONE_NEW_ALL)
            return refuse(error, op.index, op.kind->name, "flags other than CLONE_NEW*");
        if (op.kind->code == 0x0901 && (op.f[0].count == 0 || op.f[0].count % 8 || op.f[0].count > 8 * 4096))
            return refuse(error, op.index, op.kind->name, "filter is not 1 to 4096 instructions of 8 bytes");
        if (op.kind->code == 0x0903 && op.f[1].count == 0)
            return refuse(error, op.index, op.kind->name, "argv is empty");
    }
    if (outcome < 0)
        return refuse(error, cursor.next ? cursor.next - 1 : 0, "plan", "unknown op or fields that do not fit");
    if (cursor.reader.at != cursor.reader.end)
        return refuse(error, UINT32_MAX, "plan", "bytes after the last op");
    if (!plan->is_pod && (execs != 1 || !last_is_exec || clones != 1 || gates > 1))
        return refuse(error, UINT32_MAX, "plan", "a container plan has one clone, at most one gate, and ends with its one exec");
    return 0;
}
