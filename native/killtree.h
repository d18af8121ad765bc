/* killtree.h: SIGKILL to every process of a cgroup, so that none escapes by forking. */
#ifndef ORLOP_KILLTREE_H
#define ORLOP_KILLTREE_H

#include <stdint.h>
#include <sys/types.h>

/*
 * v2: cgroup.kill. v1 (dir in the freezer hierarchy): freeze, kill all, thaw. Children cgroups are included. 0, or -1 with errno.
 * killed: our child that has been sent SIGKILL already, or 0; where there is no other, nothing is frozen. What it forked just before is met by a second
 * call after its end.
 */
int kill_tree(int cgroup_dir, int v2, pid_t killed);
/* Sends a signal to each process of the cgroup once; no promise about forks. */
int signal_tree(int cgroup_dir, int signal);
/* v1: what is frozen goes on, so that a SIGKILL takes effect. v2 needs no help. */
void thaw_tree(int cgroup_dir, int v2);
/* How often the kernel has killed a process of the cgroup for memory: oom_kill of memory.events (v2) or memory.oom_control (v1); 0 when unreadable. */
uint64_t oom_kill_count(int memory_dir, int v2);

#endif
