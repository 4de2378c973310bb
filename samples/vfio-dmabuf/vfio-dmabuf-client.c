// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hand out a page of a PCI device, and take it back: a client.
 *
 * It needs no privilege, and nothing of vfio: the fd that it gets from the owner,
 * vfio-dmabuf-owner.c, can be mapped, and that is all. What it drives is QEMU's
 * EDU, a device that computes factorials.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <err.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <linux/types.h>

#define EDU_ID			0x00
#define EDU_ID_VALUE		0x010000edu
#define EDU_FACTORIAL		0x08	/* Write n, wait, read n! */
#define EDU_STATUS		0x20
#define EDU_STATUS_COMPUTING	0x01

#define LARGEST_N		12	/* 13! needs more than 32 bits. */

static const char usage[] =
"usage: vfio-dmabuf-client [-n COUNT] SOCKET\n"
"\n"
"Maps the page of QEMU's EDU that vfio-dmabuf-owner hands out at the Unix socket\n"
"SOCKET, and has the device compute factorials: COUNT of them, or until the owner\n"
"takes the page back.\n";

static char *page;
static size_t page_size;

static sigjmp_buf page_is_gone;
static void *fault_address;

/*
 * To touch memory that was revoked raises SIGBUS. To return would try it again,
 * so go to where it is known what to do without the page.
 */
static void sigbus(int signal_number, siginfo_t *info, void *context)
{
	uintptr_t address = (uintptr_t)info->si_addr;

	/* A bug of another kind, or kill(2): try again, and die of it. */
	if (info->si_code <= 0 || address - (uintptr_t)page >= page_size) {
		signal(SIGBUS, SIG_DFL);
		return;
	}
	fault_address = info->si_addr;
	siglongjmp(page_is_gone, 1);
}

static __u32 edu_read(size_t reg)
{
	return le32toh(*(__volatile__ __u32 *)(page + reg));
}

static void edu_write(__u32 value, size_t reg)
{
	*(__volatile__ __u32 *)(page + reg) = htole32(value);
}

static void edu_wait(void)
{
	while (edu_read(EDU_STATUS) & EDU_STATUS_COMPUTING)
		usleep(100);
}

static __u32 edu_factorial(__u32 n)
{
	/* The client before may have been stopped between a write and its result. */
	edu_wait();
	edu_write(n, EDU_FACTORIAL);
	edu_wait();
	return edu_read(EDU_FACTORIAL);
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd;

	if (snprintf(address.sun_path, sizeof(address.sun_path), "%s", path) >=
	    (int)sizeof(address.sun_path))
		errx(1, "%s is too long for the path of a socket", path);

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		err(1, "socket");
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		err(1, "%s", path);
	return fd;
}

static int receive_fd(int owner)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	char byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = sizeof(byte) };
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	int fd;

	if (recvmsg(owner, &message, MSG_CMSG_CLOEXEC) < 0)
		err(1, "recvmsg");
	cmsg = CMSG_FIRSTHDR(&message);
	if (!cmsg || cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS ||
	    cmsg->cmsg_len != CMSG_LEN(sizeof(fd)))
		errx(1, "the owner has sent no fd");
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
	return fd;
}

static void *map(int dmabuf, size_t size, off_t offset)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, dmabuf, offset);
}

/* The owner has more of the device, and this client must not get at it. */
static void try_neighbour(int dmabuf)
{
	if (map(dmabuf, page_size, page_size) != MAP_FAILED)
		errx(1, "has mapped the page behind its own");
	printf("client %d: cannot map the next page: %s\n", getpid(), strerror(errno));
	if (map(dmabuf, 2 * page_size, 0) != MAP_FAILED)
		errx(1, "has mapped its page and the one behind it");
	printf("client %d: cannot map two pages: %s\n", getpid(), strerror(errno));
}

static void compute(unsigned long count)
{
	__u32 n, expected, result;
	unsigned long i;

	for (i = 0; !count || i < count; i++) {
		n = 1 + (LARGEST_N - 1 + i) % LARGEST_N;
		result = edu_factorial(n);
		for (expected = 1; n > 1; n--)
			expected *= n;
		if (result != expected)
			errx(1, "the device says %u, and not %u", result, expected);
		if (!i)
			printf("client %d: the device says %d! = %u\n", getpid(),
			       LARGEST_N, result);
	}
	printf("client %d: has got %lu factorials\n", getpid(), i);
}

int main(int argc, char *argv[])
{
	struct sigaction action = { .sa_sigaction = sigbus, .sa_flags = SA_SIGINFO };
	unsigned long count = 0;
	int option, dmabuf;
	char *end;

	if (argc == 2 && !strcmp(argv[1], "--help")) {
		fputs(usage, stdout);
		return 0;
	}
	while ((option = getopt(argc, argv, "n:")) != -1) {
		if (option == 'n')
			count = strtoul(optarg, &end, 0);
		if (option != 'n' || !count || *end) {
			fputs(usage, stderr);
			return 2;
		}
	}
	if (optind + 1 != argc) {
		fputs(usage, stderr);
		return 2;
	}
	setlinebuf(stdout);
	page_size = sysconf(_SC_PAGESIZE);

	dmabuf = receive_fd(connect_to(argv[optind]));
	page = map(dmabuf, page_size, 0);
	if (page == MAP_FAILED)
		err(1, "mmap");
	if (sigaction(SIGBUS, &action, NULL))
		err(1, "sigaction");

	if (sigsetjmp(page_is_gone, 1)) {
		printf("client %d: SIGBUS at %p, register 0x%02lx\n", getpid(), fault_address,
		       (unsigned long)((uintptr_t)fault_address - (uintptr_t)page));
		/* While the owner resets the device, this does not fail. */
		if (map(dmabuf, page_size, 0) == MAP_FAILED && errno == ENODEV)
			printf("client %d: the page is gone for good\n", getpid());
		return 0;
	}

	if (edu_read(EDU_ID) != EDU_ID_VALUE)
		errx(1, "this is no EDU: register 0x00 reads 0x%08x", edu_read(EDU_ID));
	printf("client %d: has the registers of an EDU at %p, as user %u\n", getpid(), page,
	       getuid());
	try_neighbour(dmabuf);
	compute(count);
	return 0;
}
