// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is true of any mapping of a device's memory, be it made through the
 * device's fd or through a DMABUF that was exported from it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <linux/mman.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

static const char *device_bdf;

FIXTURE(vfio_pci_mmap_test) {
	struct vfio_pci_device *device;
	struct mmap_target targets[MAX_MMAP_TARGETS];
	size_t page_size;
};

FIXTURE_VARIANT(vfio_pci_mmap_test) {
	const char *iommu_mode;
	bool dmabuf;
};

/* How the device is opened, and what is mapped */
#define VARIANT(_variant) FIXTURE_VARIANT_ADD(vfio_pci_mmap_test, _variant)

VARIANT(bar_group) { MODE_VFIO_TYPE1V2_IOMMU, false };
VARIANT(bar_iommufd) { MODE_IOMMUFD, false };
VARIANT(dmabuf_group) { MODE_VFIO_TYPE1V2_IOMMU, true };
VARIANT(dmabuf_iommufd) { MODE_IOMMUFD, true };

FIXTURE_SETUP(vfio_pci_mmap_test)
{
	const char *reason;

	self->page_size = getpagesize();
	self->device = vfio_pci_device_open(device_bdf, variant->iommu_mode);

	reason = mmap_targets_open(self->targets, self->device, variant->dmabuf);
	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_mmap_test)
{
	mmap_targets_close(self->targets);
	vfio_pci_device_close(self->device);
}

TEST_F(vfio_pci_mmap_test, full_bar)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		void *vaddr = mmap_target_map(target, 0, target->size);

		TH_LOG("BAR%d", target->bar);
		ASSERT_TRUE(target_try_write(target, vaddr, 0x12345678));
		ASSERT_TRUE(target_try_check(target, vaddr, 0x12345678));
		ASSERT_TRUE(target_try_write(target, vaddr, 0x87654321));
		ASSERT_TRUE(target_try_check(target, vaddr, 0x87654321));

		ASSERT_TRUE(mmio_try_touch(vaddr + target->size - self->page_size));
		ASSERT_EQ(0, munmap(vaddr, target->size));
	}
}

/* Each part is seen where it is, and nowhere else. */
TEST_F(vfio_pci_mmap_test, sub_range)
{
	struct mmap_target *target;

	if (mmap_targets_max_size(self->targets) < 2 * self->page_size)
		SKIP(return, "No BAR has 2 pages");

	for (target = self->targets; target->size; target++) {
		const u64 offsets[] = {
			0,
			self->page_size,
			target->size / 2,
			target->size - self->page_size,
		};
		void *whole, *part;
		u32 value;
		int i;

		if (target->size < 2 * self->page_size)
			continue;

		TH_LOG("BAR%d", target->bar);
		whole = mmap_target_map(target, 0, target->size);
		for (i = 0; target->scratch.ram && i < ARRAY_SIZE(offsets); i++) {
			value = 0x50415254 + offsets[i];
			ASSERT_TRUE(target_try_write(target, whole + offsets[i], value));
		}
		ASSERT_TRUE(target_try_write(target, whole, 0x50415254));

		for (i = 0; i < ARRAY_SIZE(offsets); i++) {
			part = mmap_target_map(target, offsets[i], self->page_size);
			ASSERT_TRUE(mmio_try_touch(part));
			if (target->scratch.ram) {
				value = 0x50415254 + offsets[i];
				ASSERT_TRUE(target_try_check(target, part, value));
				ASSERT_TRUE(target_try_write(target, part, i));
				ASSERT_TRUE(target_try_check(target, whole + offsets[i], i));
			} else if (target->scratch.mask) {
				ASSERT_EQ(!offsets[i], target_try_check(target, part, 0x50415254));
			}
			ASSERT_EQ(0, munmap(part, self->page_size));
		}
		ASSERT_EQ(0, munmap(whole, target->size));
	}
}

