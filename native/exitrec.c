#include "exitrec.h"

#include "sys.h"

#include <inttypes.h>
#include <stdio.h>

int exit_record_write(int dir, const struct exit_record *record) {
    char name[160], temporary[176], text[512];
    snprintf(name, sizeof name, "%s.exit", record->id);
    snprintf(temporary, sizeof temporary, ".%s.tmp", name);
    int n = snprintf(text, sizeof text,
                     "id=%s\npid=%u\nstart_time=%" PRIu64 "\nexit_code=%u\nsignal=%u\noom_killed=%u\noom_kills=%" PRIu64 "\nfinished_ns=%" PRIu64 "\n",
                     record->id, record->pid, record->start_time, record->exit_code, record->signal, record->oom_killed, record->oom_kills,
                     record->finished_ns);
    SCOPED_FD fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -1;
    if (write(fd, text, (size_t)n) != n || renameat(dir, temporary, dir, name)) {
        unlinkat(dir, temporary, 0);
        return -1;
    }
    return 0;
}
