// SPDX-License-Identifier: GPL-2.0-only
/*
 * The owner of a device takes a DMABUF back, and whoever has it is left with
 * nothing: no process, in no mapping, and not ever again. Nobody else notices.
 *
 * What is particular to importers is in vfio_pci_dmabuf_revoke_importer_test.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/kernel.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/udmabuf.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define NR_PAGES	4
#define NR_MAPPINGS	10000

static const char *device_bdf, *other_bdf;

struct revoke_test {
	const char *iommu_mode;
	struct vfio_pci_device *device;
	size_t page_size;
	/* The start of a BAR, as a BAR and as the DMABUF to be revoked */
	struct mmap_target bar;
	struct mmap_target dmabuf;
	struct client clients[2];
};

static int export(struct revoke_test *test)
{
	return vfio_pci_dmabuf_export_range(test->device, test->bar.bar, 0, test->dmabuf.size);
}

/* Returns why the test cannot be done, or NULL. */
static const char *revoke_test_setup(struct revoke_test *test, const char *iommu_mode)
{
	const char *reason;

	test->page_size = getpagesize();
	test->iommu_mode = iommu_mode;
	test->device = vfio_pci_device_open(device_bdf, iommu_mode);

	reason = vfio_pci_no_dmabuf_revoke(test->device);
	if (!reason)
		reason = mmap_target_open_largest(&test->dmabuf, test->device, true);
	if (reason)
		return reason;
	mmap_target_close(&test->dmabuf);
	if (test->dmabuf.size < NR_PAGES * test->page_size)
		return "There is no BAR of so many pages";

	VFIO_ASSERT_NULL(mmap_target_open(&test->bar, test->device, test->dmabuf.bar, false));
	test->bar.size = NR_PAGES * test->page_size;
	test->dmabuf.size = test->bar.size;
	test->dmabuf.fd = export(test);
	return NULL;
}

static void revoke_test_teardown(struct revoke_test *test)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(test->clients); i++) {
		if (test->clients[i].pid)
			client_kill(&test->clients[i]);
	}
	mmap_target_close(&test->dmabuf);
	vfio_pci_device_close(test->device);
}

static void *map_all(const struct mmap_target *target)
{
	return mmap_target_map(target, 0, target->size);
}

static bool is_reachable(const struct mmap_target *target, void *vaddr, u32 value)
{
	return target_try_write(target, vaddr, value) && target_try_check(target, vaddr, value) &&
	       mmio_try_touch(vaddr + target->size - sizeof(u32));
}

/* Neither to be read nor to be written, in any page */
static bool is_unreachable(const struct mmap_target *target, void *vaddr)
{
	const size_t page_size = getpagesize();
	size_t i;

	for (i = 0; i < target->size; i += page_size) {
		if (mmio_try_touch(vaddr + i) || mmio_sigbus_addr() != vaddr + i ||
		    mmio_try_write(vaddr + i, 0) || mmio_sigbus_addr() != vaddr + i)
			return false;
	}
	return true;
}

static bool cannot_be_mapped(int fd)
{
	return mmap(NULL, getpagesize(), PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED &&
	       errno == ENODEV;
}

static int revoke_fd(struct revoke_test *test, int fd)
{
	return __vfio_pci_dmabuf_revoke(test->device, fd);
}

FIXTURE(vfio_pci_dmabuf_revoke_test) {
	struct revoke_test test;
};

FIXTURE_VARIANT(vfio_pci_dmabuf_revoke_test) {
	const char *iommu_mode;
};

/* A group and a character device are opened in different ways. */
FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_revoke_test, group) { MODE_VFIO_TYPE1V2_IOMMU };
FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_revoke_test, iommufd) { MODE_IOMMUFD };

FIXTURE_SETUP(vfio_pci_dmabuf_revoke_test)
{
	const char *reason = revoke_test_setup(&self->test, variant->iommu_mode);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_revoke_test)
{
	revoke_test_teardown(&self->test);
}

/* What is revoked is the DMABUF, and not the memory. */
TEST_F(vfio_pci_dmabuf_revoke_test, nobody_else_notices)
{
	struct revoke_test *test = &self->test;
	struct mmap_target other = test->dmabuf;
	void *revoked, *again, *other_vaddr, *bar;

	other.fd = export(test);
	revoked = map_all(&test->dmabuf);
	again = map_all(&test->dmabuf);
	other_vaddr = map_all(&other);
	bar = map_all(&test->bar);
	ASSERT_EQ(NR_PAGES, mmio_count_faults(bar, test->bar.size, test->page_size));
	ASSERT_EQ(NR_PAGES, mmio_count_faults(other_vaddr, other.size, test->page_size));
	ASSERT_TRUE(is_reachable(&test->dmabuf, revoked, 0x11223344));

	ASSERT_EQ(0, revoke_fd(test, test->dmabuf.fd));
	/* The second mapping has not been touched before. */
	ASSERT_TRUE(is_unreachable(&test->dmabuf, revoked));
	ASSERT_TRUE(is_unreachable(&test->dmabuf, again));
	ASSERT_TRUE(cannot_be_mapped(test->dmabuf.fd));

	/* Not for a moment have they been unmapped. */
	ASSERT_EQ(0, mmio_count_faults(bar, test->bar.size, test->page_size));
	ASSERT_EQ(0, mmio_count_faults(other_vaddr, other.size, test->page_size));
	ASSERT_TRUE(target_try_check(&test->bar, bar, 0x11223344));
	ASSERT_TRUE(is_reachable(&other, other_vaddr, 0x55667788));
	ASSERT_TRUE(mmap_target_try_touch(&other));
	ASSERT_TRUE(mmap_target_try_touch(&test->bar));

	ASSERT_EQ(0, revoke_fd(test, other.fd));
	ASSERT_TRUE(is_unreachable(&other, other_vaddr));
	ASSERT_EQ(0, mmio_count_faults(bar, test->bar.size, test->page_size));
	ASSERT_TRUE(is_reachable(&test->bar, bar, 0x99aabbcc));

	mmap_target_close(&other);
	ASSERT_EQ(0, munmap(revoked, test->dmabuf.size));
	ASSERT_EQ(0, munmap(again, test->dmabuf.size));
	ASSERT_EQ(0, munmap(other_vaddr, test->dmabuf.size));
	ASSERT_EQ(0, munmap(bar, test->bar.size));
}