TEST_F(vfio_pci_mmap_test, beyond_the_end)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		TH_LOG("BAR%d", target->bar);
		ASSERT_EQ(MAP_FAILED, mmap(NULL, target->size + self->page_size, PROT_READ,
					   MAP_SHARED, target->fd, target->offset));
		ASSERT_EQ(EINVAL, errno);

		ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page_size, PROT_READ, MAP_SHARED,
					   target->fd, target->offset + target->size));
		ASSERT_EQ(EINVAL, errno);

		ASSERT_EQ(MAP_FAILED, mmap(NULL, 2 * self->page_size, PROT_READ, MAP_SHARED,
					   target->fd,
					   target->offset + target->size - self->page_size));
		ASSERT_EQ(EINVAL, errno);

		/* The last offset that the kernel asks the file about */
		ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page_size, PROT_READ, MAP_SHARED,
					   target->fd, -2 * self->page_size));
		ASSERT_EQ(EINVAL, errno);

		/* Behind that the offset of the end of the mapping overflows. */
		ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page_size, PROT_READ, MAP_SHARED,
					   target->fd, -self->page_size));
		ASSERT_EQ(EOVERFLOW, errno);
		ASSERT_EQ(MAP_FAILED, mmap(NULL, 2 * self->page_size, PROT_READ, MAP_SHARED,
					   target->fd, -2 * self->page_size));
		ASSERT_EQ(EOVERFLOW, errno);
	}
}

TEST_F(vfio_pci_mmap_test, private)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		TH_LOG("BAR%d", target->bar);
		ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page_size, PROT_READ, MAP_PRIVATE,
					   target->fd, target->offset));
		ASSERT_EQ(EINVAL, errno);

		ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page_size, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE, target->fd, target->offset));
		ASSERT_EQ(EINVAL, errno);
	}
}

TEST_F(vfio_pci_mmap_test, two_mappings_alias)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		void *one = mmap_target_map(target, 0, target->size);
		void *two = mmap_target_map(target, 0, target->size);

		TH_LOG("BAR%d", target->bar);
		ASSERT_TRUE(target_try_write(target, one, 0x11111111));
		ASSERT_TRUE(target_try_check(target, two, 0x11111111));
		ASSERT_TRUE(target_try_write(target, two, 0x22222222));
		ASSERT_TRUE(target_try_check(target, one, 0x22222222));

		/* One does not need the other. */
		ASSERT_EQ(0, munmap(one, target->size));
		ASSERT_TRUE(target_try_check(target, two, 0x22222222));
		ASSERT_EQ(0, munmap(two, target->size));
	}
}

TEST_F(vfio_pci_mmap_test, bar_aliases_dmabuf)
{
	const char *reason = vfio_pci_no_dmabuf_mmap(self->device);
	struct mmap_target *target, other;
	void *one, *two;

	if (reason)
		SKIP(return, "%s", reason);

	for (target = self->targets; target->size; target++) {
		/* Less than a page cannot be exported. */
		if (self->device->bars[target->bar].info.size < self->page_size)
			continue;

		TH_LOG("BAR%d", target->bar);
		ASSERT_EQ(NULL, mmap_target_open(&other, self->device, target->bar,
						 !target->dmabuf));

		one = mmap_target_map(target, 0, target->size);
		two = mmap_target_map(&other, 0, other.size);

		ASSERT_TRUE(target_try_write(target, one, 0x33333333));
		ASSERT_TRUE(target_try_check(target, two, 0x33333333));
		ASSERT_TRUE(target_try_write(target, two, 0x44444444));
		ASSERT_TRUE(target_try_check(target, one, 0x44444444));

		ASSERT_EQ(0, munmap(one, target->size));
		ASSERT_EQ(0, munmap(two, other.size));
		mmap_target_close(&other);
	}
}

