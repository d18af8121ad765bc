/*
 * fuzz_plan.c: libFuzzer on the plan decoder. What it accepts must also be walkable: every field of every op is read to its last byte, the way the executor
 * does, and the rules that the executor relies on are asserted.
 *
 *   make -C native fuzz && build/native/fuzz/fuzz_plan -max_total_time=60 CORPUS
 */
#include "plan.h"

#include <stdlib.h>

static volatile unsigned sink;

static void touch(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        sink += (unsigned char)s[i];
}

static void walk(const struct plan *plan) {
    struct plan_cursor cursor;
    struct op op;
    uint32_t seen = 0;
    enum phase phase = PHASE_POD;
    plan_rewind(plan, &cursor);
    while (plan_next(&cursor, &op)) {
        if (op.kind->phase < phase || op.index != seen++ || op_kind_of(op.kind->code) != op.kind)
            abort();
        phase = op.kind->phase;
        for (int i = 0; op.kind->types[i]; i++) {
            const struct field *f = &op.f[i];
            const char *at = f->s;
            switch (op.kind->types[i]) {
            case T_STR:
                if (strlen(f->s) != f->count)
                    abort();
                break;
            case T_BYTES:
                touch(f->s, f->count);
                break;
            case T_STRS:
                for (uint32_t k = 0; k < f->count; k++) {
                    const char *s = next_str(&at);
                    touch(s, strlen(s) + 1);
                }
                break;
            case T_U32S:
                for (uint32_t k = 0; k < f->count; k++)
                    sink += item_u32(f, k);
                break;
            case T_FD:
                if (f->n != FD_NONE && plan_fd(plan, f) != (int)f->n)
                    abort();
                break;
            default:
                break;
            }
        }
    }
    if (seen != plan->op_count)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int fds[64];
    uint32_t wanted = size >= 20 ? data[16] % 64u : 0;
    for (int i = 0; i < 64; i++)
        fds[i] = i;
    struct plan plan;
    struct launch_error error;
    if (plan_decode(&plan, data, size, fds, wanted, &error) == 0)
        walk(&plan);
    else if (error.errnum == 0 || strnlen(error.op, sizeof error.op) == sizeof error.op || strnlen(error.detail, sizeof error.detail) == sizeof error.detail)
        abort();
    return 0;
}
