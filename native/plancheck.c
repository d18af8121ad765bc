/* plancheck: test program. Decodes the plan on stdin with as many fds as its header names; prints one op name a line, or the refusal (exit 1). */
#include "plan.h"

#include <stdio.h>
#include <stdlib.h>

int main(void) {
    uint8_t *bytes = malloc(ORLOP_PLAN_BYTES_MAX + 1);
    int fds[256];
    if (!bytes)
        return 2;
    size_t length = fread(bytes, 1, ORLOP_PLAN_BYTES_MAX + 1, stdin);
    uint32_t wanted = length >= 20 ? (uint32_t)bytes[16] | (uint32_t)bytes[17] << 8 : 0;
    for (int i = 0; i < 256; i++)
        fds[i] = i;
    struct plan plan;
    struct launch_error error = {0};
    if (plan_decode(&plan, bytes, length, fds, wanted > 256 ? 256 : wanted, &error)) {
        printf("%s %u %s\n", error.op, error.op_index, error.detail);
        free(bytes);
        return 1;
    }
    struct plan_cursor cursor;
    struct op op;
    for (plan_rewind(&plan, &cursor); plan_next(&cursor, &op);)
        printf("%s\n", op.kind->name);
    free(bytes);
    return 0;
}
