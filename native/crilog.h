/* crilog.h: container output as CRI log lines: "<RFC3339Nano> <stdout|stderr> <P|F> <bytes>\n". Owns the log fd; knows no container. */
#ifndef ORLOP_CRILOG_H
#define ORLOP_CRILOG_H

#include <stddef.h>
#include <stdint.h>

#define CRILOG_LINE_MAX 16384u

struct crilog_stream {
    char *pending;      /* the begun line, allocated while there is one */
    uint32_t length;
};

struct crilog {
    int fd;             /* -1: discard */
    uint32_t line_max;
    struct crilog_stream streams[2];
};

void crilog_open(struct crilog *log, int fd, uint32_t line_max);
/* Takes what one read returned of stream 1 (stdout) or 2 (stderr). A begun line waits for its end; one of line_max bytes is written as P. */
void crilog_write(struct crilog *log, int stream, const char *data, size_t length);
/* The stream has ended: what waits is written as P, for no newline will come. */
void crilog_flush(struct crilog *log, int stream);
/* Later lines go to fd; a begun line goes to the old file, as P. */
void crilog_reopen(struct crilog *log, int fd);
void crilog_close(struct crilog *log);

#endif
