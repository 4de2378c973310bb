// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hand out a piece of a PCI device, and take it back: a client.
 *
 * It needs no privilege, and nothing of vfio: the fd that it gets from the owner,
 * vfio-dmabuf-owner.c, can be mapped, and that is all. The memory behind it comes
 * and goes as the owner likes. What is done here with a mapping, do_work(), goes on
 * after the memory was away for a while, and ends well when it is gone for good.
 *
 * Reads and writes words of any device, or drives QEMU's EDU, a device that computes
 * factorials.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
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

#define POLL_US			100000

static const char usage[] =
"usage: vfio-dmabuf-client [--edu] [--count N] [--read OFFSET] [--write OFFSET=VALUE]\n"
"                          SOCKET\n"
"\n"
"Maps the piece of a PCI device that vfio-dmabuf-owner hands out at the Unix socket\n"
"SOCKET, and touches nothing of it unless asked for, as that may have side effects:\n"
"\n"
"  --write OFFSET=VALUE  write a 32-bit word, before all else\n"
"  --read OFFSET         read a 32-bit word every 100 ms, and say when it changes\n"
"  --edu                 the device is QEMU's EDU: have it compute factorials\n"
"  --count N             end after N reads or factorials, and not only when the owner\n"
"                        has taken the memory back for good\n"
"\n"
"OFFSET is in bytes from the start of the piece.\n";

static char *memory;
static size_t memory_size;

/* Of the thread that accesses the memory, which is the one that gets the signal */
static __thread sigjmp_buf recovery;
static __thread __volatile__ sig_atomic_t recoverable;
static __thread void *fault_address;

/*
 * To touch memory that cannot be reached raises SIGBUS. To return would try it again,
 * so go to where it is known what to do without the memory.
 */
static void sigbus(int signal_number, siginfo_t *info, void *context)
{
	uintptr_t address = (uintptr_t)info->si_addr;

	/* A bug of another kind, or kill(2): die of it. */
	if (!recoverable || info->si_code != BUS_ADRERR ||
	    address - (uintptr_t)memory >= memory_size) {
		signal(signal_number, SIG_DFL);
		raise(signal_number);
		return;
	}
	fault_address = info->si_addr;
	siglongjmp(recovery, 1);
}

/* What a piece of work is about, and where it leaves its result */
struct word {
	size_t offset;
	__u32 value;
};

/*
 * Returns false if SIGBUS ended the work, somewhere in the middle. Nothing that is
 * needed after that is in a variable of this function, which siglongjmp() may lose.
 *
 * sigsetjmp() makes a system call here. A driver that minds does more work at once.
 */
static bool try_work(void (*work)(struct word *word), struct word *word)
{
	if (sigsetjmp(recovery, 1)) {
		recoverable = false;
		return false;
	}
	recoverable = true;
	work(word);
	recoverable = false;
	return true;
}

static void *map(int dmabuf, size_t size, off_t offset, int protection)
{
	return mmap(NULL, size, protection, MAP_SHARED, dmabuf, offset);
}

/*
 * SIGBUS is the same for memory that comes back. A new mapping is not: it is possible
 * while the device is disabled or in low power, and never again after a revoke.
 */
static bool is_revoked(int dmabuf)
{
	void *probe = map(dmabuf, memory_size, 0, PROT_READ);

	if (probe != MAP_FAILED) {
		munmap(probe, memory_size);
		return false;
	}
	if (errno != ENODEV)
		err(1, "mmap");
	return true;
}

/*
 * Do a piece of work, from its beginning as often as it takes: who knows what the
 * device has lost while it was away. Returns false when the memory is gone for good.
 *
 * The mapping stays what it is, and works again when the memory is back. There is no
 * event for that, so try. A reset need not be noticed at all: whoever touches the
 * memory meanwhile sleeps until it is over.
 */
static bool do_work(int dmabuf, void (*work)(struct word *word), struct word *word)
{
	bool waiting = false;

	while (!try_work(work, word)) {
		if (!waiting)
			printf("client %d: SIGBUS at %p, register 0x%02lx\n", getpid(),
			       fault_address, (unsigned long)((char *)fault_address - memory));
		if (is_revoked(dmabuf)) {
			printf("client %d: the memory is gone for good\n", getpid());
			return false;
		}
		if (!waiting)
			printf("client %d: the memory is gone for a while\n", getpid());
		waiting = true;
		usleep(POLL_US);
	}
	if (waiting)
		printf("client %d: the memory is back\n", getpid());
	return true;
}

static void read_word(struct word *word)
{
	word->value = le32toh(*(__volatile__ __u32 *)(memory + word->offset));
}

static void write_word(struct word *word)
{
	*(__volatile__ __u32 *)(memory + word->offset) = htole32(word->value);
}

static void edu_wait(void)
{
	struct word status = { .offset = EDU_STATUS };

	for (read_word(&status); status.value & EDU_STATUS_COMPUTING; read_word(&status))
		usleep(100);
}

/* Replaces n by n!, and only at the end: this may have to start again. */
static void edu_factorial(struct word *word)
{
	/* The client before may have been stopped between a write and its result. */
	edu_wait();
	write_word(word);
	edu_wait();
	read_word(word);
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
	ssize_t received;
	int fd;

	received = recvmsg(owner, &message, MSG_CMSG_CLOEXEC);
	if (received < 0)
		err(1, "recvmsg");
	if (!received)
		errx(1, "the owner has hung up");
	cmsg = CMSG_FIRSTHDR(&message);
	if (!cmsg || cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS ||
	    cmsg->cmsg_len != CMSG_LEN(sizeof(fd)))
		errx(1, "the owner has sent no fd");
	memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
	return fd;
}