/* /proc/PID/maps has the offset that mmap() was given ... */
TEST_F(vfio_pci_mmap_test, offset_in_proc_maps)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		u64 offset = target->size - self->page_size;
		void *vaddr = mmap_target_map(target, offset, self->page_size);
		char column[32];

		TH_LOG("BAR%d", target->bar);
		snprintf_assert(column, sizeof(column), " rw-s %08lx ", target->offset + offset);
		ASSERT_TRUE(proc_maps_has(vaddr, column));

		/* The VMA is the same one after it was touched. */
		ASSERT_TRUE(mmio_try_touch(vaddr));
		ASSERT_TRUE(proc_maps_has(vaddr, column));
		ASSERT_EQ(0, munmap(vaddr, self->page_size));
	}
}

/* ... and the name of the device and the BAR. */
TEST_F(vfio_pci_mmap_test, name_in_proc_maps)
{
	const char *reason = vfio_pci_no_dmabuf_mmap(self->device);
	struct mmap_target *target;
	char name[64];
	void *vaddr;

	if (reason)
		SKIP(return, "%s", reason);

	for (target = self->targets; target->size; target++) {
		TH_LOG("BAR%d", target->bar);
		vaddr = mmap_target_map(target, 0, target->size);
		snprintf_assert(name, sizeof(name), " /dmabuf:vfio:%s/BAR%d\n", device_bdf,
				target->bar);
		ASSERT_TRUE(proc_maps_has(vaddr, name));
		ASSERT_EQ(0, munmap(vaddr, target->size));
	}
}

/* A child has the access, and loses it when its parent does. */
static int forked(int sock, void *arg)
{
	void **args = arg;
	struct mmap_target *target = args[0];
	void *vaddr = args[1];

	vaddr += target->scratch.offset;

	VFIO_ASSERT_TRUE(scratch_try_check(&target->scratch, vaddr, 0x55555555));
	VFIO_ASSERT_TRUE(scratch_try_write(&target->scratch, vaddr, 0x66666666));
	client_sync(sock);
	client_sync(sock);
	VFIO_ASSERT_FALSE(mmio_try_touch(vaddr));
	client_sync(sock);
	client_sync(sock);
	VFIO_ASSERT_TRUE(mmio_try_touch(vaddr));
	return 0;
}

TEST_F(vfio_pci_mmap_test, fork)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		void *vaddr = mmap_target_map(target, 0, target->size);
		void *args[] = { target, vaddr };
		struct client child;

		TH_LOG("BAR%d", target->bar);
		ASSERT_TRUE(target_try_write(target, vaddr, 0x55555555));

		child = client_start(forked, args);
		client_sync(child.sock);
		ASSERT_TRUE(target_try_check(target, vaddr, 0x66666666));

		vfio_pci_cmd_clear(self->device, PCI_COMMAND_MEMORY);
		client_sync(child.sock);
		ASSERT_FALSE(mmio_try_touch(vaddr));
		client_sync(child.sock);

		vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);
		client_sync(child.sock);
		ASSERT_TRUE(mmio_try_touch(vaddr));

		ASSERT_EQ(0, client_wait(&child));
		ASSERT_TRUE(mmio_try_touch(vaddr));
		ASSERT_EQ(0, munmap(vaddr, target->size));
	}
}

TEST_F(vfio_pci_mmap_test, mremap_moves)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		void *from = mmap_target_map(target, 0, target->size);
		void *to = mmap_reserve(target->size, self->page_size, 0);

		TH_LOG("BAR%d", target->bar);
		ASSERT_TRUE(target_try_write(target, from, 0x77777777));
		ASSERT_EQ(to, mremap(from, target->size, target->size,
				     MREMAP_MAYMOVE | MREMAP_FIXED, to));
		ASSERT_TRUE(target_try_check(target, to, 0x77777777));
		ASSERT_EQ(-1, msync(from, target->size, MS_ASYNC));
		ASSERT_EQ(ENOMEM, errno);

		/* Not a way to map more */
		ASSERT_EQ(MAP_FAILED, mremap(to, target->size,
					     target->size + self->page_size, MREMAP_MAYMOVE));
		ASSERT_EQ(EFAULT, errno);
		ASSERT_EQ(MAP_FAILED, mremap(to, 0, target->size, MREMAP_MAYMOVE));

		/* It is found there, too. */
		vfio_pci_cmd_clear(self->device, PCI_COMMAND_MEMORY);
		ASSERT_FALSE(mmio_try_touch(to));
		vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);
		ASSERT_TRUE(mmio_try_touch(to));
		ASSERT_EQ(0, munmap(to, target->size));
	}
}