/* A mapping in pieces, in other places, with other protections */
TEST_F(vfio_pci_dmabuf_revoke_test, moved_and_split)
{
	struct revoke_test *test = &self->test;
	const size_t page_size = test->page_size;
	struct mmap_target page = test->dmabuf;
	void *vaddr = map_all(&test->dmabuf), *moved;

	page.size = page_size;
	ASSERT_EQ(NR_PAGES, mmio_count_faults(vaddr, test->dmabuf.size, page_size));
	moved = mmap_reserve(page_size, page_size, 0);
	ASSERT_EQ(moved, mremap(vaddr + page_size, page_size, page_size,
				MREMAP_MAYMOVE | MREMAP_FIXED, moved));
	ASSERT_EQ(0, mprotect(vaddr + 2 * page_size, page_size, PROT_READ));
	ASSERT_TRUE(mmio_try_touch(moved));

	ASSERT_EQ(0, revoke_fd(test, test->dmabuf.fd));
	ASSERT_TRUE(is_unreachable(&page, vaddr));
	ASSERT_TRUE(is_unreachable(&page, moved));
	ASSERT_FALSE(mmio_try_touch(vaddr + 2 * page_size));
	ASSERT_TRUE(is_unreachable(&page, vaddr + 3 * page_size));

	/* Nor does it help to do any of this now. */
	ASSERT_EQ(0, mprotect(vaddr + 2 * page_size, page_size, PROT_READ | PROT_WRITE));
	ASSERT_TRUE(is_unreachable(&page, vaddr + 2 * page_size));
	ASSERT_EQ(vaddr + page_size, mremap(moved, page_size, page_size,
					    MREMAP_MAYMOVE | MREMAP_FIXED, vaddr + page_size));
	ASSERT_TRUE(is_unreachable(&test->dmabuf, vaddr));
	ASSERT_EQ(0, munmap(vaddr, test->dmabuf.size));
}

TEST_F(vfio_pci_dmabuf_revoke_test, several_ranges)
{
	struct revoke_test *test = &self->test;
	const size_t page_size = test->page_size;
	struct vfio_region_dma_range ranges[] = {
		/* With a gap, or they are one */
		{ 0, page_size },
		{ 2 * page_size, 2 * page_size },
	};
	struct mmap_target many = test->dmabuf;
	void *vaddr;

	many.size = 3 * page_size;
	many.fd = vfio_pci_dmabuf_export(test->device, many.bar, O_RDWR | O_CLOEXEC,
					 ranges, ARRAY_SIZE(ranges));
	vaddr = map_all(&many);
	ASSERT_EQ(3, mmio_count_faults(vaddr, many.size, page_size));

	ASSERT_EQ(0, revoke_fd(test, many.fd));
	ASSERT_TRUE(is_unreachable(&many, vaddr));
	ASSERT_TRUE(cannot_be_mapped(many.fd));
	ASSERT_TRUE(mmap_target_try_touch(&test->dmabuf));

	mmap_target_close(&many);
	ASSERT_EQ(0, munmap(vaddr, many.size));
}

TEST_F(vfio_pci_dmabuf_revoke_test, read_only)
{
	struct revoke_test *test = &self->test;
	struct vfio_region_dma_range range = { 0, test->page_size };
	void *vaddr;
	int fd;

	fd = vfio_pci_dmabuf_export(test->device, test->bar.bar, O_RDONLY | O_CLOEXEC, &range, 1);
	vaddr = mmap(NULL, test->page_size, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, vaddr);
	ASSERT_TRUE(mmio_try_touch(vaddr));
	ASSERT_EQ(0, revoke_fd(test, fd));
	ASSERT_FALSE(mmio_try_touch(vaddr));
	ASSERT_TRUE(cannot_be_mapped(fd));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, munmap(vaddr, test->page_size));
}

/* All fds of a DMABUF are the same to it. */
TEST_F(vfio_pci_dmabuf_revoke_test, another_fd)
{
	struct revoke_test *test = &self->test;
	int fd = export(test), dup_fd = dup(fd);
	struct mmap_target target = test->dmabuf;
	void *vaddr;

	ASSERT_LE(0, dup_fd);
	target.fd = fd;
	vaddr = map_all(&target);
	ASSERT_TRUE(mmio_try_touch(vaddr));
	ASSERT_EQ(0, close(fd));

	ASSERT_EQ(0, revoke_fd(test, dup_fd));
	ASSERT_TRUE(is_unreachable(&target, vaddr));
	ASSERT_EQ(-EBADFD, revoke_fd(test, dup_fd));
	ASSERT_EQ(0, close(dup_fd));
	ASSERT_TRUE(is_unreachable(&target, vaddr));
	ASSERT_EQ(0, munmap(vaddr, target.size));
}

TEST_F(vfio_pci_dmabuf_revoke_test, twice)
{
	struct revoke_test *test = &self->test;

	ASSERT_TRUE(mmap_target_try_touch(&test->dmabuf));
	ASSERT_EQ(0, revoke_fd(test, test->dmabuf.fd));
	ASSERT_EQ(-EBADFD, revoke_fd(test, test->dmabuf.fd));
	ASSERT_EQ(-EBADFD, revoke_fd(test, test->dmabuf.fd));
	ASSERT_FALSE(mmap_target_try_touch(&test->dmabuf));
}

/* A refused call takes nothing away. */
static void expect_refused(struct __test_metadata *_metadata, struct revoke_test *test,
			   int error, int fd)
{
	ASSERT_EQ(-error, revoke_fd(test, fd));
	ASSERT_TRUE(mmap_target_try_touch(&test->dmabuf));
}

