// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/limits.h>

#include <libvfio.h>

#define NOBODY 65534

/* A machine may be slow. Nothing that is waited for here takes long. */
#define PATIENCE_MS 20000

static void close_all_but(int fd)
{
	if (fd > STDERR_FILENO + 1)
		VFIO_ASSERT_EQ(syscall(SYS_close_range, STDERR_FILENO + 1, fd - 1, 0), 0);
	VFIO_ASSERT_EQ(syscall(SYS_close_range, fd + 1, ~0U, 0), 0);
}

static void drop_privileges(void)
{
	VFIO_ASSERT_EQ(setgroups(0, NULL), 0);
	VFIO_ASSERT_EQ(setresgid(NOBODY, NOBODY, NOBODY), 0);
	/* From root to another user, so all capabilities go, too. */
	VFIO_ASSERT_EQ(setresuid(NOBODY, NOBODY, NOBODY), 0);
	VFIO_ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
}

static struct client __client_start(int (*main)(int sock, void *arg), void *arg,
				    bool unprivileged)
{
	struct client client;
	int socks[2];

	VFIO_ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks), 0);

	/* What is in a buffer now must not be printed twice. */
	fflush(NULL);
	client.pid = fork();
	VFIO_ASSERT_GE(client.pid, 0);

	if (!client.pid) {
		int ret;

		/* Also if the test times out, or does not get to client_wait() */
		VFIO_ASSERT_EQ(prctl(PR_SET_PDEATHSIG, SIGKILL), 0);
		close_all_but(socks[1]);
		if (unprivileged)
			drop_privileges();
		ret = main(socks[1], arg);
		fflush(NULL);
		_exit(ret);
	}

	VFIO_ASSERT_EQ(close(socks[1]), 0);
	client.sock = socks[0];
	return client;
}

struct client client_start(int (*main)(int sock, void *arg), void *arg)
{
	return __client_start(main, arg, false);
}

struct client client_start_unprivileged(int (*main)(int sock, void *arg), void *arg)
{
	return __client_start(main, arg, true);
}

int client_wait(struct client *client)
{
	int status;

	VFIO_ASSERT_EQ(waitpid(client->pid, &status, 0), client->pid);
	VFIO_ASSERT_EQ(close(client->sock), 0);

	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

bool client_done(struct client *client, int timeout_ms)
{
	/* No events: POLLHUP needs no asking, and what the client has sent must not count. */
	struct pollfd pollfd = {
		.fd = client->sock,
	};

	/* The client's end of the socket is open as long as the client runs. */
	return poll(&pollfd, 1, timeout_ms) == 1;
}

int client_finish(struct client *client)
{
	int ret;

	if (!client_done(client, PATIENCE_MS))
		return -ETIMEDOUT;
	ret = client_wait(client);
	client->pid = 0;
	return ret;
}

void client_kill(struct client *client)
{
	VFIO_ASSERT_EQ(kill(client->pid, SIGKILL), 0);
	client_wait(client);
}

void send_fd(int sock, int fd)
{
	char control[CMSG_SPACE(sizeof(fd))] = {};
	struct iovec iov = {
		.iov_base = "f",
		.iov_len = 1,
	};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));

	VFIO_ASSERT_EQ(sendmsg(sock, &msg, MSG_NOSIGNAL), 1);
}

int recv_fd(int sock)
{
	char control[CMSG_SPACE(sizeof(int))] = {}, data;
	struct iovec iov = {
		.iov_base = &data,
		.iov_len = 1,
	};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	int fd;

	VFIO_ASSERT_EQ(recvmsg(sock, &msg, MSG_CMSG_CLOEXEC), 1, "The other side is gone\n");
	cmsg = CMSG_FIRSTHDR(&msg);
	VFIO_ASSERT_NOT_NULL(cmsg);
	VFIO_ASSERT_EQ(cmsg->cmsg_type, SCM_RIGHTS);
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));

	return fd;
}

void client_sync(int sock)
{
	char data = 'm';

	VFIO_ASSERT_EQ(send(sock, &data, 1, MSG_NOSIGNAL), 1, "The other side is gone\n");
	VFIO_ASSERT_EQ(recv(sock, &data, 1, 0), 1, "The other side is gone\n");
	VFIO_ASSERT_EQ(data, 'm');
}
