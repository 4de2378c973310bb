// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hand out a piece of a PCI device, and take it back: the owner.
 *
 * Whoever holds the fd of a vfio device has all of it: every BAR, DMA, the reset.
 * The owner keeps that, and gives each client a DMABUF of a few pages of a BAR
 * instead. There is only one piece here, and the latest client gets it; it is first
 * revoked from the one before. That one need not cooperate, nor be alive: it may
 * have passed the fd on, or have forked.
 *
 * Which pages are shared is the boundary. The first one of QEMU's EDU has registers
 * for DMA, too. A client can write them and reaches nothing, because this device is
 * attached to no I/O address space and is no bus master. An owner that does DMA must
 * not share a page with such registers. What one client leaves in a register the
 * next one finds there; an owner that minds resets the device in between.
 *
 * vfio-dmabuf-client.c is the other side.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <glob.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <linux/pci_regs.h>
#include <linux/types.h>
#include <linux/vfio.h>

static const char usage[] =
"usage: vfio-dmabuf-owner [--bar N] [--offset BYTES] [--size BYTES] [--read-only]\n"
"                         [--write-combine] DEVICE SOCKET\n"
"\n"
"Hands a piece of a BAR to whoever connects to the Unix socket SOCKET, and revokes it\n"
"when the next one comes. DEVICE is one that vfio-pci is bound to, like 0000:01:00.0.\n"
"See vfio-dmabuf-client.\n"
"\n"
"  --bar N          the BAR (default: the first one that can be mapped)\n"
"  --offset BYTES   where the piece begins, in whole pages (default: 0)\n"
"  --size BYTES     how much it is, in whole pages (default: one page)\n"
"  --read-only      clients can only read it\n"
"  --write-combine  the CPU may collect writes, which is for memory, not for registers\n"
"\n"
"Commands on standard input, one a line:\n"
"\n"
"  reset            reset the device; whoever touches the piece waits until that is over\n"
"  disable, enable  the memory of the device; without it, to touch it raises SIGBUS\n"
"  revoke           take the piece back for good, also if nobody else wants it\n"
"  quit             close the device, which takes it back as well\n";

/* What clients get */
struct piece {
	__u32 bar;
	__u32 access;	/* O_RDWR or O_RDONLY */
	__u32 attr;
	__u64 offset;
	__u64 size;
};

/* Who has it, if anybody */
struct holder {
	int dmabuf;
	pid_t pid;
};

/*
 * For DMA the device would have to be attached to an I/O address space. To be
 * bound to an iommufd is all that its registers need.
 */
static int open_device(const char *bdf)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	char path[128];
	glob_t found;
	int device;

	/* Its only entry is named like the file in /dev. */
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev/vfio*", bdf);
	if (glob(path, 0, NULL, &found))
		errx(1, "%s is not bound to vfio-pci, or there is no %s", bdf, path);
	snprintf(path, sizeof(path), "/dev/vfio/devices/%s",
		 strrchr(found.gl_pathv[0], '/') + 1);
	globfree(&found);

	device = open(path, O_RDWR | O_CLOEXEC);
	if (device < 0)
		err(1, "%s", path);

	bind.iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (bind.iommufd < 0)
		err(1, "/dev/iommu");
	if (ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		err(1, "VFIO_DEVICE_BIND_IOMMUFD");
	return device;
}

static struct vfio_region_info region_info(int device, __u32 index)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info))
		err(1, "VFIO_DEVICE_GET_REGION_INFO");
	return info;
}

/* While the device does not decode addresses, any access to its memory raises SIGBUS. */
static void set_memory(int device, bool on)
{
	__u64 where = region_info(device, VFIO_PCI_CONFIG_REGION_INDEX).offset + PCI_COMMAND;
	__u16 command;

	if (pread(device, &command, sizeof(command), where) != sizeof(command))
		err(1, "PCI_COMMAND");
	if (on)
		command |= htole16(PCI_COMMAND_MEMORY);
	else
		command &= ~htole16(PCI_COMMAND_MEMORY);
	if (pwrite(device, &command, sizeof(command), where) != sizeof(command))
		err(1, "PCI_COMMAND");
}

