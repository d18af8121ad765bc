/*
 * monitor.h: what the files of the monitor share: one epoll loop, its sources, the table of containers.
 *
 *   monitor.c   start, loop, deadlines       control.c  connections and requests      container.c  a container's life, from launch to exit record
 *   stdio.c     pipes, pty, stdin            attach.c   clients of a container         oom.c        the kernel's word about memory
 *   backlog.c   output for clients that are behind                                      foreign.c  containers that a program of another runtime makes
 *   (know nothing of this header: message.c crilog.c exitrec.c killtree.c, and the executor behind launch.h)
 *
 * What is freed while events of the same epoll batch may still point at it goes to a graveyard and is freed after the batch: a source with
 * fd -1 is dead, and its events are skipped.
 */
#ifndef ORLOP_MONITOR_H
#define ORLOP_MONITOR_H

#include "crilog.h"
#include "launch.h"
#include "message.h"
#include "sys.h"

#define FD_POD_DIR 3
#define FD_LISTENER 4
#define FD_DAEMON 5
#define ID_MAX 80
#define KEPT_MAX 16
#define STRAYS 256
#define CHUNK (64u << 10)
#define BACKLOG_MAX (64u << 20) /* base/limits.py: ATTACH_BACKLOG_BYTES */

enum { CREATE_TTY = 1, CREATE_STDIN = 2, CREATE_STDIN_ONCE = 4, CREATE_V2 = 8, CREATE_KILL_BY_CGROUP = 16 };
enum { EXEC_TTY = 1, EXEC_KILL_ON_DISCONNECT = 2, EXEC_V2 = 8, EXEC_STARTS = 16, EXEC_HOLD = 32 };
enum { ATTACH_STDIN = 1, ATTACH_STDOUT = 2, ATTACH_STDERR = 4 };
enum { STREAM_STDOUT = 1, STREAM_STDERR = 2, STREAM_CUT_OFF = 3 };

/* What an epoll event points at. */
enum source_kind { SOURCE_LISTENER, SOURCE_CONNECTION, SOURCE_SIGNAL, SOURCE_STATUS, SOURCE_STDOUT, SOURCE_STDERR, SOURCE_STDIN, SOURCE_OOM, SOURCE_ATTACH };
struct source {
    enum source_kind kind;
    int fd;
    void *owner;
};

struct connection {
    struct source source;
    struct connection *next;
    int doomed;
};

struct attach {
    struct source source;
    struct attach *next;
    struct container *container; /* NULL: it has ended, and this client still has output to come */
    uint32_t flags;
    int stdin_done, muted, late, cut; /* late: what is written just now did not fit; cut: it is to be told so, and that is all */
    struct block *block;              /* what it has not taken yet begins here (backlog.c); NULL: it is not behind */
    uint32_t block_at;
    char *waiting; /* stdin that the container has not taken yet; while there is some the client is not read */
    size_t waiting_length, waiting_at;
};

enum state { CREATING, CREATED, STARTING, RUNNING, EXITED };
extern const char *const state_names[];

/* A container's init, or an exec. */
struct container {
    struct container *next;
    char id[ID_MAX];
    enum state state;
    int is_exec, tty, v2, kill_by_cgroup, stdin_once, kill_on_disconnect, timed_out, tree_killed;
    int reaped;                    /* its process is, but its execs are not yet: its end is told when they are, or at end_ns */
    int wait_status, removing;
    pid_t pid;
    uint64_t start_time, finished_ns;
    uint64_t deadline_ns, end_ns;  /* CLOCK_MONOTONIC, 0: none */
    uint64_t oom_base, oom_kills, oom_look_ns;
    int oom_looks;
    uint32_t exit_code, signal;
    int cgroup, oom;               /* directories, -1: none */
    struct launch launch;
    struct source status, out, err, in, oom_event;
    struct crilog log;
    struct attach *attached;
    struct block *tail;            /* of the output that some of them have not taken yet */
    struct connection *asker;      /* who waits for the outcome of create, start, exec or remove */
    uint32_t asker_seq;
    struct connection *runner;     /* exec: whose end it shares */
    int words_to, words;           /* exec: what its caller's client is told if the caller dies, and where; -1: none */
    int holds, held[2];            /* exec: reading ends of its outputs, so that they do not break when its caller dies; -1: none */
    struct container *of;          /* exec: in which container */
    int adopted;                   /* a foreign launch: pid is the process that the program left, and no longer the program */
    struct container *starts;      /* exec of a program: the container that runs once it has ended with 0 */
};