TEST_F(vfio_pci_dmabuf_revoke_test, argsz)
{
	struct revoke_test *test = &self->test;
	struct {
		struct vfio_pci_dmabuf_revoke revoke;
		u32 more[2];
	} args = {
		.revoke.dmabuf_fd = test->dmabuf.fd,
		.more = { ~0U, ~0U },
	};
	u32 argsz;

	for (argsz = 0; argsz < 8; argsz++) {
		args.revoke.argsz = argsz;
		ASSERT_EQ(-1, ioctl(test->device->fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, &args));
		ASSERT_EQ(EINVAL, errno);
	}
	ASSERT_TRUE(mmap_target_try_touch(&test->dmabuf));

	/* Of a userspace that knows more than this kernel */
	args.revoke.argsz = sizeof(args);
	ASSERT_EQ(0, ioctl(test->device->fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, &args));
	ASSERT_FALSE(mmap_target_try_touch(&test->dmabuf));
}

TEST_F(vfio_pci_dmabuf_revoke_test, bad_pointer)
{
	struct revoke_test *test = &self->test;
	struct vfio_pci_dmabuf_revoke revoke = {
		.argsz = sizeof(revoke),
		.dmabuf_fd = test->dmabuf.fd,
	};
	void *pages, *edge;

	pages = mmap(NULL, 2 * test->page_size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, pages);
	ASSERT_EQ(0, mprotect(pages + test->page_size, test->page_size, PROT_NONE));
	/* All but the last byte is there. */
	edge = pages + test->page_size - sizeof(revoke) + 1;
	memcpy(edge, &revoke, sizeof(revoke) - 1);

	ASSERT_EQ(-1, ioctl(test->device->fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, edge));
	ASSERT_EQ(EFAULT, errno);
	ASSERT_EQ(-1, ioctl(test->device->fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, NULL));
	ASSERT_EQ(EFAULT, errno);
	ASSERT_TRUE(mmap_target_try_touch(&test->dmabuf));

	memcpy(edge - 1, &revoke, sizeof(revoke));
	ASSERT_EQ(0, ioctl(test->device->fd, VFIO_DEVICE_PCI_DMABUF_REVOKE, edge - 1));
	ASSERT_EQ(0, munmap(pages, 2 * test->page_size));
}

TEST_F(vfio_pci_dmabuf_revoke_test, bad_fd)
{
	struct revoke_test *test = &self->test;
	int closed = dup(test->dmabuf.fd), path_fd;
	char path[64];

	ASSERT_LE(0, closed);
	ASSERT_EQ(0, close(closed));
	expect_refused(_metadata, test, EBADF, -1);
	expect_refused(_metadata, test, EBADF, closed);

	/* With a handle of the path one has no file, see open(2). */
	snprintf_assert(path, sizeof(path), "/proc/self/fd/%d", test->dmabuf.fd);
	path_fd = open(path, O_PATH);
	ASSERT_LE(0, path_fd);
	expect_refused(_metadata, test, EBADF, path_fd);
	ASSERT_EQ(0, close(path_fd));
}

TEST_F(vfio_pci_dmabuf_revoke_test, not_a_dmabuf)
{
	struct revoke_test *test = &self->test;
	int null = open("/dev/null", O_RDWR), memfd = memfd_create("memory", MFD_CLOEXEC);

	ASSERT_LE(0, null);
	ASSERT_LE(0, memfd);
	expect_refused(_metadata, test, EINVAL, null);
	expect_refused(_metadata, test, EINVAL, memfd);
	expect_refused(_metadata, test, EINVAL, test->device->fd);
	ASSERT_EQ(0, close(null));
	ASSERT_EQ(0, close(memfd));
}

TEST_F(vfio_pci_dmabuf_revoke_test, another_exporter)
{
	struct revoke_test *test = &self->test;
	struct udmabuf_create create = {
		.flags = UDMABUF_FLAGS_CLOEXEC,
		.size = test->page_size,
	};
	int udmabuf, fd;
	u32 *memory;

	udmabuf = open("/dev/udmabuf", O_RDWR | O_CLOEXEC);
	if (udmabuf < 0)
		SKIP(return, "There is no /dev/udmabuf");

	create.memfd = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	ASSERT_LE(0, create.memfd);
	ASSERT_EQ(0, ftruncate(create.memfd, create.size));
	ASSERT_EQ(0, fcntl(create.memfd, F_ADD_SEALS, F_SEAL_SHRINK));
	fd = ioctl(udmabuf, UDMABUF_CREATE, &create);
	ASSERT_LE(0, fd);
	memory = mmap(NULL, create.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, memory);
	*memory = 0x11223344;

	expect_refused(_metadata, test, ENODEV, fd);
	ASSERT_TRUE(mmio_try_touch(memory));
	ASSERT_EQ(0x11223344, *memory);

	ASSERT_EQ(0, munmap(memory, create.size));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(create.memfd));
	ASSERT_EQ(0, close(udmabuf));
}

TEST_F(vfio_pci_dmabuf_revoke_test, another_device)
{
	struct revoke_test *test = &self->test;
	struct vfio_pci_device *other;
	struct mmap_target target;
	const char *reason;

	if (!other_bdf)
		SKIP(return, "It takes two devices");

	other = vfio_pci_device_open(other_bdf, test->iommu_mode);
	reason = mmap_target_open_largest(&target, other, true);
	if (reason) {
		vfio_pci_device_close(other);
		SKIP(return, "%s", reason);
	}

	expect_refused(_metadata, test, ENODEV, target.fd);
	ASSERT_TRUE(mmap_target_try_touch(&target));
	ASSERT_EQ(-ENODEV, __vfio_pci_dmabuf_revoke(other, test->dmabuf.fd));
	ASSERT_TRUE(mmap_target_try_touch(&test->dmabuf));

	/* Each to its own, and of another's also if it is revoked already */
	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(other, target.fd));
	ASSERT_FALSE(mmap_target_try_touch(&target));
	expect_refused(_metadata, test, ENODEV, target.fd);

	mmap_target_close(&target);
	vfio_pci_device_close(other);
}