/*
 * remap_file_pages() maps the file of the VMA once more, here the first page of it
 * over the second one. The file of a BAR's VMA is a DMABUF that was made for this
 * mapping and cannot be mapped again: it fails when the range is unmapped already.
 */
TEST_F(vfio_pci_mmap_test, remap_file_pages)
{
	const char *reason = vfio_pci_no_dmabuf_mmap(self->device);
	const size_t page_size = self->page_size;
	struct mmap_target *target;

	if (reason)
		SKIP(return, "%s", reason);
	if (mmap_targets_max_size(self->targets) < 3 * page_size)
		SKIP(return, "No BAR has 3 pages");

	for (target = self->targets; target->size; target++) {
		void *vaddr, *second;

		if (target->size < 3 * page_size)
			continue;

		TH_LOG("BAR%d", target->bar);
		vaddr = mmap_target_map(target, 0, 3 * page_size);
		second = vaddr + page_size;
		ASSERT_TRUE(target_try_write(target, vaddr, 0x9a9e9a9e));
		ASSERT_TRUE(mmio_try_touch(second));

		if (target->dmabuf) {
			ASSERT_EQ(0, remap_file_pages(second, page_size, 0, 0, 0));
			ASSERT_TRUE(target_try_check(target, second, 0x9a9e9a9e));
			ASSERT_TRUE(target_try_write(target, second, 0x65616561));
			ASSERT_TRUE(target_try_check(target, vaddr, 0x65616561));
		} else {
			ASSERT_EQ(-1, remap_file_pages(second, page_size, 0,
						       target->offset / page_size, 0));
			ASSERT_TRUE(errno == EINVAL || errno == EOPNOTSUPP);
			ASSERT_EQ(-1, msync(second, page_size, MS_ASYNC));
			ASSERT_EQ(ENOMEM, errno);
			ASSERT_TRUE(target_try_check(target, vaddr, 0x9a9e9a9e));
		}
		ASSERT_TRUE(mmio_try_touch(vaddr + 2 * page_size));
		ASSERT_EQ(0, munmap(vaddr, 3 * page_size));
	}
}

TEST_F(vfio_pci_mmap_test, madvise)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		static const int refused[] = {
			MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE, MADV_WIPEONFORK,
			MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
		};
		void *vaddr = mmap_target_map(target, 0, target->size);
		int i;

		TH_LOG("BAR%d", target->bar);
		ASSERT_TRUE(target_try_write(target, vaddr, 0x0badcafe));
		for (i = 0; i < ARRAY_SIZE(refused); i++) {
			ASSERT_EQ(-1, madvise(vaddr, self->page_size, refused[i]))
				TH_LOG("madvise %d", refused[i]);
			ASSERT_EQ(EINVAL, errno);
		}
		ASSERT_TRUE(target_try_check(target, vaddr, 0x0badcafe));

		ASSERT_EQ(0, madvise(vaddr, self->page_size, MADV_DONTFORK));
		ASSERT_TRUE(target_try_check(target, vaddr, 0x0badcafe));
		ASSERT_EQ(0, munmap(vaddr, target->size));
	}
}

