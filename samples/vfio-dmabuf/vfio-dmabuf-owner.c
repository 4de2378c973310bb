// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hand out a page of a PCI device, and take it back: the owner.
 *
 * Whoever holds the fd of a vfio device has all of it: every BAR, DMA, the reset.
 * The owner keeps that, and gives each client a DMABUF of one page of registers
 * instead. There is only one page here, and the latest client gets it; it is first
 * revoked from the one before. That one need not cooperate, nor be alive: it may
 * have passed the fd on, or have forked.
 *
 * Which page is shared is the boundary. The first one of QEMU's EDU has registers
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
#include <glob.h>
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

/* What is shared: the first page of this BAR */
#define BAR	VFIO_PCI_BAR0_REGION_INDEX

static const char usage[] =
"usage: vfio-dmabuf-owner DEVICE SOCKET\n"
"\n"
"Hands the first page of BAR 0 to whoever connects to the Unix socket SOCKET, and\n"
"revokes it when the next one comes. DEVICE is one that vfio-pci is bound to, like\n"
"0000:01:00.0. See vfio-dmabuf-client.\n";

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

/* Until the device decodes addresses, any access to its memory raises SIGBUS. */
static void enable_memory(int device)
{
	struct vfio_region_info config = {
		.argsz = sizeof(config),
		.index = VFIO_PCI_CONFIG_REGION_INDEX,
	};
	__u16 command;

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config))
		err(1, "VFIO_DEVICE_GET_REGION_INFO");
	if (pread(device, &command, sizeof(command), config.offset + PCI_COMMAND) !=
	    sizeof(command))
		err(1, "PCI_COMMAND");
	command |= htole16(PCI_COMMAND_MEMORY);
	if (pwrite(device, &command, sizeof(command), config.offset + PCI_COMMAND) !=
	    sizeof(command))
		err(1, "PCI_COMMAND");
}

/*
 * A DMABUF can have many ranges of a BAR, which appear back to back. With O_RDONLY
 * clients could not write.
 *
 * The owner pays for it until the last client has closed it, revoked or not. An owner
 * with many clients bounds how many DMABUFs each of them may have.
 */
static int export_page(int device)
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
	dma_buf->region_index = BAR;
	dma_buf->open_flags = O_RDWR | O_CLOEXEC;
	dma_buf->nr_ranges = 1;
	dma_buf->dma_ranges[0].offset = 0;
	dma_buf->dma_ranges[0].length = sysconf(_SC_PAGESIZE);

	fd = ioctl(device, VFIO_DEVICE_FEATURE, feature);
	if (fd < 0)
		warn("VFIO_DEVICE_FEATURE_DMA_BUF");
	free(feature);
	return fd;
}

/*
 * When this returns, nobody can reach the page through the DMABUF any more. To
 * close it would take nothing from those who have it mapped, or have a copy of
 * the fd.
 *
 * Had the client imported it for DMA, this would wait until that is over. A signal
 * ends the wait with EINTR, when the CPU cannot reach the page any more. The call
 * that completes an interrupted one finds the DMABUF revoked: EBADFD.
 */
static void revoke_page(int device, int dmabuf)
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

int main(int argc, char *argv[])
{
	int device, listener, client, dmabuf = -1;
	struct ucred peer, last = {};
	socklen_t len;

	if (argc == 2 && !strcmp(argv[1], "--help")) {
		fputs(usage, stdout);
		return 0;
	}
	if (argc != 3) {
		fputs(usage, stderr);
		return 2;
	}
	setlinebuf(stdout);

	device = open_device(argv[1]);
	enable_memory(device);
	listener = listen_at(argv[2]);
	printf("owner: has opened %s, and waits for clients\n", argv[1]);

	for (;;) {
		client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (client < 0)
			err(1, "accept");
		len = sizeof(peer);
		if (getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &len))
			err(1, "SO_PEERCRED");

		if (dmabuf >= 0) {
			revoke_page(device, dmabuf);
			printf("owner: has revoked the page from process %d\n", last.pid);
		}

		/* Of the same page, but nothing of the old DMABUF leads to the new one. */
		dmabuf = export_page(device);
		if (dmabuf >= 0 && send_fd(client, dmabuf))
			warn("process %d", peer.pid);
		else if (dmabuf >= 0)
			printf("owner: has handed the page to process %d of user %u\n",
			       peer.pid, peer.uid);
		close(client);
		last = peer;
	}
}