TEST_F(vfio_pci_dmabuf_revoke_test, earlier_open)
{
	struct revoke_test *test = &self->test;
	void *vaddr = map_all(&test->dmabuf);
	int old = test->dmabuf.fd, revoked = export(test);

	ASSERT_TRUE(mmio_try_touch(vaddr));
	ASSERT_EQ(0, revoke_fd(test, revoked));
	vfio_pci_device_close(test->device);
	ASSERT_TRUE(is_unreachable(&test->dmabuf, vaddr));

	test->device = vfio_pci_device_open(device_bdf, test->iommu_mode);
	test->dmabuf.fd = export(test);
	expect_refused(_metadata, test, ENODEV, old);
	expect_refused(_metadata, test, ENODEV, revoked);
	ASSERT_EQ(0, revoke_fd(test, test->dmabuf.fd));

	ASSERT_TRUE(is_unreachable(&test->dmabuf, vaddr));
	ASSERT_EQ(0, munmap(vaddr, test->dmabuf.size));
	ASSERT_EQ(0, close(revoked));
	ASSERT_EQ(0, close(old));
}

/* A device fd of somebody who has no business with the device yet */
TEST_F(vfio_pci_dmabuf_revoke_test, not_bound)
{
	struct revoke_test *test = &self->test;
	struct vfio_pci_device not_bound;

	vfio_pci_cdev_open(&not_bound, device_bdf);
	ASSERT_EQ(-EINVAL, __vfio_pci_dmabuf_revoke(&not_bound, test->dmabuf.fd));
	ASSERT_EQ(-EINVAL, __vfio_pci_dmabuf_revoke(&not_bound, -1));
	ASSERT_TRUE(mmap_target_try_touch(&test->dmabuf));
	ASSERT_EQ(0, close(not_bound.fd));
}

/* One open of the device, however many fds there are */
TEST_F(vfio_pci_dmabuf_revoke_test, another_fd_of_the_device)
{
	struct revoke_test *test = &self->test;
	struct vfio_pci_device other = {};

	if (test->device->group_fd)
		other.fd = ioctl(test->device->group_fd, VFIO_GROUP_GET_DEVICE_FD, device_bdf);
	else
		other.fd = dup(test->device->fd);
	ASSERT_LT(0, other.fd);

	ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(&other, test->dmabuf.fd));
	ASSERT_FALSE(mmap_target_try_touch(&test->dmabuf));
	ASSERT_EQ(-EBADFD, revoke_fd(test, test->dmabuf.fd));
	ASSERT_EQ(0, close(other.fd));
}

/* The exit status is the errno. */
static int revoke_main(int sock, void *arg)
{
	struct revoke_test *test = arg;
	int fd;

	test->device->fd = recv_fd(sock);
	fd = recv_fd(sock);
	return -revoke_fd(test, fd);
}

/* Who has the device's fd is the owner, whatever process has exported the DMABUF. */
TEST_F(vfio_pci_dmabuf_revoke_test, owner_is_another_process)
{
	struct client *client = &self->test.clients[0];
	struct revoke_test *test = &self->test;
	void *vaddr = map_all(&test->dmabuf);

	ASSERT_TRUE(mmio_try_touch(vaddr));
	*client = client_start_unprivileged(revoke_main, test);
	send_fd(client->sock, test->device->fd);
	send_fd(client->sock, test->dmabuf.fd);
	ASSERT_EQ(0, client_finish(client));
	ASSERT_TRUE(is_unreachable(&test->dmabuf, vaddr));
	ASSERT_EQ(-EBADFD, revoke_fd(test, test->dmabuf.fd));
	ASSERT_EQ(0, munmap(vaddr, test->dmabuf.size));
}

static int export_main(int sock, void *arg)
{
	struct revoke_test *test = arg;
	struct mmap_target target = test->dmabuf;
	void *vaddr;

	test->device->fd = recv_fd(sock);
	target.fd = export(test);
	VFIO_ASSERT_EQ(close(test->device->fd), 0);
	vaddr = map_all(&target);
	VFIO_ASSERT_TRUE(mmio_try_touch(vaddr));
	send_fd(sock, target.fd);
	client_sync(sock);

	VFIO_ASSERT_TRUE(is_unreachable(&target, vaddr));
	VFIO_ASSERT_TRUE(cannot_be_mapped(target.fd));
	return 0;
}

TEST_F(vfio_pci_dmabuf_revoke_test, exporter_is_another_process)
{
	struct client *client = &self->test.clients[0];
	struct revoke_test *test = &self->test;
	int fd;

	*client = client_start(export_main, test);
	send_fd(client->sock, test->device->fd);
	fd = recv_fd(client->sock);
	ASSERT_EQ(0, revoke_fd(test, fd));
	client_sync(client->sock);
	ASSERT_EQ(0, client_finish(client));
	ASSERT_EQ(0, close(fd));
}

/* What every process loses, in what it may be doing */
FIXTURE(vfio_pci_dmabuf_revoke_client_test) {
	struct revoke_test test;
};

FIXTURE_SETUP(vfio_pci_dmabuf_revoke_client_test)
{
	const char *reason = revoke_test_setup(&self->test, default_iommu_mode);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_revoke_client_test)
{
	revoke_test_teardown(&self->test);
}

static void start(struct revoke_test *test, int i, int (*main)(int sock, void *arg))
{
	test->clients[i] = client_start_unprivileged(main, test);
	send_fd(test->clients[i].sock, test->dmabuf.fd);
	client_sync(test->clients[i].sock);
}

/* Where in a page, which is not to be just anywhere when SIGBUS tells it */
#define LOOP_OFFSET	8