TEST_F(vfio_pci_mmap_test, mprotect)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		void *vaddr = mmap_target_map(target, 0, target->size);
		u32 value = 0;
		int pipes[2];

		TH_LOG("BAR%d", target->bar);
		ASSERT_EQ(0, pipe(pipes));
		ASSERT_EQ(sizeof(value), write(pipes[1], &value, sizeof(value)));
		ASSERT_TRUE(target_try_write(target, vaddr, 0x12121212));

		ASSERT_EQ(0, mprotect(vaddr, self->page_size, PROT_READ));
		ASSERT_TRUE(target_try_check(target, vaddr, 0x12121212));
		ASSERT_EQ(-1, read(pipes[0], vaddr, sizeof(value)));
		ASSERT_EQ(EFAULT, errno);

		ASSERT_EQ(0, mprotect(vaddr, self->page_size, PROT_NONE));
		ASSERT_EQ(-1, write(pipes[1], vaddr, sizeof(value)));
		ASSERT_EQ(EFAULT, errno);

		ASSERT_EQ(0, mprotect(vaddr, self->page_size, PROT_READ | PROT_WRITE));
		ASSERT_TRUE(target_try_check(target, vaddr, 0x12121212));
		ASSERT_TRUE(target_try_write(target, vaddr, 0x21212121));
		ASSERT_TRUE(target_try_check(target, vaddr, 0x21212121));

		ASSERT_EQ(0, close(pipes[0]));
		ASSERT_EQ(0, close(pipes[1]));
		ASSERT_EQ(0, munmap(vaddr, target->size));
	}
}

TEST_F(vfio_pci_mmap_test, partial_munmap)
{
	struct mmap_target *target;

	if (mmap_targets_max_size(self->targets) < 3 * self->page_size)
		SKIP(return, "No BAR has 3 pages");

	for (target = self->targets; target->size; target++) {
		size_t page_size = self->page_size;
		size_t last = target->size - page_size;
		void *vaddr;

		if (target->size < 3 * self->page_size)
			continue;

		TH_LOG("BAR%d", target->bar);
		vaddr = mmap_target_map(target, 0, target->size);
		ASSERT_TRUE(target_try_write(target, vaddr, 0x34343434));
		ASSERT_TRUE(mmio_try_touch(vaddr + page_size));
		ASSERT_TRUE(mmio_try_touch(vaddr + last));

		/* A hole, and then the other end of the first part */
		ASSERT_EQ(0, munmap(vaddr + page_size, page_size));
		ASSERT_TRUE(target_try_check(target, vaddr, 0x34343434));
		ASSERT_TRUE(mmio_try_touch(vaddr + last));

		vfio_pci_cmd_clear(self->device, PCI_COMMAND_MEMORY);
		ASSERT_FALSE(mmio_try_touch(vaddr));
		ASSERT_FALSE(mmio_try_touch(vaddr + last));
		vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);

		ASSERT_TRUE(target_try_write(target, vaddr, 0x43434343));
		if (target->scratch.ram)
			ASSERT_TRUE(target_try_write(target, vaddr + last, 0x56565656));
		ASSERT_EQ(0, munmap(vaddr, page_size));
		ASSERT_TRUE(mmio_try_touch(vaddr + last));
		if (target->scratch.ram)
			ASSERT_TRUE(target_try_check(target, vaddr + last, 0x56565656));
		ASSERT_EQ(0, munmap(vaddr, target->size));
	}
}

/* These are no pages that somebody else could hold on to. */
TEST_F(vfio_pci_mmap_test, cannot_be_pinned)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		void *vaddr = mmap_target_map(target, 0, target->size);
		struct iovec iov = {
			.iov_base = vaddr,
			.iov_len = self->page_size,
		};
		int pipes[2];

		TH_LOG("BAR%d", target->bar);
		ASSERT_TRUE(mmio_try_touch(vaddr));
		ASSERT_EQ(0, pipe(pipes));
		ASSERT_EQ(-1, vmsplice(pipes[1], &iov, 1, 0));
		ASSERT_EQ(EFAULT, errno);

		ASSERT_EQ(0, close(pipes[0]));
		ASSERT_EQ(0, close(pipes[1]));
		ASSERT_EQ(0, munmap(vaddr, target->size));
	}
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
