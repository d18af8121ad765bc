/*
 * fuzz_crilog.c: libFuzzer on the writer of CRI log lines. The input is cut into reads of two streams; what a reader puts together from the log must be what
 * went in, stream by stream, in lines of the exact form and no longer than allowed.
 *
 *   make -C native fuzz && build/native/fuzz/fuzz_crilog -max_total_time=60
 */
#include "crilog.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#define STAMP 30 /* 2024-01-02T03:04:05.123456789Z */

static char in[2][1 << 16], out[2][1 << 16], file[1 << 22];
static size_t in_length[2], out_length[2];

static void check(size_t length, size_t line_max) {
    for (const char *at = file, *end; at < file + length; at = end + 1) {
        if (at[STAMP - 1] != 'Z' || at[STAMP] != ' ' || at[10] != 'T')
            abort();
        int stream = memcmp(at + STAMP + 1, "stderr ", 7) == 0;
        if (!stream && memcmp(at + STAMP + 1, "stdout ", 7))
            abort();
        char tag = at[STAMP + 8];
        const char *text = at + STAMP + 10;
        end = memchr(text, '\n', (size_t)(file + length - text));
        if (!end || (tag != 'F' && tag != 'P') || text[-1] != ' ' || (size_t)(end - text) > line_max)
            abort();
        memcpy(out[stream] + out_length[stream], text, (size_t)(end - text));
        out_length[stream] += (size_t)(end - text);
        if (tag == 'F')
            out[stream][out_length[stream]++] = '\n';
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct crilog log;
    if (size < 2 || size > sizeof in[0] / 2)
        return 0;
    uint32_t line_max = (uint32_t)data[0] | (uint32_t)data[1] << 8;
    size_t allowed = line_max && line_max < CRILOG_LINE_MAX ? line_max : CRILOG_LINE_MAX;
    data += 2, size -= 2;
    in_length[0] = in_length[1] = out_length[0] = out_length[1] = 0;
    int fd = memfd_create("log", 0);
    crilog_open(&log, dup(fd), line_max, 0);
    while (size > 2) { /* each read: a byte that says stream and what follows, a byte of length */
        int stream = data[0] & 1, what = data[0] >> 1 & 7;
        size_t n = data[1];
        data += 2, size -= 2;
        if (n > size)
            n = size;
        if (what == 7) {
            crilog_reopen(&log, dup(fd));
        } else {
            crilog_write(&log, stream + 1, (const char *)data, n);
            memcpy(in[stream] + in_length[stream], data, n);
            in_length[stream] += n;
            data += n, size -= n;
        }
    }
    crilog_close(&log);
    ssize_t length = pread(fd, file, sizeof file, 0);
    close(fd);
    check((size_t)length, allowed);
    for (int i = 0; i < 2; i++)
        if (in_length[i] != out_length[i] || memcmp(in[i], out[i], in_length[i]))
            abort();
    return 0;
}