/* Access the memory until that is over, which no one announces. */
static int loop(int sock, void *arg)
{
	struct revoke_test *test = arg;
	void *vaddr;

	test->dmabuf.fd = recv_fd(sock);
	vaddr = map_all(&test->dmabuf);
	VFIO_ASSERT_TRUE(is_reachable(&test->dmabuf, vaddr, 0x11223344));
	client_sync(sock);

	vaddr += test->page_size + LOOP_OFFSET;
	while (mmio_try_touch(vaddr))
		;
	VFIO_ASSERT_EQ((u64)mmio_sigbus_addr(), (u64)vaddr);
	VFIO_ASSERT_TRUE(cannot_be_mapped(test->dmabuf.fd));
	return 0;
}

TEST_F(vfio_pci_dmabuf_revoke_client_test, in_a_loop)
{
	struct revoke_test *test = &self->test;
	int i;

	start(test, 0, loop);
	start(test, 1, loop);
	for (i = 0; i < 2; i++)
		ASSERT_FALSE(client_done(&test->clients[i], 20));
	ASSERT_EQ(0, revoke_fd(test, test->dmabuf.fd));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, client_finish(&test->clients[i]));
}

/* All kinds of mappings, and more than one fd */
static int hoard(int sock, void *arg)
{
	struct revoke_test *test = arg;
	void *vaddr, *read_only, *part, *untouched;
	char path[64];
	int fd;

	fd = recv_fd(sock);
	test->dmabuf.fd = dup(fd);
	VFIO_ASSERT_GE(test->dmabuf.fd, 0);
	VFIO_ASSERT_EQ(close(fd), 0);
	snprintf_assert(path, sizeof(path), "/proc/self/fd/%d", test->dmabuf.fd);
	VFIO_ASSERT_GE(open(path, O_PATH), 0);

	vaddr = map_all(&test->dmabuf);
	untouched = map_all(&test->dmabuf);
	part = mmap_target_map(&test->dmabuf, test->page_size, test->page_size);
	read_only = mmap(NULL, test->page_size, PROT_READ, MAP_SHARED, test->dmabuf.fd, 0);
	VFIO_ASSERT_NE(read_only, MAP_FAILED);
	VFIO_ASSERT_TRUE(is_reachable(&test->dmabuf, vaddr, 0x11223344));
	VFIO_ASSERT_TRUE(mmio_try_touch(part));
	VFIO_ASSERT_TRUE(mmio_try_touch(read_only));
	client_sync(sock);

	client_sync(sock);
	VFIO_ASSERT_TRUE(is_unreachable(&test->dmabuf, vaddr));
	VFIO_ASSERT_TRUE(is_unreachable(&test->dmabuf, untouched));
	VFIO_ASSERT_FALSE(mmio_try_touch(part));
	VFIO_ASSERT_FALSE(mmio_try_touch(read_only));
	VFIO_ASSERT_TRUE(cannot_be_mapped(test->dmabuf.fd));
	client_sync(sock);
	return 0;
}

/* The pages go to the next client, and there they stay. */
TEST_F(vfio_pci_dmabuf_revoke_client_test, next_client)
{
	struct revoke_test *test = &self->test;
	int first = test->dmabuf.fd;
	void *vaddr;

	start(test, 0, hoard);
	ASSERT_EQ(0, revoke_fd(test, first));
	test->dmabuf.fd = export(test);
	vaddr = map_all(&test->dmabuf);
	ASSERT_TRUE(is_reachable(&test->dmabuf, vaddr, 0x55667788));
	start(test, 1, hoard);
	ASSERT_TRUE(target_try_check(&test->dmabuf, vaddr, 0x11223344));
	ASSERT_TRUE(is_reachable(&test->dmabuf, vaddr, 0x55667788));

	client_sync(test->clients[0].sock);
	client_sync(test->clients[0].sock);
	ASSERT_EQ(0, client_finish(&test->clients[0]));
	ASSERT_TRUE(target_try_check(&test->dmabuf, vaddr, 0x55667788));

	ASSERT_EQ(0, close(first));
	ASSERT_EQ(0, revoke_fd(test, test->dmabuf.fd));
	client_sync(test->clients[1].sock);
	client_sync(test->clients[1].sock);
	ASSERT_EQ(0, client_finish(&test->clients[1]));
	ASSERT_EQ(0, munmap(vaddr, test->dmabuf.size));
}

/* A child that has inherited a mapping, and has nothing else of the device */
struct inherited {
	struct revoke_test *test;
	void *touched;
	void *untouched;
	int generations;
};

static int inherit(int sock, void *arg)
{
	struct inherited *inherited = arg;
	struct client child;

	if (inherited->generations--) {
		child = client_start(inherit, inherited);
		client_sync(child.sock);
	}
	VFIO_ASSERT_TRUE(mmio_try_touch(inherited->touched));
	client_sync(sock);

	client_sync(sock);
	VFIO_ASSERT_TRUE(is_unreachable(&inherited->test->dmabuf, inherited->touched));
	VFIO_ASSERT_TRUE(is_unreachable(&inherited->test->dmabuf, inherited->untouched));
	if (inherited->generations >= 0) {
		client_sync(child.sock);
		VFIO_ASSERT_EQ(client_finish(&child), 0);
	}
	return 0;
}

static int inherit_nothing(int sock, void *arg)
{
	struct inherited *inherited = arg;

	VFIO_ASSERT_TRUE(is_unreachable(&inherited->test->dmabuf, inherited->touched));
	VFIO_ASSERT_TRUE(is_unreachable(&inherited->test->dmabuf, inherited->untouched));
	return 0;
}

