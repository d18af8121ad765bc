/*
 * launch.h: from a decoded plan to a process. init.c implements it, monitor.c calls it; neither knows the other's insides.
 *
 *   monitor                       child (init.c)
 *     launch_begin()  clone3  ->    ops JOIN..IDENTITY
 *     (PARENT ops)                  gate: sends LAUNCH_READY, waits
 *     launch_pump()   <-  READY
 *     launch_open_gate()  ->        ops FINAL, execve
 *     launch_pump()   <-  EOF (close-on-exec): running;  or  LAUNCH_FAILED {op, errno, detail}
 *
 * The monitor is one epoll loop and must not block: launch_begin() returns once the child exists and the PARENT ops are done; the status socket
 * (launch.status, non-blocking, SOCK_SEQPACKET) is put into epoll and launch_pump() is called when it is readable.
 */
#ifndef ORLOP_LAUNCH_H
#define ORLOP_LAUNCH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define ORLOP_DETAIL_MAX 512

struct launch_error {
    uint32_t errnum;
    uint32_t op_index;               /* index in the plan; 0xffffffff: not an op */
    char op[32];                     /* name of the op, or "plan", "clone3" .. */
    char detail[ORLOP_DETAIL_MAX];   /* which path, which option */
};

/* A plan after validation; refers into the mapped bytes, which must outlive it. */
struct plan {
    const uint8_t *bytes;
    size_t length;
    uint32_t op_count;
    uint32_t fd_count;
    const int *fds;
    int is_pod;
};

/* Returns 0, or -1 with *error filled. Checks magic, version, bounds, UTF-8-agnostic NUL rules, phase order, known codes, fd indexes, exactly one exec at the end
 * (pod plans: none). Never reads outside [bytes, bytes+length). Fuzzed. */
int plan_decode(struct plan *plan, const uint8_t *bytes, size_t length, const int *fds, uint32_t fd_count, struct launch_error *error);

/* Runs a pod plan in the calling process. pod_init's pid is stored in *init_pid (0: none), its PID namespace fd in *pidns_fd (-1). */
int plan_run_pod(const struct plan *plan, pid_t *init_pid, int *pidns_fd, struct launch_error *error);

enum launch_state { LAUNCH_SETTING_UP, LAUNCH_AT_GATE, LAUNCH_RUNNING, LAUNCH_FAILED };

struct launch {
    pid_t pid;
    int pidfd;
    int status;                      /* our end of the status socket; -1 once done */
    enum launch_state state;
    int terminal_master;             /* from op terminal, else -1 */
    struct launch_error error;       /* when LAUNCH_FAILED; the process has been killed, its parent reaps it */
    int executing;                   /* init.c's own */
    /* Of op foreign: this process is a runtime's program, which leaves us another one. The fds are the caller's, -1: none. */
    int foreign, left_in, left_console;
    char left_file[64];
};

/* What the monitor knows and a plan may name. */
struct launch_context {
    int pod_pidns;                                         /* for join_pod_init; -1: none */
    int (*container_pidfd)(void *cookie, const char *id);  /* for join_pid_of, join_mnt_of; -1: no such live container */
    void *cookie;
    int stdin_fd, stdout_fd, stderr_fd;                    /* the container's ends of the monitor's pipes, used by op stdio when its FD field is none; -1: /dev/null */
};

/* After -1 nothing is left but left_in and left_console. After 0 the caller owns pid (to be reaped), pidfd, status, terminal_master and these two; the plan is not
 * needed any more. */
int launch_begin(struct launch *launch, const struct plan *plan, const struct launch_context *context, struct launch_error *error);
int launch_open_gate(struct launch *launch);
/* Reads what the child said; returns the new state. Plans without a gate go from SETTING_UP straight to RUNNING or FAILED. Never blocks. */
enum launch_state launch_pump(struct launch *launch);

#endif