/* What is smaller than a page cannot be exported. */
static __u32 first_bar(int device)
{
	struct vfio_region_info info;
	__u32 bar;

	for (bar = VFIO_PCI_BAR0_REGION_INDEX; bar <= VFIO_PCI_BAR5_REGION_INDEX; bar++) {
		info = region_info(device, bar);
		if (info.flags & VFIO_REGION_INFO_FLAG_MMAP && info.size >= getpagesize())
			return bar;
	}
	errx(1, "the device has no BAR that can be mapped");
}

/*
 * A DMABUF can have many ranges of a BAR, which appear back to back. With O_RDONLY
 * clients cannot write.
 *
 * The owner pays for it until the last client has closed it, revoked or not. An owner
 * with many clients bounds how many DMABUFs each of them may have.
 */
static int export_range(int device, const struct piece *piece)
{
	struct vfio_device_feature_dma_buf *dma_buf;
	struct vfio_device_feature *feature;
	size_t size;
	int fd;

	size = sizeof(*feature) + sizeof(*dma_buf) + sizeof(dma_buf->dma_ranges[0]);
	feature = calloc(1, size);
	if (!feature)
		err(1, "calloc");
	feature->argsz = size;
	feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;

	dma_buf = (void *)feature->data;
	dma_buf->region_index = piece->bar;
	dma_buf->open_flags = piece->access | O_CLOEXEC;
	dma_buf->flags = piece->attr;
	dma_buf->nr_ranges = 1;
	dma_buf->dma_ranges[0].offset = piece->offset;
	dma_buf->dma_ranges[0].length = piece->size;

	fd = ioctl(device, VFIO_DEVICE_FEATURE, feature);
	free(feature);
	return fd;
}

/*
 * When this returns, nobody can reach the memory through the DMABUF any more. To
 * close it would take nothing from those who have it mapped, or have a copy of
 * the fd.
 *
 * Had the client imported it for DMA, this would wait until that is over. A signal
 * ends the wait with EINTR, when the CPU cannot reach the memory any more. The call
 * that completes an interrupted one finds the DMABUF revoked: EBADFD.
 */
static void revoke_dmabuf(int device, int dmabuf)
{
	struct vfio_pci_dmabuf_revoke revoke = {
		.argsz = sizeof(revoke),
		.dmabuf_fd = dmabuf,
	};
	bool interrupted = false;

	while (ioctl(device, VFIO_DEVICE_PCI_DMABUF_REVOKE, &revoke)) {
		if (errno == EINTR) {
			interrupted = true;
			continue;
		}
		if (interrupted && errno == EBADFD)
			break;
		err(1, "VFIO_DEVICE_PCI_DMABUF_REVOKE");
	}
	close(dmabuf);
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct stat st;
	mode_t mask;
	int fd;

	if (snprintf(address.sun_path, sizeof(address.sun_path), "%s", path) >=
	    (int)sizeof(address.sun_path))
		errx(1, "%s is too long for the path of a socket", path);

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		err(1, "socket");
	/* Left over from another run */
	if (!lstat(path, &st) && S_ISSOCK(st.st_mode))
		unlink(path);
	/* Everybody may come. A real owner would look at who it is. */
	mask = umask(0111);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 8))
		err(1, "%s", path);
	umask(mask);
	return fd;
}

/* A client that is gone already is no reason to end. */
static int send_fd(int client, int fd)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(fd))];
	} control = {};
	char byte = 0;
	struct iovec iov = { .iov_base = &byte, .iov_len = sizeof(byte) };
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	return sendmsg(client, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static void take_back(int device, struct holder *holder)
{
	if (holder->dmabuf < 0)
		return;
	revoke_dmabuf(device, holder->dmabuf);
	holder->dmabuf = -1;
	printf("owner: has revoked the memory from process %d\n", holder->pid);
}

static void serve(int device, const struct piece *piece, int listener, struct holder *holder)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);
	int client, dmabuf;

	client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (client < 0)
		err(1, "accept");
	if (getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &len))
		err(1, "SO_PEERCRED");

	take_back(device, holder);
	/* Of the same pages, but nothing of the old DMABUF leads to the new one. */
	dmabuf = export_range(device, piece);
	if (dmabuf < 0)
		warn("VFIO_DEVICE_FEATURE_DMA_BUF");
	else if (send_fd(client, dmabuf))
		warn("process %d", peer.pid);
	else
		printf("owner: has handed the memory to process %d of user %u\n", peer.pid,
		       peer.uid);
	*holder = (struct holder){ .dmabuf = dmabuf, .pid = peer.pid };
	close(client);
}