TEST_F(vfio_pci_dmabuf_revoke_client_test, forked)
{
	struct revoke_test *test = &self->test;
	struct inherited inherited = {
		.test = test,
		.touched = map_all(&test->dmabuf),
		.untouched = map_all(&test->dmabuf),
		.generations = 2,
	};

	ASSERT_EQ(NR_PAGES, mmio_count_faults(inherited.touched, test->dmabuf.size,
					      test->page_size));
	test->clients[0] = client_start(inherit, &inherited);
	client_sync(test->clients[0].sock);

	ASSERT_EQ(0, revoke_fd(test, test->dmabuf.fd));
	ASSERT_TRUE(is_unreachable(&test->dmabuf, inherited.touched));
	client_sync(test->clients[0].sock);
	ASSERT_EQ(0, client_finish(&test->clients[0]));

	/* Nor does one who is born now inherit any of it. */
	test->clients[0] = client_start(inherit_nothing, &inherited);
	ASSERT_EQ(0, client_finish(&test->clients[0]));
	ASSERT_EQ(0, munmap(inherited.touched, test->dmabuf.size));
	ASSERT_EQ(0, munmap(inherited.untouched, test->dmabuf.size));
}

/* No two of them are one VMA, since neighbours are not so in the DMABUF. */
static int many_mappings(int sock, void *arg)
{
	const size_t page_size = getpagesize();
	int fd = recv_fd(sock), i;
	void *vaddr, *page;

	vaddr = mmap_reserve(NR_MAPPINGS * page_size, page_size, 0);
	for (i = 0; i < NR_MAPPINGS; i++) {
		page = mmap(vaddr + i * page_size, page_size, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_FIXED, fd, 0);
		VFIO_ASSERT_NE(page, MAP_FAILED, "mapping %d\n", i);
		VFIO_ASSERT_TRUE(mmio_try_touch(page));
	}
	client_sync(sock);

	client_sync(sock);
	for (i = 0; i < NR_MAPPINGS; i++)
		VFIO_ASSERT_FALSE(mmio_try_touch(vaddr + i * page_size), "mapping %d\n", i);
	client_sync(sock);
	return 0;
}

TEST_F(vfio_pci_dmabuf_revoke_client_test, many_mappings)
{
	struct revoke_test *test = &self->test;

	start(test, 0, many_mappings);
	ASSERT_EQ(0, revoke_fd(test, test->dmabuf.fd));
	client_sync(test->clients[0].sock);
	/* A signal for each of them: a slow machine takes its time. */
	client_sync(test->clients[0].sock);
	ASSERT_EQ(0, client_finish(&test->clients[0]));
}

static int stop(int sock, void *arg)
{
	struct revoke_test *test = arg;
	void *vaddr;

	test->dmabuf.fd = recv_fd(sock);
	vaddr = map_all(&test->dmabuf);
	VFIO_ASSERT_TRUE(mmio_try_touch(vaddr));
	client_sync(sock);
	VFIO_ASSERT_EQ(raise(SIGSTOP), 0);
	VFIO_ASSERT_TRUE(is_unreachable(&test->dmabuf, vaddr));
	return 0;
}

/* One that cannot answer, as it is stopped: nobody asks it. */
TEST_F(vfio_pci_dmabuf_revoke_client_test, stopped)
{
	struct revoke_test *test = &self->test;
	struct client *client = &test->clients[0];
	int status;

	start(test, 0, stop);
	ASSERT_EQ(client->pid, waitpid(client->pid, &status, WUNTRACED));
	ASSERT_TRUE(WIFSTOPPED(status));

	ASSERT_EQ(0, revoke_fd(test, test->dmabuf.fd));
	ASSERT_EQ(0, waitpid(client->pid, &status, WNOHANG | WCONTINUED));
	ASSERT_EQ(0, kill(client->pid, SIGCONT));
	ASSERT_EQ(0, client_finish(client));
}

/* Its tracer gets to see the signal, and where it was. */
TEST_F(vfio_pci_dmabuf_revoke_client_test, traced)
{
	struct revoke_test *test = &self->test;
	struct client *client = &test->clients[0];
	siginfo_t info;
	int status;

	start(test, 0, loop);
	ASSERT_EQ(0, ptrace(PTRACE_SEIZE, client->pid, NULL, NULL));
	ASSERT_EQ(0, ptrace(PTRACE_INTERRUPT, client->pid, NULL, NULL));
	ASSERT_EQ(client->pid, waitpid(client->pid, &status, __WALL));
	ASSERT_TRUE(WIFSTOPPED(status));

	ASSERT_EQ(0, revoke_fd(test, test->dmabuf.fd));
	ASSERT_EQ(0, waitpid(client->pid, &status, WNOHANG | __WALL));
	ASSERT_EQ(0, ptrace(PTRACE_CONT, client->pid, NULL, NULL));
	ASSERT_EQ(client->pid, waitpid(client->pid, &status, __WALL));
	ASSERT_TRUE(WIFSTOPPED(status));
	ASSERT_EQ(SIGBUS, WSTOPSIG(status));
	ASSERT_EQ(0, ptrace(PTRACE_GETSIGINFO, client->pid, NULL, &info));
	ASSERT_EQ(BUS_ADRERR, info.si_code);
	ASSERT_EQ(LOOP_OFFSET, (u64)info.si_addr % test->page_size);

	ASSERT_EQ(0, ptrace(PTRACE_DETACH, client->pid, NULL, (void *)(long)SIGBUS));
	ASSERT_EQ(0, client_finish(client));
}

/* Have the kernel write there, once it has something to write. */
static int receive(int sock, void *arg)
{
	struct revoke_test *test = arg;
	void *vaddr;

	test->dmabuf.fd = recv_fd(sock);
	vaddr = map_all(&test->dmabuf);
	client_sync(sock);

	vaddr += test->dmabuf.scratch.offset;
	VFIO_ASSERT_EQ(recv(sock, vaddr, sizeof(u32), 0), sizeof(u32));
	VFIO_ASSERT_EQ(recv(sock, vaddr, sizeof(u32), 0), -1);
	VFIO_ASSERT_EQ(errno, EFAULT);
	VFIO_ASSERT_TRUE(is_unreachable(&test->dmabuf, vaddr - test->dmabuf.scratch.offset));
	return 0;
}