/* The owner decides how much it is, and whether it can be written. */
static void map_all(int dmabuf, bool must_write)
{
	bool can_write = (fcntl(dmabuf, F_GETFL) & O_ACCMODE) == O_RDWR;
	off_t size = lseek(dmabuf, 0, SEEK_END);

	if (size < 0)
		err(1, "lseek");
	memory_size = size;
	/* What is read-only cannot be mapped writable: EACCES. */
	memory = map(dmabuf, memory_size, 0,
		     can_write || must_write ? PROT_READ | PROT_WRITE : PROT_READ);
	if (memory == MAP_FAILED)
		err(1, "mmap of %zu bytes%s", memory_size, can_write ? "" : ", read-only");
}

/* The owner has more of the device, and this client must not get at it. */
static void try_neighbour(int dmabuf)
{
	size_t page_size = sysconf(_SC_PAGESIZE);

	if (map(dmabuf, page_size, memory_size, PROT_READ) != MAP_FAILED)
		errx(1, "has mapped the page behind its own");
	printf("client %d: cannot map the next page: %s\n", getpid(), strerror(errno));
	if (map(dmabuf, memory_size + page_size, 0, PROT_READ) != MAP_FAILED)
		errx(1, "has mapped its memory and the page behind it");
	printf("client %d: cannot map one page more: %s\n", getpid(), strerror(errno));
}

/* What a reset makes the device forget shows only by a wrong answer: ask again, once. */
static bool compute_one(int dmabuf, __u32 n)
{
	static const __u32 factorials[] = {
		1, 1, 2, 6, 24, 120, 720, 5040, 40320, 362880, 3628800, 39916800, 479001600
	};
	struct word word;
	int tries = 2;

	do {
		word = (struct word){ .offset = EDU_FACTORIAL, .value = n };
		if (!do_work(dmabuf, edu_factorial, &word))
			return false;
	} while (word.value != factorials[n] && --tries);
	if (!tries)
		errx(1, "the device says %u! = %u, and not %u", n, word.value, factorials[n]);
	return true;
}

static void compute(int dmabuf, unsigned long count)
{
	struct word id = { .offset = EDU_ID };
	unsigned long i;

	if (!do_work(dmabuf, read_word, &id))
		return;
	if (id.value != EDU_ID_VALUE)
		errx(1, "this is no EDU: register 0x00 reads 0x%08x", id.value);
	printf("client %d: has the registers of an EDU at %p, as user %u\n", getpid(), memory,
	       getuid());
	try_neighbour(dmabuf);

	for (i = 0; (!count || i < count) && compute_one(dmabuf, 12 - i % 12); i++)
		if (!i)
			printf("client %d: the device says 12! = 479001600\n", getpid());
	printf("client %d: has got %lu factorials\n", getpid(), i);
}

static void watch(int dmabuf, struct word word, unsigned long count)
{
	unsigned long i;
	__u32 last = 0;

	for (i = 0; !count || i < count; i++) {
		if (i)
			usleep(POLL_US);
		if (!do_work(dmabuf, read_word, &word))
			return;
		if (!i || word.value != last)
			printf("client %d: 0x%zx reads 0x%08x\n", getpid(), word.offset,
			       word.value);
		last = word.value;
	}
}

static __u64 parse(const char *text, char end)
{
	char *rest;
	__u64 value;

	errno = 0;
	value = strtoull(text, &rest, 0);
	if (errno || rest == text || *rest != end)
		errx(2, "%s: not as --help says", text);
	return value;
}

int main(int argc, char *argv[])
{
	static const struct option options[] = {
		{ "edu", no_argument, NULL, 'e' },
		{ "count", required_argument, NULL, 'c' },
		{ "read", required_argument, NULL, 'r' },
		{ "write", required_argument, NULL, 'w' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	struct sigaction action = { .sa_sigaction = sigbus, .sa_flags = SA_SIGINFO };
	struct word to_read = {}, to_write = {};
	bool edu = false, reads = false, writes = false;
	unsigned long count = 0;
	int option, dmabuf;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'e':
			edu = true;
			break;
		case 'c':
			count = parse(optarg, '\0');
			break;
		case 'r':
			reads = true;
			to_read.offset = parse(optarg, '\0');
			break;
		case 'w':
			writes = true;
			to_write.offset = parse(optarg, '=');
			to_write.value = parse(strchr(optarg, '=') + 1, '\0');
			break;
		default:
			fputs(usage, option == 'h' ? stdout : stderr);
			return option == 'h' ? 0 : 2;
		}
	}
	if (optind + 1 != argc) {
		fputs(usage, stderr);
		return 2;
	}
	setlinebuf(stdout);

	/* Before the first access */
	if (sigaction(SIGBUS, &action, NULL))
		err(1, "sigaction");
	dmabuf = receive_fd(connect_to(argv[optind]));
	map_all(dmabuf, edu || writes);
	if (to_read.offset % 4 || to_read.offset >= memory_size ||
	    to_write.offset % 4 || to_write.offset >= memory_size)
		errx(1, "each OFFSET is to be a multiple of 4 below %zu", memory_size);
	if (!edu)
		printf("client %d: has %zu bytes at %p, as user %u\n", getpid(), memory_size,
		       memory, getuid());

	if (writes && !do_work(dmabuf, write_word, &to_write))
		return 0;
	if (edu)
		compute(dmabuf, count);
	else if (reads)
		watch(dmabuf, to_read, count);
	return 0;
}
