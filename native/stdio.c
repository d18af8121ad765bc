/* stdio.c: a container's pipes or pty: output to log and clients as it comes, stdin from clients. Output is always read, whoever listens. */
#include "monitor.h"

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define READ_BYTES 16384
#define LAST_WORDS_BYTES 8192

static int pipe_for(int *ours, int *theirs, int we_read) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return -1;
    *ours = ends[!we_read], *theirs = ends[we_read];
    return fcntl(*ours, F_SETFL, O_NONBLOCK);
}

/* The container's ends go to theirs, -1 for what it has not; they are the caller's to close, also after -1. A terminal comes later, from op terminal. */
int make_pipes(struct container *k, uint32_t flags, int theirs[3]) {
    int ours[3] = {-1, -1, -1}, failed = 0;
    if (flags & CREATE_TTY)
        return 0;
    failed |= pipe_for(&ours[1], &theirs[1], 1) | pipe_for(&ours[2], &theirs[2], 1);
    if (flags & CREATE_STDIN)
        failed |= pipe_for(&ours[0], &theirs[0], 0);
    watch(&k->out, SOURCE_STDOUT, ours[1], k, EPOLLIN);
    watch(&k->err, SOURCE_STDERR, ours[2], k, EPOLLIN);
    watch(&k->in, SOURCE_STDIN, ours[0], k, 0);
    return failed;
}

void adopt_terminal(struct container *k) {
    fcntl(k->launch.terminal_master, F_SETFL, O_NONBLOCK);
    watch(&k->out, SOURCE_STDOUT, fcntl(k->launch.terminal_master, F_DUPFD_CLOEXEC, FD_DAEMON + 1), k, EPOLLIN);
}

/* ---- an exec's streams are its caller's; a caller that dies must not break them ---- */

static int reading_end(int pipe) {
    char path[32];
    struct stat st;
    if (pipe < 0 || fstat(pipe, &st) || !S_ISFIFO(st.st_mode))
        return -1;
    snprintf(path, sizeof path, "/proc/self/fd/%d", pipe);
    return open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
}

void hold_outputs(struct container *k, const int stdio[3]) {
    k->holds = 1;
    k->held[0] = reading_end(stdio[1]), k->held[1] = reading_end(stdio[2]);
}

/* The caller has died: what is written from now on goes nowhere, but it can be written. */
void drain_held(struct container *k) {
    if (!k->holds || k->out.fd >= 0 || k->err.fd >= 0)
        return;
    if (k->launch.terminal_master >= 0)
        adopt_terminal(k);
    else
        watch(&k->out, SOURCE_STDOUT, k->held[0], k, EPOLLIN);
    watch(&k->err, SOURCE_STDERR, k->held[1], k, EPOLLIN);
    k->held[0] = k->held[1] = -1;
}

void forget_words(struct container *k) {
    close_fd(&k->words_to), close_fd(&k->words);
    k->words_to = k->words = -1;
}

/* The caller can't any more: its client would only see a connection that ends. */
void say_last_words(struct container *k) {
    if (k->words_to < 0)
        return;
    ssize_t n = pread(k->words, chunk, LAST_WORDS_BYTES, 0);
    if (n > 0)
        (void)send(k->words_to, chunk, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL); /* who has no room for it does not hear it */
    shutdown(k->words_to, SHUT_RDWR);
    forget_words(k);
}

void hang_up(struct container *k) {
    forget_words(k);
    for (int i = 0; i < 2; i++) {
        close_fd(&k->held[i]);
        k->held[i] = -1;
    }
    unwatch(&k->out), unwatch(&k->err);
    close_fd(&k->launch.terminal_master);
    k->launch.terminal_master = -1;
}

/* Reads what is there, at most `rounds` times; closes the stream at its end. */
void pump_output(struct container *k, struct source *source, int stream, int rounds) {
    while (source->fd >= 0 && rounds--) {
        ssize_t n = read(source->fd, chunk, READ_BYTES);
        if (n > 0) {
            crilog_write(&k->log, stream, chunk, (size_t)n);
            fan_out(k, stream, chunk, (size_t)n);
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else if (n < 0 && errno == EAGAIN) {
            return;
        } else { /* end of file; EIO: the last slave of a pty was closed */
            unwatch(source);
            crilog_end(&k->log, stream);
        }
    }
}

int input_fd(const struct container *k) { return k->tty ? k->out.fd : k->in.fd; }

/* A terminal has no end of input of its own: its stdin stays open as long as it does. */
void close_input(struct container *k) {
    unwatch(&k->in);
    input_writable(k); /* what waits can go nowhere: its clients are read again */
}

void input_writable(struct container *k) {
    if (k->tty)
        rewatch(&k->out, EPOLLIN);
    else
        rewatch(&k->in, 0);
    for (struct attach *a = k->attached; a; a = a->next)
        if (a->waiting)
            push_input(a);
}

void close_stdio(struct container *k) {
    unwatch(&k->out), unwatch(&k->err), unwatch(&k->in);
    while (k->attached)
        part_attach(k->attached);
    backlog_end(k);
}