static bool sleeps(struct client *client)
{
	char path[64], stat[512] = {}, *state;
	int fd;

	snprintf_assert(path, sizeof(path), "/proc/%d/stat", client->pid);
	fd = open(path, O_RDONLY);
	VFIO_ASSERT_GE(fd, 0);
	VFIO_ASSERT_GT(read(fd, stat, sizeof(stat) - 1), 0);
	VFIO_ASSERT_EQ(close(fd), 0);

	/* "PID (NAME) STATE ..." */
	state = strrchr(stat, ')');
	VFIO_ASSERT_NOT_NULL(state);
	return state[2] == 'S';
}

TEST_F(vfio_pci_dmabuf_revoke_client_test, in_a_system_call)
{
	struct revoke_test *test = &self->test;
	struct client *client = &test->clients[0];
	u32 value = 0x11223344;

	if (!test->dmabuf.scratch.mask)
		SKIP(return, "It is not known where the device can be written to");

	start(test, 0, receive);
	ASSERT_EQ(sizeof(value), send(client->sock, &value, sizeof(value), MSG_NOSIGNAL));
	/* That has woken it, so it sleeps when it waits for the next one. */
	while (!sleeps(client) && !client_done(client, 1))
		;

	ASSERT_EQ(0, revoke_fd(test, test->dmabuf.fd));
	ASSERT_EQ(sizeof(value), send(client->sock, &value, sizeof(value), MSG_NOSIGNAL));
	ASSERT_EQ(0, client_finish(client));
}

/* The memory goes away for a while as well, and what is revoked does not come back. */
FIXTURE(vfio_pci_dmabuf_revoke_event_test) {
	struct revoke_test test;
	struct mmap_target other;
	void *revoked;
	void *other_vaddr;
	void *bar;
};

FIXTURE_VARIANT(vfio_pci_dmabuf_revoke_event_test) {
	const struct vfio_pci_memory_event *event;
};

#define EVENT(_variant) FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_revoke_event_test, _variant)

EVENT(memory_decode) { &vfio_pci_memory_decode };
EVENT(d3hot) { &vfio_pci_d3hot };
EVENT(external_reset) { &vfio_pci_external_reset };
EVENT(low_power) { &vfio_pci_low_power };
EVENT(function_reset) { &vfio_pci_function_reset };
EVENT(hot_reset) { &vfio_pci_hot_reset };
EVENT(flr) { &vfio_pci_flr };

FIXTURE_SETUP(vfio_pci_dmabuf_revoke_event_test)
{
	struct revoke_test *test = &self->test;
	const char *reason = revoke_test_setup(test, default_iommu_mode);

	if (!reason)
		reason = variant->event->unsupported(test->device);
	if (reason)
		SKIP(return, "%s", reason);

	self->other = test->dmabuf;
	self->other.fd = export(test);
	self->revoked = map_all(&test->dmabuf);
	self->other_vaddr = map_all(&self->other);
	self->bar = map_all(&test->bar);
	ASSERT_TRUE(is_reachable(&test->dmabuf, self->revoked, 0x11223344));
	ASSERT_TRUE(is_reachable(&self->other, self->other_vaddr, 0x22334455));
	ASSERT_TRUE(is_reachable(&test->bar, self->bar, 0x33445566));
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_revoke_event_test)
{
	struct revoke_test *test = &self->test;

	VFIO_ASSERT_EQ(munmap(self->revoked, test->dmabuf.size), 0);
	VFIO_ASSERT_EQ(munmap(self->other_vaddr, self->other.size), 0);
	VFIO_ASSERT_EQ(munmap(self->bar, test->bar.size), 0);
	mmap_target_close(&self->other);
	revoke_test_teardown(test);
}

#define event_data		FIXTURE_DATA(vfio_pci_dmabuf_revoke_event_test)

/* The memory is there, for all but one. */
static void expect_only_one_revoked(struct __test_metadata *_metadata, event_data *self)
{
	struct revoke_test *test = &self->test;

	ASSERT_TRUE(is_reachable(&test->bar, self->bar, 0x44556677));
	ASSERT_TRUE(is_reachable(&self->other, self->other_vaddr, 0x55667788));
	ASSERT_TRUE(is_unreachable(&test->dmabuf, self->revoked));
	ASSERT_TRUE(cannot_be_mapped(test->dmabuf.fd));
	ASSERT_EQ(-EBADFD, revoke_fd(test, test->dmabuf.fd));
}

TEST_F(vfio_pci_dmabuf_revoke_event_test, revoked_before)
{
	const struct vfio_pci_memory_event *event = variant->event;
	struct revoke_test *test = &self->test;
	int round;

	ASSERT_EQ(0, revoke_fd(test, test->dmabuf.fd));
	expect_only_one_revoked(_metadata, self);
	for (round = 0; round < 2; round++) {
		event->disable(test->device);
		if (event->enable) {
			ASSERT_TRUE(is_unreachable(&test->dmabuf, self->revoked));
			ASSERT_TRUE(is_unreachable(&self->other, self->other_vaddr));
			ASSERT_TRUE(cannot_be_mapped(test->dmabuf.fd));
			ASSERT_EQ(-EBADFD, revoke_fd(test, test->dmabuf.fd));
			event->enable(test->device);
		}
		expect_only_one_revoked(_metadata, self);
	}
}

TEST_F(vfio_pci_dmabuf_revoke_event_test, revoked_meanwhile)
{
	const struct vfio_pci_memory_event *event = variant->event;
	struct revoke_test *test = &self->test;

	if (!event->enable)
		SKIP(return, "A reset is over when it returns");

	event->disable(test->device);
	ASSERT_TRUE(is_unreachable(&test->dmabuf, self->revoked));
	ASSERT_EQ(0, revoke_fd(test, test->dmabuf.fd));
	ASSERT_TRUE(is_unreachable(&test->dmabuf, self->revoked));
	ASSERT_TRUE(cannot_be_mapped(test->dmabuf.fd));
	event->enable(test->device);
	expect_only_one_revoked(_metadata, self);

	event->disable(test->device);
	event->enable(test->device);
	expect_only_one_revoked(_metadata, self);
}

