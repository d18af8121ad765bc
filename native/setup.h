/*
 * setup.h: what the ops share while they set a process up. One function an op, op_<name>(), declared from ops.def; one struct of arguments an op,
 * struct args_<name>, with the field names of ops.def. Nothing here allocates from the heap: ops run between clone and exec.
 */
#ifndef ORLOP_SETUP_H
#define ORLOP_SETUP_H

#include "launch.h"
#include "plan.h"
#include "sys.h"

struct setup {
    const struct plan *plan;
    const struct launch_context *context;
    struct launch_error *error;
    int status;          /* the child's end of the status socket; -1 in a pod plan */
    int root;            /* O_PATH of the container's root: targets are resolved in it; -1 until op rootfs */
    int proc;            /* verified procfs of the monitor's mount namespace */
    int slave;           /* of op terminal, else -1 */
    int null_mask;       /* the first file mask and the first directory mask, attached: later ones are clones of them; -1 until made */
    int empty_mask;
    int old_root_shared; /* root_propagation left the old tree able to propagate to the host */
    uint64_t root_propagation; /* of the mount at root: it is unbindable while volumes are cloned; 0 for a root that was joined */
    int umask_done;
    char **argv, **envp; /* of op exec, made before a seccomp filter could forbid to make them */
    pid_t init_pid;      /* of op pod_init */
    int init_pidns;
};

#define F(type, name) struct field name;
#define OP(code, name, phase, fields) struct args_##name { fields };
#include "ops.def"
#undef OP

/* The fields of op as struct args_<name>: plan.c decodes them in this order into an array of the same type. */
#define ARGS(name, op) const struct args_##name *a = (const struct args_##name *)(const void *)(op)->f

/* SPAWN and PARENT ops are read by launch_begin(), GATE is the loop's own: they have no function. */
#define DECLARE_POD(name) int op_##name(struct setup *, const struct op *);
#define DECLARE_SPAWN(name)
#define DECLARE_PARENT(name)
#define DECLARE_JOIN DECLARE_POD
#define DECLARE_NS DECLARE_POD
#define DECLARE_MOUNT DECLARE_POD
#define DECLARE_ROOT DECLARE_POD
#define DECLARE_IDENTITY DECLARE_POD
#define DECLARE_GATE(name)
#define DECLARE_FINAL DECLARE_POD
#define OP(code, name, phase, fields) DECLARE_##phase(name)
#include "ops.def"
#undef OP
#undef F

/* Keeps errno and the text that says which path or option; returns -1. */
int fail(struct setup *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same with an errno of our own. */
int refuse(struct setup *s, int errnum, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Runs a validated op. */
int setup_run(struct setup *s, const struct op *op);
/* Sends an fd to the monitor (op terminal). */
int setup_send_master(struct setup *s, int master);

/* Handlers to default, nothing ignored, nothing blocked. */
void reset_signals(void);
/* Closes every fd above 2 that is not in keep (sorted in place). */
void close_all_but(int *keep, unsigned count);

/* op_exec.c: before the gate; refers into the plan. */
int exec_prepare(struct setup *s, const struct op *op);

/* pod_init.c: PID 1 of a shared PID namespace. */
int pod_init_start(struct setup *s);

#endif
