/* exitrec.h: the exit record of a container (docs/native-protocol.md): written before anybody is told, renamed into place. */
#ifndef ORLOP_EXITREC_H
#define ORLOP_EXITREC_H

#include <stdint.h>

struct exit_record {
    const char *id;
    uint32_t pid, exit_code, signal, oom_killed;
    uint64_t start_time, oom_kills, finished_ns;
};

/* 0, or -1 with errno. No fsync: the state directory dies with the boot. */
int exit_record_write(int dir, const struct exit_record *record);

#endif