struct pod {
    int epoll, pidns, init_pidfd;
    pid_t init;
    uint64_t unshared;
    int is_made, ending;
    char oom_score[16];            /* what oom_score_adj was before we lowered ours; empty: we did not */
    struct source listener, signals;
    struct connection *connections;
    struct container *containers, *graveyard;
    struct attach *leaving, *attach_graveyard; /* leaving: clients of containers that have ended */
    size_t backlog;                /* bytes that are kept for clients which are behind */
    struct stray {
        pid_t pid;
        int status;
    } strays[STRAYS]; /* the last that were reaped while foreign launches are under way: one may be what a program left, and ended before the program did */
    uint32_t stray_count;
    struct {
        char name[32];
        int fd;
    } kept[KEPT_MAX];
};
extern struct pod pod;
extern struct builder reply;
extern char chunk[CHUNK]; /* what one read returned; nobody keeps it over a call */

/* monitor.c */
uint64_t now_ns(clockid_t clock);
void watch(struct source *source, enum source_kind kind, int fd, void *owner, uint32_t events);
void rewatch(const struct source *source, uint32_t events);
void mute(const struct source *source); /* out of epoll, still open: even a hang-up is not told */
void unmute(struct source *source, uint32_t events);
void unwatch(struct source *source); /* out of epoll, and closed */

/* control.c */
void listener_readable(void);
void add_connection(int fd);
void connection_readable(struct connection *c);
void disconnect(struct connection *c);
void send_built(struct connection *c);
void answer_ok(struct connection *c, uint32_t seq);
void answer_error(struct connection *c, uint32_t seq, int errnum, const char *op, uint32_t index, const char *detail);
void announce_exit(const struct container *k, int oom_killed);
void announce_oom(const struct container *k);

/* container.c */
struct container *find(const char *id);
struct container *new_container(const struct field *id);
void release(struct container *k);
void kill_all(struct container *k, int signal);
int live_pidfd(void *cookie, const char *id);
uint64_t start_time_of(pid_t pid);
void launch_done(struct container *k);
void never_ran(struct container *k);
void ended(struct container *k, int status);
void pump_launch(struct container *k);
void reap(void);
void tell_end(struct container *k);
int lives(void);

/* foreign.c */
void note_stray(pid_t pid, int status);
int program_ended(struct container *k, int status);
void started_by(struct container *helper, int status);

/* stdio.c */
int make_pipes(struct container *k, uint32_t flags, int theirs[3]);
void adopt_terminal(struct container *k);
void pump_output(struct container *k, struct source *source, int stream, int rounds);
void hold_outputs(struct container *k, const int stdio[3]);
void drain_held(struct container *k);
void hang_up(struct container *k);
void forget_words(struct container *k);
void say_last_words(struct container *k);
int input_fd(const struct container *k);
void close_input(struct container *k);
void input_writable(struct container *k);
void close_stdio(struct container *k);

/* attach.c */
int add_attach(struct container *k, uint32_t flags);
void attach_ready(struct attach *a, uint32_t events);
void fan_out(struct container *k, int stream, const char *data, size_t length);
void push_input(struct attach *a);
void part_attach(struct attach *a);
void cut_attach(struct attach *a);

/* backlog.c */
int backlog_keep(struct container *k, const char *head, size_t head_length, const char *data, size_t length);
void backlog_join(struct attach *a, size_t size); /* from the record of this size on that was kept last */
const char *backlog_next(struct attach *a, uint32_t *size); /* NULL: it has caught up */
void backlog_pass(struct attach *a, uint32_t size);
void backlog_leave(struct attach *a);
void backlog_end(struct container *k); /* its clients keep what they need */

/* oom.c */
void watch_oom(struct container *k);
void oom_readable(struct container *k);
void look_for_oom(struct container *k);

#endif