TEST_F(vfio_pci_dmabuf_revoke_event_test, revoked_afterwards)
{
	const struct vfio_pci_memory_event *event = variant->event;
	struct revoke_test *test = &self->test;

	event->disable(test->device);
	if (event->enable)
		event->enable(test->device);
	ASSERT_TRUE(is_reachable(&test->dmabuf, self->revoked, 0x66778899));
	ASSERT_EQ(0, revoke_fd(test, test->dmabuf.fd));
	expect_only_one_revoked(_metadata, self);
}

/* A large mapping by large pages, which go at once */
FIXTURE(vfio_pci_dmabuf_revoke_huge_test) {
	struct vfio_pci_device *device;
	struct mmap_target bar;
	struct mmap_target dmabuf;
	struct mmap_target other;
	void *vaddr;
	void *moved;
	void *other_vaddr;
	void *bar_vaddr;
};

FIXTURE_VARIANT(vfio_pci_dmabuf_revoke_huge_test) {
	size_t size;
};

FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_revoke_huge_test, pmd) { SZ_2M };
FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_revoke_huge_test, pud) { SZ_1G };

static void *map_huge(const struct mmap_target *target, size_t size)
{
	void *vaddr = mmap_reserve(size, size, 0);

	vaddr = mmap(vaddr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		     target->fd, target->offset);
	VFIO_ASSERT_NE(vaddr, MAP_FAILED);
	return vaddr;
}

FIXTURE_SETUP(vfio_pci_dmabuf_revoke_huge_test)
{
	const size_t size = variant->size;
	const char *reason;

	self->device = vfio_pci_device_open(device_bdf, default_iommu_mode);
	reason = vfio_pci_no_dmabuf_revoke(self->device);
	if (!reason)
		reason = mmap_target_open_largest(&self->dmabuf, self->device, true);
	if (!reason)
		reason = no_huge_page(size);
	if (reason)
		SKIP(return, "%s", reason);
	if (self->dmabuf.size < size)
		SKIP(return, "The BAR is too small");

	ASSERT_EQ(NULL, mmap_target_open(&self->other, self->device, self->dmabuf.bar, true));
	ASSERT_EQ(NULL, mmap_target_open(&self->bar, self->device, self->dmabuf.bar, false));
	self->vaddr = map_huge(&self->dmabuf, size);
	self->moved = map_huge(&self->dmabuf, size);
	self->other_vaddr = map_huge(&self->other, size);
	self->bar_vaddr = map_huge(&self->bar, size);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_revoke_huge_test)
{
	VFIO_ASSERT_EQ(munmap(self->vaddr, variant->size), 0);
	VFIO_ASSERT_EQ(munmap(self->moved, variant->size), 0);
	VFIO_ASSERT_EQ(munmap(self->other_vaddr, variant->size), 0);
	VFIO_ASSERT_EQ(munmap(self->bar_vaddr, variant->size), 0);
	mmap_target_close(&self->dmabuf);
	mmap_target_close(&self->other);
	mmap_target_close(&self->bar);
	vfio_pci_device_close(self->device);
}

TEST_F(vfio_pci_dmabuf_revoke_huge_test, one_page)
{
	const size_t size = variant->size, step = size / 16;
	void *vaddr = map_huge(&self->dmabuf, size);
	size_t i;

	/* One page fault for all of it, so it is one page. */
	ASSERT_EQ(1, mmio_count_faults(self->vaddr, size, step));
	ASSERT_EQ(1, mmio_count_faults(self->other_vaddr, size, step));
	ASSERT_EQ(1, mmio_count_faults(self->bar_vaddr, size, step));
	ASSERT_EQ(1, mmio_count_faults(vaddr, size, step));
	ASSERT_EQ(self->moved, mremap(vaddr, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
				      self->moved));

	vfio_pci_dmabuf_revoke(self->device, self->dmabuf.fd);
	for (i = 0; i < size; i += step) {
		ASSERT_FALSE(mmio_try_touch(self->vaddr + i));
		ASSERT_EQ(self->vaddr + i, mmio_sigbus_addr());
		ASSERT_FALSE(mmio_try_touch(self->moved + i));
	}
	ASSERT_FALSE(mmio_try_touch(self->vaddr + size - sizeof(u32)));
	ASSERT_EQ(0, mmio_count_faults(self->other_vaddr, size, step));
	ASSERT_EQ(0, mmio_count_faults(self->bar_vaddr, size, step));
}

struct huge_child {
	void *vaddr;
	size_t size;
};

static int huge_main(int sock, void *arg)
{
	struct huge_child *child = arg;

	VFIO_ASSERT_TRUE(mmio_try_touch(child->vaddr + child->size / 2));
	client_sync(sock);
	client_sync(sock);
	VFIO_ASSERT_FALSE(mmio_try_touch(child->vaddr));
	VFIO_ASSERT_FALSE(mmio_try_touch(child->vaddr + child->size / 2));
	VFIO_ASSERT_FALSE(mmio_try_touch(child->vaddr + child->size - sizeof(u32)));
	return 0;
}

TEST_F(vfio_pci_dmabuf_revoke_huge_test, forked)
{
	struct huge_child child = { self->vaddr, variant->size };
	struct client client;

	ASSERT_EQ(1, mmio_count_faults(self->vaddr, child.size, child.size / 16));
	client = client_start(huge_main, &child);
	client_sync(client.sock);
	vfio_pci_dmabuf_revoke(self->device, self->dmabuf.fd);
	ASSERT_FALSE(mmio_try_touch(self->vaddr));
	client_sync(client.sock);
	ASSERT_EQ(0, client_wait(&client));
}

int main(int argc, char *argv[])
{
	char **bdfs;
	int nr_bdfs;

	bdfs = vfio_selftests_get_bdfs(&argc, argv, &nr_bdfs);
	device_bdf = bdfs[0];
	if (nr_bdfs > 1)
		other_bdf = bdfs[1];
	return test_harness_run(argc, argv);
}
