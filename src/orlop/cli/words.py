"""The words of the command line, each with its module and one line of help; nothing else is imported until a word is known."""

from __future__ import annotations

from typing import Final

WORDS: Final[dict[str, tuple[str, str]]] = {
    "run": ("run", "create and start a container"),
    "ps": ("ps", "list containers"),
    "pods": ("pods", "list pods"),
    "images": ("images", "list images"),
    "pull": ("pull", "pull an image from a registry"),
    "logs": ("logs", "show what a container has written"),
    "exec": ("exec", "run a command in a running container"),
    "attach": ("attach", "connect to a running container's own streams"),
    "port-forward": ("port_forward", "listen here for connections to ports of a pod"),
    "cp": ("cp", "copy files between a container and this machine"),
    "stop": ("stop", "stop containers: their stop signal, then SIGKILL"),
    "kill": ("kill", "send a signal to containers"),
    "wait": ("wait", "wait until containers have ended and print their exit codes"),
    "rm": ("rm", "remove containers and pods"),
    "rmi": ("rmi", "remove images"),
    "inspect": ("inspect", "show everything known of containers, pods and images"),
    "stats": ("stats", "show what containers use"),
    "top": ("top", "show the processes of a container"),
    "events": ("events", "show what happens to containers and pods, as it happens"),
    "timings": ("timings", "show where each millisecond of a pod's start went"),
    "plan": ("plan", "print what is done to the kernel to start a container"),
    "doctor": ("doctor", "say what this host can and cannot do, and why"),
    "info": ("info", "show the daemon's state"),
    "version": ("version", "show the versions of this program and of the daemon"),
}
