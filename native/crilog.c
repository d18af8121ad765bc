/*
 * crilog.c: see crilog.h. A write error (disk full, say) loses lines, never blocks or ends the container: there is nobody to tell here, and the
 * container's stdout must go on being drained.
 */
#include "crilog.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define BATCH_LINES 64

struct batch {
    struct iovec iov[BATCH_LINES * 4];
    char stamp[48];
    size_t stamp_length;
    int used, fd;
};

/* Year, month, day of a day number since 1970 (proleptic Gregorian). gmtime() would pull in time zone code. */
static void civil(int64_t days, int *year, int *month, int *day) {
    days += 719468;
    int64_t era = days / 146097;
    unsigned doe = (unsigned)(days - era * 146097);
    unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    unsigned mp = (5 * doy + 2) / 153;
    *day = (int)(doy - (153 * mp + 2) / 5 + 1);
    *month = (int)(mp < 10 ? mp + 3 : mp - 9);
    *year = (int)(yoe + (unsigned)era * 400) + (*month <= 2);
}

static void stamp(struct batch *b, int stream) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int year, month, day, second = (int)(now.tv_sec % 86400);
    civil(now.tv_sec / 86400, &year, &month, &day);
    int n = snprintf(b->stamp, sizeof b->stamp, "%04d-%02d-%02dT%02d:%02d:%02d.%09ldZ %s ", year, month, day, second / 3600, second / 60 % 60,
                     second % 60, now.tv_nsec, stream == 2 ? "stderr" : "stdout");
    b->stamp_length = (size_t)n;
}

static void batch_out(struct batch *b) {
    struct iovec *iov = b->iov;
    int left = b->used;
    while (left && b->fd >= 0) {
        ssize_t n = writev(b->fd, iov, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        while (left && (size_t)n >= iov->iov_len) {
            n -= (ssize_t)iov->iov_len;
            iov++, left--;
        }
        if (left && n) {
            iov->iov_base = (char *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
        }
    }
    b->used = 0;
}

/* data must stay valid until batch_out(). */
static void line(struct batch *b, const char *tag, const char *data, size_t length) {
    if (b->used > (BATCH_LINES - 1) * 4)
        batch_out(b);
    b->iov[b->used++] = (struct iovec){b->stamp, b->stamp_length};
    b->iov[b->used++] = (struct iovec){(void *)(uintptr_t)tag, 2};
    b->iov[b->used++] = (struct iovec){(void *)(uintptr_t)data, length};
}

static void newline(struct batch *b) { b->iov[b->used++] = (struct iovec){(void *)(uintptr_t) "\n", 1}; }

/* ---- the rate ---- */

static uint64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int afford(struct crilog *log, uint64_t bytes) {
    uint64_t now = monotonic_ns(), passed = now - log->filled_ns;
    /* More than a minute fills any bucket to a minute's worth at most, and keeps the product small. */
    uint64_t more = passed > 60000000000u ? log->capacity : (uint64_t)((unsigned __int128)passed * log->rate / 1000000000u);
    if (more) {
        log->tokens = log->capacity - log->tokens < more ? log->capacity : log->tokens + more;
        log->filled_ns = now;
    }
    if (log->dry && log->tokens < log->capacity / 2)
        return 0;
    log->dry = log->tokens < bytes;
    if (log->dry)
        return 0;
    log->tokens -= bytes;
    return 1;
}

static void note_dropped(struct crilog *log, struct batch *b) {
    int n = snprintf(log->note, sizeof log->note, "orlop: %llu lines, %llu bytes dropped: more than %llu bytes a second", (unsigned long long)log->dropped_lines,
                     (unsigned long long)log->dropped_bytes, (unsigned long long)log->rate);
    line(b, "F ", log->note, (size_t)n), newline(b);
    batch_out(b);
    log->dropped_lines = log->dropped_bytes = 0;
}

/* One line, or a piece of it: the last one when full. Whoever joins pieces must not join the next line to one that lost its end. */
static void piece(struct crilog *log, struct crilog_stream *s, struct batch *b, int full, const char *data, size_t length) {
    if (log->rate && (s->dropping || !afford(log, length + b->stamp_length + 3))) {
        if (s->begun)
            line(b, "F ", data, 0), newline(b);
        log->dropped_lines += !s->dropping;
        log->dropped_bytes += length;
        s->begun = 0, s->dropping = !full;
        return;
    }
    if (log->dropped_lines && !s->begun)
        note_dropped(log, b);
    line(b, full ? "F " : "P ", data, length), newline(b);
    s->begun = !full;
}

/* ---- what stdio.c calls ---- */

void crilog_open(struct crilog *log, int fd, uint32_t line_max, uint64_t rate) {
    uint64_t capacity = rate < CRILOG_BURST_MIN ? CRILOG_BURST_MIN : rate;
    *log = (struct crilog){
        .fd = fd,
        .line_max = line_max && line_max < CRILOG_LINE_MAX ? line_max : CRILOG_LINE_MAX,
        .rate = rate,
        .capacity = capacity,
        .tokens = capacity,
        .filled_ns = rate ? monotonic_ns() : 0,
    };
}

void crilog_write(struct crilog *log, int stream, const char *data, size_t length) {
    if (log->fd < 0)
        return;
    struct crilog_stream *s = &log->streams[stream == 2];
    struct batch b = {.fd = log->fd};
    stamp(&b, stream);
    while (length) {
        const char *end = memchr(data, '\n', length);
        size_t n = end ? (size_t)(end - data) : length;
        size_t space = log->line_max - s->length;
        int cut = n > space;
        if (cut)
            n = space;
        if (s->length || (!end && !cut)) {
            if (!s->pending && !(s->pending = malloc(log->line_max))) {
                piece(log, s, &b, 0, data, n);
                data += n, length -= n;
                continue;
            }
            memcpy(s->pending + s->length, data, n);
            s->length += (uint32_t)n;
            if (cut || end) {
                piece(log, s, &b, !cut, s->pending, s->length);
                batch_out(&b);
                s->length = 0;
            }
        } else {
            piece(log, s, &b, !cut, data, n);
        }
        data += n, length -= n;
        if (!cut && end)
            data++, length--;
    }
    batch_out(&b);
    if (s->pending && !s->length) {
        free(s->pending);
        s->pending = NULL;
    }
}

void crilog_flush(struct crilog *log, int stream) {
    struct crilog_stream *s = &log->streams[stream == 2];
    if (s->length && log->fd >= 0) {
        struct batch b = {.fd = log->fd};
        stamp(&b, stream);
        piece(log, s, &b, 0, s->pending, s->length);
        batch_out(&b);
    }
    free(s->pending);
    s->pending = NULL, s->length = 0;
}

void crilog_end(struct crilog *log, int stream) {
    crilog_flush(log, stream);
    if (log->dropped_lines && log->fd >= 0) {
        struct crilog_stream *s = &log->streams[stream == 2];
        struct batch b = {.fd = log->fd};
        stamp(&b, stream);
        if (s->begun)
            line(&b, "F ", "", 0), newline(&b);
        note_dropped(log, &b);
    }
}

void crilog_reopen(struct crilog *log, int fd) {
    crilog_flush(log, 1);
    crilog_flush(log, 2);
    if (log->fd >= 0)
        close(log->fd);
    log->fd = fd;
}

void crilog_close(struct crilog *log) { crilog_reopen(log, -1); }