/* Returns false when there will be no more. */
static bool obey(int device, struct holder *holder)
{
	char line[80];

	if (!fgets(line, sizeof(line), stdin))
		return false;
	line[strcspn(line, "\n")] = 0;

	if (!strcmp(line, "reset")) {
		if (ioctl(device, VFIO_DEVICE_RESET))
			warn("VFIO_DEVICE_RESET");
		else
			printf("owner: has reset the device\n");
	} else if (!strcmp(line, "disable")) {
		set_memory(device, false);
		printf("owner: has disabled the memory\n");
	} else if (!strcmp(line, "enable")) {
		set_memory(device, true);
		printf("owner: has enabled the memory\n");
	} else if (!strcmp(line, "revoke")) {
		if (holder->dmabuf < 0)
			warnx("nobody has the memory");
		take_back(device, holder);
	} else if (!strcmp(line, "quit")) {
		exit(0);
	} else {
		warnx("no command: %s", line);
	}
	return true;
}

static __u64 parse(const char *text)
{
	char *end;
	__u64 value;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (errno || end == text || *end)
		errx(2, "not a number: %s", text);
	return value;
}

int main(int argc, char *argv[])
{
	static const struct option options[] = {
		{ "bar", required_argument, NULL, 'b' },
		{ "offset", required_argument, NULL, 'o' },
		{ "size", required_argument, NULL, 's' },
		{ "read-only", no_argument, NULL, 'r' },
		{ "write-combine", no_argument, NULL, 'w' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	struct piece piece = { .bar = -1, .access = O_RDWR, .size = getpagesize() };
	struct pollfd fds[2] = {
		{ .events = POLLIN },
		{ .events = POLLIN, .fd = STDIN_FILENO },
	};
	struct holder holder = { .dmabuf = -1 };
	int device, dmabuf, option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'b':
			piece.bar = parse(optarg);
			break;
		case 'o':
			piece.offset = parse(optarg);
			break;
		case 's':
			piece.size = parse(optarg);
			break;
		case 'r':
			piece.access = O_RDONLY;
			break;
		case 'w':
			piece.attr = VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC;
			break;
		default:
			fputs(usage, option == 'h' ? stdout : stderr);
			return option == 'h' ? 0 : 2;
		}
	}
	if (optind + 2 != argc) {
		fputs(usage, stderr);
		return 2;
	}
	setlinebuf(stdout);
	/* poll() knows nothing of lines that lie in a buffer. */
	setvbuf(stdin, NULL, _IONBF, 0);

	device = open_device(argv[optind]);
	set_memory(device, true);
	if (piece.bar == (__u32)-1)
		piece.bar = first_bar(device);
	/* What cannot be exported is better known now than when somebody comes. */
	dmabuf = export_range(device, &piece);
	if (dmabuf < 0)
		err(1, "BAR %u cannot be exported%s", piece.bar,
		    piece.attr ? " write-combined" : "");
	close(dmabuf);

	fds[0].fd = listen_at(argv[optind + 1]);
	printf("owner: has opened %s, and waits for clients\n", argv[optind]);
	printf("owner: hands out 0x%zx bytes at 0x%zx of BAR %u\n", (size_t)piece.size,
	       (size_t)piece.offset, piece.bar);
	for (;;) {
		if (poll(fds, 2, -1) < 0)
			err(1, "poll");
		if (fds[0].revents)
			serve(device, &piece, fds[0].fd, &holder);
		/* Whoever has nothing to say need not: a negative fd is not polled. */
		if (fds[1].revents && !obey(device, &holder))
			fds[1].fd = -1;
	}
}
