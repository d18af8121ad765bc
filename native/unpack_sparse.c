/* unpack_sparse.c: files with holes, in the four ways that GNU tar has written them: old GNU headers, PAX 0.0, 0.1 and 1.0. */
#include "unpack_core.h"

int add_segment(struct unpack *u, int64_t offset, int64_t length) {
    if (offset < 0 || length < 0)
        return fail(u, UNPACK_MALFORMED, 0, "sparse map has a negative number");
    if (u->segment_count == SPARSE_SEGMENTS_MAX)
        return fail(u, UNPACK_LIMIT, 0, "sparse map has more than %u segments", SPARSE_SEGMENTS_MAX);
    if (u->segment_count == u->segment_room) {
        size_t room = u->segment_room ? u->segment_room * 2 : 64;
        struct segment *grown = realloc(u->segments, room * sizeof *grown);
        if (!grown)
            return out_of_memory(u);
        u->segments = grown;
        u->segment_room = room;
    }
    u->segments[u->segment_count++] = (struct segment){.offset = (uint64_t)offset, .length = (uint64_t)length};
    return 0;
}

/* Segments must rise, lie inside the file and take exactly the data that follows. */
static int check_segments(struct unpack *u, uint64_t data) {
    uint64_t end = 0, sum = 0;
    if (u->real_size > u->limits.stream_bytes)
        return fail(u, UNPACK_LIMIT, 0, "sparse file is larger than %llu bytes",
                    (unsigned long long)u->limits.stream_bytes);
    for (size_t i = 0; i < u->segment_count; i++) {
        const struct segment *s = &u->segments[i];
        if (s->offset < end || s->length > u->real_size || s->offset > u->real_size - s->length)
            return fail(u, UNPACK_MALFORMED, 0, "sparse map overlaps itself or leaves the file");
        end = s->offset + s->length;
        sum += s->length;
    }
    if (sum != data)
        return fail(u, UNPACK_MALFORMED, 0, "sparse map does not fit its data");
    return 0;
}

int start_sparse_data(struct unpack *u, uint64_t data) {
    if (check_segments(u, data) != 0)
        return -1;
    u->segment_at = 0;
    u->segment_done = 0;
    u->left = data;
    u->state = DATA;
    return begin_file(u);
}

int write_all(struct unpack *u, const unsigned char *data, size_t length, int64_t offset) {
    while (length > 0) {
        ssize_t written = offset < 0 ? write(u->fd, data, length) : pwrite(u->fd, data, length, offset);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            return fail_system(u, "write");
        }
        data += written;
        length -= (size_t)written;
        if (offset >= 0)
            offset += written;
    }
    return 0;
}

int write_sparse(struct unpack *u, const unsigned char *data, size_t length) {
    while (length > 0) {
        while (u->segment_done == u->segments[u->segment_at].length) {
            u->segment_at++;
            u->segment_done = 0;
        }
        const struct segment *s = &u->segments[u->segment_at];
        uint64_t part = s->length - u->segment_done;
        if (part > length)
            part = length;
        if (write_all(u, data, (size_t)part, (int64_t)(s->offset + u->segment_done)) != 0)
            return -1;
        u->segment_done += part;
        data += part;
        length -= (size_t)part;
    }
    return 0;
}

int read_old_sparse(struct unpack *u, const unsigned char *at, size_t count, bool *full) {
    *full = true;
    for (size_t i = 0; i < count; i++, at += 24) {
        int64_t offset, length;
        if (at[0] == 0 || at[12] == 0) {
            *full = false;
            return 0;
        }
        if (read_number(at, 12, &offset) != 0 || read_number(at + 12, 12, &length) != 0)
            return fail(u, UNPACK_MALFORMED, 0, "sparse map has a bad number");
        if (add_segment(u, offset, length) != 0)
            return -1;
    }
    return 0;
}

int read_sparse_extension(struct unpack *u, const unsigned char *block) {
    bool full;
    if (read_old_sparse(u, block, 21, &full) != 0)
        return -1;
    if (block[504]) {
        if (count_entry(u) != 0)
            return -1;
        return full ? 0 : fail(u, UNPACK_MALFORMED, 0, "sparse map goes on after its end");
    }
    if (start_sparse_data(u, u->size) != 0)
        return -1;
    return u->left == 0 ? finish_entry(u) : 0;
}

/* One block of a PAX 1.0 map: decimal numbers, a line each; the first is how many pairs follow. */
int read_sparse_map(struct unpack *u, const unsigned char *block) {
    if (u->left < BLOCK)
        return fail(u, UNPACK_MALFORMED, 0, "sparse map is cut off");
    u->left -= BLOCK;
    for (size_t i = 0; i < BLOCK; i++) {
        if (u->map_count_known && u->map_read == u->map_expected * 2)
            break;
        if (block[i] >= '0' && block[i] <= '9') {
            if (u->map_number > (uint64_t)INT64_MAX / 10 - 9)
                return fail(u, UNPACK_MALFORMED, 0, "sparse map has too large a number");
            u->map_number = u->map_number * 10 + (uint64_t)(block[i] - '0');
            u->map_has_digit = true;
            continue;
        }
        if (block[i] != '\n' || !u->map_has_digit)
            return fail(u, UNPACK_MALFORMED, 0, "sparse map is not a list of numbers");
        if (!u->map_count_known) {
            if (u->map_number > SPARSE_SEGMENTS_MAX)
                return fail(u, UNPACK_LIMIT, 0, "sparse map has more than %u segments", SPARSE_SEGMENTS_MAX);
            u->map_count_known = true;
            u->map_expected = u->map_number;
        } else if (u->map_read++ % 2 == 0) {
            if (add_segment(u, (int64_t)u->map_number, 0) != 0)
                return -1;
        } else {
            u->segments[u->segment_count - 1].length = u->map_number;
        }
        u->map_number = 0;
        u->map_has_digit = false;
    }
    if (!u->map_count_known || u->map_read < u->map_expected * 2)
        return 0;
    u->size = u->left;
    if (start_sparse_data(u, u->left) != 0)
        return -1;
    return u->left == 0 ? finish_entry(u) : 0;
}
