/*
 * crilog.h: container output as CRI log lines: "<RFC3339Nano> <stdout|stderr> <P|F> <bytes>\n". Owns the log fd; knows no container.
 * With a rate, what comes faster is dropped by whole lines, counted, and told in a line of its own: the container never waits for its log.
 */
#ifndef ORLOP_CRILOG_H
#define ORLOP_CRILOG_H

#include <stddef.h>
#include <stdint.h>

#define CRILOG_LINE_MAX 16384u
#define CRILOG_BURST_MIN 65536u /* so that a long line can pass however low the rate is */

struct crilog_stream {
    char *pending;      /* the begun line, allocated while there is one */
    uint32_t length;
    unsigned begun : 1;     /* a part of the line is in the log as P */
    unsigned dropping : 1;  /* the rest of the line is dropped */
};

struct crilog {
    int fd;             /* -1: discard */
    uint32_t line_max;
    uint64_t rate, capacity, tokens; /* bytes a second of the file, 0: no limit; a bucket that fills with time */
    uint64_t filled_ns;              /* CLOCK_MONOTONIC */
    int dry;                         /* over the rate, until the bucket is half full: a note a line would be as bad */
    uint64_t dropped_lines, dropped_bytes; /* since the last note */
    char note[128];
    struct crilog_stream streams[2];
};

void crilog_open(struct crilog *log, int fd, uint32_t line_max, uint64_t rate);
/* Takes what one read returned of stream 1 (stdout) or 2 (stderr). A begun line waits for its end; one of line_max bytes is written as P. */
void crilog_write(struct crilog *log, int stream, const char *data, size_t length);
/* What waits is written as P. */
void crilog_flush(struct crilog *log, int stream);
/* The stream has ended: no newline will come for what waits, and what was dropped is told. */
void crilog_end(struct crilog *log, int stream);
/* Later lines go to fd; a begun line goes to the old file, as P. */
void crilog_reopen(struct crilog *log, int fd);
void crilog_close(struct crilog *log);

#endif
