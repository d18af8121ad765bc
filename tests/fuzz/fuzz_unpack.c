/*
 * fuzz_unpack.c: libFuzzer feeds the unpacker with archives; the first byte chooses the size of the pieces.
 *
 * A mutated block nearly never has the right checksum, so it is set right in every block that looks like a header.
 * Everything is written below one directory of the run's own in TMPDIR (a tmpfs is best), emptied after each input; an input that writes
 * outside would show as a change of the sentinel beside it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "unpack.h"

static int base_fd = -1;

static void remove_base(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", base_fd);
    char target[4096];
    ssize_t length = readlink(path, target, sizeof target - 1);
    unpack_remove_tree(base_fd, "root");
    unlinkat(base_fd, "victim", 0);
    if (length > 0) {
        target[length] = 0;
        rmdir(target);
    }
}

static void set_up(void) {
    char template[4096];
    snprintf(template, sizeof template, "%s/orlop-fuzz-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!mkdtemp(template) || (base_fd = open(template, O_RDONLY | O_DIRECTORY)) < 0)
        abort();
    int victim = openat(base_fd, "victim", O_CREAT | O_WRONLY, 0600);
    if (victim < 0 || write(victim, "untouched", 9) != 9)
        abort();
    close(victim);
    atexit(remove_base);
}

static void fix_checksums(unsigned char *data, size_t size) {
    for (size_t at = 0; at + 512 <= size; at += 512) {
        unsigned char *block = data + at;
        if (memcmp(block + 257, "ustar", 5) != 0)
            continue;
        unsigned sum = 0;
        memset(block + 148, ' ', 8);
        for (size_t i = 0; i < 512; i++)
            sum += block[i];
        char text[9];
        snprintf(text, sizeof text, "%06o", sum & 0777777);
        memcpy(block + 148, text, 7);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct unpack_limits limits = {16 << 20, 300, 4096, 64 << 10, 4096};
    if (base_fd < 0)
        set_up();
    if (size < 1)
        return 0;
    size_t piece = data[0] ? (size_t)data[0] * 7 : size;
    unsigned char *copy = malloc(size);
    memcpy(copy, data + 1, size - 1);
    size -= 1;
    fix_checksums(copy, size);
    if (mkdirat(base_fd, "root", 0700) != 0 && errno != EEXIST)
        abort();
    int root = openat(base_fd, "root", O_RDONLY | O_DIRECTORY);
    struct unpack *u = unpack_new(root, &limits);
    int result = 0;
    for (size_t at = 0; at < size && result == 0; at += piece)
        result = unpack_feed(u, copy + at, at + piece > size ? size - at : piece);
    if (result == 0)
        result = unpack_finish(u);
    if (result != 0 && (unpack_last_error(u)->kind == UNPACK_OK || !unpack_last_error(u)->reason[0]))
        abort(); /* an error must say what it is */
    size_t cursor = 0;
    const char *path;
    while ((path = unpack_implicit(u, &cursor)))
        if (path[0] == '/' || path[0] == 0)
            abort();
    unpack_free(u);
    close(root);
    if (unpack_remove_tree(base_fd, "root") != 0)
        abort();
    struct stat st;
    if (fstatat(base_fd, "victim", &st, AT_SYMLINK_NOFOLLOW) != 0 || st.st_size != 9 || st.st_nlink != 1)
        abort(); /* the archive reached outside */
    free(copy);
    return 0;
}
