/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_CLIENT_H
#define SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_CLIENT_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * A process that has nothing of a device but what is sent to it: it is started
 * with no open file but its end of @sock, and with the mappings that there are
 * at this time. So unmap the BARs before.
 */
struct client {
	pid_t pid;
	int sock;
};

/* The process is @main and nothing else, its result is the exit status. */
struct client client_start(int (*main)(int sock, void *arg), void *arg);
/* The same as nobody, without any capability and any way to get one back */
struct client client_start_unprivileged(int (*main)(int sock, void *arg), void *arg);

/* Wait for the end. Returns the exit status, or the negative number of a signal. */
int client_wait(struct client *client);
/* Whether it has ended, or does so within the time */
bool client_done(struct client *client, int timeout_ms);
/*
 * Wait for the end, and not for ever. Returns what client_wait() does, and -ETIMEDOUT
 * where there is none; without an end it is still there, and ->pid is 0 otherwise.
 */
int client_finish(struct client *client);
/* Make it end. */
void client_kill(struct client *client);

void send_fd(int sock, int fd);
int recv_fd(int sock);

/* Returns when the other side has called it as well. */
void client_sync(int sock);

#endif /* SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_CLIENT_H */
