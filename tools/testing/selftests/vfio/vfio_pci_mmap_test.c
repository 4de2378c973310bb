// SPDX-License-Identifier: GPL-2.0-only
/*
 * What holds for any mapping of a device's memory, be it made through the
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
	struct iommu *iommu;
	struct vfio_pci_device *device;
	struct bar_source sources[MAX_BAR_SOURCES];
	size_t page_size;
};

FIXTURE_VARIANT(vfio_pci_mmap_test) {
	const char *iommu_mode;
	bool delegated;
};

/* A group and a cdev are opened in different ways. No more of the IOMMU counts. */
FIXTURE_VARIANT_ADD(vfio_pci_mmap_test, bar_group) {
	.iommu_mode = MODE_VFIO_TYPE1V2_IOMMU,
	.delegated = false,
};

FIXTURE_VARIANT_ADD(vfio_pci_mmap_test, bar_iommufd) {
	.iommu_mode = MODE_IOMMUFD,
	.delegated = false,
};

FIXTURE_VARIANT_ADD(vfio_pci_mmap_test, dmabuf_group) {
	.iommu_mode = MODE_VFIO_TYPE1V2_IOMMU,
	.delegated = true,
};

FIXTURE_VARIANT_ADD(vfio_pci_mmap_test, dmabuf_iommufd) {
	.iommu_mode = MODE_IOMMUFD,
	.delegated = true,
};

FIXTURE_SETUP(vfio_pci_mmap_test)
{
	const char *reason;

	self->page_size = getpagesize();
	self->iommu = iommu_init(variant->iommu_mode);
	self->device = vfio_pci_device_init(device_bdf, self->iommu);
	vfio_pci_bar_unmap_all(self->device);
	vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);

	reason = bar_sources_open(self->sources, self->device, variant->delegated);
	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_mmap_test)
{
	bar_sources_close(self->sources);
	vfio_pci_device_cleanup(self->device);
	iommu_cleanup(self->iommu);
}

TEST_F(vfio_pci_mmap_test, whole)
{
	struct bar_source *source;

	for (source = self->sources; source->size; source++) {
		void *vaddr = bar_source_mmap(source, 0, source->size);

		TH_LOG("BAR%d", source->bar);
		ASSERT_TRUE(source_try_write(source, vaddr, 0x12345678));
		ASSERT_TRUE(source_try_check(source, vaddr, 0x12345678));
		ASSERT_TRUE(source_try_write(source, vaddr, 0x87654321));
		ASSERT_TRUE(source_try_check(source, vaddr, 0x87654321));

		ASSERT_TRUE(mmio_try_touch(vaddr + source->size - self->page_size));
		ASSERT_EQ(0, munmap(vaddr, source->size));
	}
}

/* Each part is seen where it is, and nowhere else. */
TEST_F(vfio_pci_mmap_test, part)
{
	struct bar_source *source;

	if (bar_sources_largest(self->sources) < 2 * self->page_size)
		SKIP(return, "No BAR has 2 pages");

	for (source = self->sources; source->size; source++) {
		const u64 offsets[] = {
			0,
			self->page_size,
			source->size / 2,
			source->size - self->page_size,
		};
		void *whole, *part;
		u32 value;
		int i;

		if (source->size < 2 * self->page_size)
			continue;

		TH_LOG("BAR%d", source->bar);
		whole = bar_source_mmap(source, 0, source->size);
		for (i = 0; source->word.ram && i < ARRAY_SIZE(offsets); i++) {
			value = 0x50415254 + offsets[i];
			ASSERT_TRUE(source_try_write(source, whole + offsets[i], value));
		}
		ASSERT_TRUE(source_try_write(source, whole, 0x50415254));

		for (i = 0; i < ARRAY_SIZE(offsets); i++) {
			part = bar_source_mmap(source, offsets[i], self->page_size);
			ASSERT_TRUE(mmio_try_touch(part));
			if (source->word.ram) {
				value = 0x50415254 + offsets[i];
				ASSERT_TRUE(source_try_check(source, part, value));
				ASSERT_TRUE(source_try_write(source, part, i));
				ASSERT_TRUE(source_try_check(source, whole + offsets[i], i));
			} else if (source->word.mask) {
				ASSERT_EQ(!offsets[i], source_try_check(source, part, 0x50415254));
			}
			ASSERT_EQ(0, munmap(part, self->page_size));
		}
		ASSERT_EQ(0, munmap(whole, source->size));
	}
}

TEST_F(vfio_pci_mmap_test, beyond_the_end)
{
	struct bar_source *source;

	for (source = self->sources; source->size; source++) {
		TH_LOG("BAR%d", source->bar);
		ASSERT_EQ(MAP_FAILED, mmap(NULL, source->size + self->page_size, PROT_READ,
					   MAP_SHARED, source->fd, source->offset));
		ASSERT_EQ(EINVAL, errno);

		ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page_size, PROT_READ, MAP_SHARED,
					   source->fd, source->offset + source->size));
		ASSERT_EQ(EINVAL, errno);

		ASSERT_EQ(MAP_FAILED, mmap(NULL, 2 * self->page_size, PROT_READ, MAP_SHARED,
					   source->fd,
					   source->offset + source->size - self->page_size));
		ASSERT_EQ(EINVAL, errno);

		/* The last page that an offset can tell, where a sum could overflow */
		ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page_size, PROT_READ, MAP_SHARED,
					   source->fd, -self->page_size));
		ASSERT_TRUE(errno == EINVAL || errno == EOVERFLOW);
	}
}

TEST_F(vfio_pci_mmap_test, private)
{
	struct bar_source *source;

	for (source = self->sources; source->size; source++) {
		TH_LOG("BAR%d", source->bar);
		ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page_size, PROT_READ, MAP_PRIVATE,
					   source->fd, source->offset));
		ASSERT_EQ(EINVAL, errno);

		ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page_size, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE, source->fd, source->offset));
		ASSERT_EQ(EINVAL, errno);
	}
}

TEST_F(vfio_pci_mmap_test, twice)
{
	struct bar_source *source;

	for (source = self->sources; source->size; source++) {
		void *one = bar_source_mmap(source, 0, source->size);
		void *two = bar_source_mmap(source, 0, source->size);

		TH_LOG("BAR%d", source->bar);
		ASSERT_TRUE(source_try_write(source, one, 0x11111111));
		ASSERT_TRUE(source_try_check(source, two, 0x11111111));
		ASSERT_TRUE(source_try_write(source, two, 0x22222222));
		ASSERT_TRUE(source_try_check(source, one, 0x22222222));

		/* One does not need the other. */
		ASSERT_EQ(0, munmap(one, source->size));
		ASSERT_TRUE(source_try_check(source, two, 0x22222222));
		ASSERT_EQ(0, munmap(two, source->size));
	}
}

/* A BAR and a DMABUF of it are the same memory. */
TEST_F(vfio_pci_mmap_test, other_way)
{
	const char *reason = vfio_pci_no_dmabuf_mmap(self->device);
	struct bar_source *source, other;
	void *one, *two;

	if (reason)
		SKIP(return, "%s", reason);

	for (source = self->sources; source->size; source++) {
		/* Less than a page cannot be exported. */
		if (self->device->bars[source->bar].info.size < self->page_size)
			continue;

		TH_LOG("BAR%d", source->bar);
		ASSERT_EQ(NULL, bar_source_open(&other, self->device, source->bar,
						!source->delegated));

		one = bar_source_mmap(source, 0, source->size);
		two = bar_source_mmap(&other, 0, other.size);

		ASSERT_TRUE(source_try_write(source, one, 0x33333333));
		ASSERT_TRUE(source_try_check(source, two, 0x33333333));
		ASSERT_TRUE(source_try_write(source, two, 0x44444444));
		ASSERT_TRUE(source_try_check(source, one, 0x44444444));

		ASSERT_EQ(0, munmap(one, source->size));
		ASSERT_EQ(0, munmap(two, other.size));
		bar_source_close(&other);
	}
}

/* /proc/PID/maps has the offset that mmap() was given ... */
TEST_F(vfio_pci_mmap_test, offset_in_proc_maps)
{
	struct bar_source *source;

	for (source = self->sources; source->size; source++) {
		u64 offset = source->size - self->page_size;
		void *vaddr = bar_source_mmap(source, offset, self->page_size);
		char column[32];

		TH_LOG("BAR%d", source->bar);
		snprintf_assert(column, sizeof(column), " rw-s %08lx ", source->offset + offset);
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
	struct bar_source *source;
	char name[64];
	void *vaddr;

	if (reason)
		SKIP(return, "%s", reason);

	for (source = self->sources; source->size; source++) {
		TH_LOG("BAR%d", source->bar);
		vaddr = bar_source_mmap(source, 0, source->size);
		if (source->delegated)
			snprintf_assert(name, sizeof(name), "/dmabuf:");
		else
			snprintf_assert(name, sizeof(name), "vfio:%s/BAR%d", device_bdf,
					source->bar);
		ASSERT_TRUE(proc_maps_has(vaddr, name));
		ASSERT_EQ(0, munmap(vaddr, source->size));
	}
}

/* A child has the access, and a loss takes it from both. */
static int forked(int sock, void *arg)
{
	void **args = arg;
	struct bar_source *source = args[0];
	void *vaddr = args[1];

	vaddr += source->word.offset;

	VFIO_ASSERT_TRUE(bar_word_try_check(&source->word, vaddr, 0x55555555));
	VFIO_ASSERT_TRUE(bar_word_try_write(&source->word, vaddr, 0x66666666));
	meet(sock);
	meet(sock);
	VFIO_ASSERT_FALSE(mmio_try_touch(vaddr));
	meet(sock);
	meet(sock);
	VFIO_ASSERT_TRUE(mmio_try_touch(vaddr));
	return 0;
}

TEST_F(vfio_pci_mmap_test, fork)
{
	struct bar_source *source;

	for (source = self->sources; source->size; source++) {
		void *vaddr = bar_source_mmap(source, 0, source->size);
		void *args[] = { source, vaddr };
		struct client child;

		TH_LOG("BAR%d", source->bar);
		ASSERT_TRUE(source_try_write(source, vaddr, 0x55555555));

		child = client_start(forked, args);
		meet(child.sock);
		ASSERT_TRUE(source_try_check(source, vaddr, 0x66666666));

		vfio_pci_cmd_clear(self->device, PCI_COMMAND_MEMORY);
		meet(child.sock);
		ASSERT_FALSE(mmio_try_touch(vaddr));
		meet(child.sock);

		vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);
		meet(child.sock);
		ASSERT_TRUE(mmio_try_touch(vaddr));

		ASSERT_EQ(0, client_wait(&child));
		ASSERT_TRUE(mmio_try_touch(vaddr));
		ASSERT_EQ(0, munmap(vaddr, source->size));
	}
}

TEST_F(vfio_pci_mmap_test, mremap_moves)
{
	struct bar_source *source;

	for (source = self->sources; source->size; source++) {
		void *from = bar_source_mmap(source, 0, source->size);
		void *to = mmap_reserve(source->size, self->page_size, 0);

		TH_LOG("BAR%d", source->bar);
		ASSERT_TRUE(source_try_write(source, from, 0x77777777));
		ASSERT_EQ(to, mremap(from, source->size, source->size,
				     MREMAP_MAYMOVE | MREMAP_FIXED, to));
		ASSERT_TRUE(source_try_check(source, to, 0x77777777));
		ASSERT_EQ(-1, msync(from, source->size, MS_ASYNC));
		ASSERT_EQ(ENOMEM, errno);

		/* Not a way to map more */
		ASSERT_EQ(MAP_FAILED, mremap(to, source->size,
					     source->size + self->page_size, MREMAP_MAYMOVE));
		ASSERT_EQ(EFAULT, errno);
		ASSERT_EQ(MAP_FAILED, mremap(to, 0, source->size, MREMAP_MAYMOVE));

		/* It is found there, too. */
		vfio_pci_cmd_clear(self->device, PCI_COMMAND_MEMORY);
		ASSERT_FALSE(mmio_try_touch(to));
		vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);
		ASSERT_TRUE(mmio_try_touch(to));
		ASSERT_EQ(0, munmap(to, source->size));
	}
}

TEST_F(vfio_pci_mmap_test, madvise)
{
	struct bar_source *source;

	for (source = self->sources; source->size; source++) {
		static const int refused[] = {
			MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE, MADV_WIPEONFORK,
			MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
		};
		void *vaddr = bar_source_mmap(source, 0, source->size);
		int i;

		TH_LOG("BAR%d", source->bar);
		ASSERT_TRUE(source_try_write(source, vaddr, 0x0badcafe));
		for (i = 0; i < ARRAY_SIZE(refused); i++) {
			ASSERT_EQ(-1, madvise(vaddr, self->page_size, refused[i]))
				TH_LOG("madvise %d", refused[i]);
			ASSERT_EQ(EINVAL, errno);
		}
		ASSERT_TRUE(source_try_check(source, vaddr, 0x0badcafe));

		ASSERT_EQ(0, madvise(vaddr, self->page_size, MADV_DONTFORK));
		ASSERT_TRUE(source_try_check(source, vaddr, 0x0badcafe));
		ASSERT_EQ(0, munmap(vaddr, source->size));
	}
}

TEST_F(vfio_pci_mmap_test, mprotect)
{
	struct bar_source *source;

	for (source = self->sources; source->size; source++) {
		void *vaddr = bar_source_mmap(source, 0, source->size);
		u32 value = 0;
		int pipes[2];

		TH_LOG("BAR%d", source->bar);
		ASSERT_EQ(0, pipe(pipes));
		ASSERT_EQ(sizeof(value), write(pipes[1], &value, sizeof(value)));
		ASSERT_TRUE(source_try_write(source, vaddr, 0x12121212));

		ASSERT_EQ(0, mprotect(vaddr, self->page_size, PROT_READ));
		ASSERT_TRUE(source_try_check(source, vaddr, 0x12121212));
		ASSERT_EQ(-1, read(pipes[0], vaddr, sizeof(value)));
		ASSERT_EQ(EFAULT, errno);

		ASSERT_EQ(0, mprotect(vaddr, self->page_size, PROT_NONE));
		ASSERT_EQ(-1, write(pipes[1], vaddr, sizeof(value)));
		ASSERT_EQ(EFAULT, errno);

		ASSERT_EQ(0, mprotect(vaddr, self->page_size, PROT_READ | PROT_WRITE));
		ASSERT_TRUE(source_try_check(source, vaddr, 0x12121212));
		ASSERT_TRUE(source_try_write(source, vaddr, 0x21212121));
		ASSERT_TRUE(source_try_check(source, vaddr, 0x21212121));

		ASSERT_EQ(0, close(pipes[0]));
		ASSERT_EQ(0, close(pipes[1]));
		ASSERT_EQ(0, munmap(vaddr, source->size));
	}
}

TEST_F(vfio_pci_mmap_test, partial_munmap)
{
	struct bar_source *source;

	if (bar_sources_largest(self->sources) < 3 * self->page_size)
		SKIP(return, "No BAR has 3 pages");

	for (source = self->sources; source->size; source++) {
		size_t page_size = self->page_size;
		size_t last = source->size - page_size;
		void *vaddr;

		if (source->size < 3 * self->page_size)
			continue;

		TH_LOG("BAR%d", source->bar);
		vaddr = bar_source_mmap(source, 0, source->size);
		ASSERT_TRUE(source_try_write(source, vaddr, 0x34343434));
		ASSERT_TRUE(mmio_try_touch(vaddr + page_size));
		ASSERT_TRUE(mmio_try_touch(vaddr + last));

		/* A hole, and then the other end of the first part */
		ASSERT_EQ(0, munmap(vaddr + page_size, page_size));
		ASSERT_TRUE(source_try_check(source, vaddr, 0x34343434));
		ASSERT_TRUE(mmio_try_touch(vaddr + last));

		vfio_pci_cmd_clear(self->device, PCI_COMMAND_MEMORY);
		ASSERT_FALSE(mmio_try_touch(vaddr));
		ASSERT_FALSE(mmio_try_touch(vaddr + last));
		vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);

		ASSERT_TRUE(source_try_write(source, vaddr, 0x43434343));
		if (source->word.ram)
			ASSERT_TRUE(source_try_write(source, vaddr + last, 0x56565656));
		ASSERT_EQ(0, munmap(vaddr, page_size));
		ASSERT_TRUE(mmio_try_touch(vaddr + last));
		if (source->word.ram)
			ASSERT_TRUE(source_try_check(source, vaddr + last, 0x56565656));
		ASSERT_EQ(0, munmap(vaddr, source->size));
	}
}

/* These are no pages that somebody else could hold on to. */
TEST_F(vfio_pci_mmap_test, no_pages)
{
	struct bar_source *source;

	for (source = self->sources; source->size; source++) {
		void *vaddr = bar_source_mmap(source, 0, source->size);
		struct iovec iov = {
			.iov_base = vaddr,
			.iov_len = self->page_size,
		};
		int pipes[2];

		TH_LOG("BAR%d", source->bar);
		ASSERT_TRUE(mmio_try_touch(vaddr));
		ASSERT_EQ(0, pipe(pipes));
		ASSERT_EQ(-1, vmsplice(pipes[1], &iov, 1, 0));
		ASSERT_EQ(EFAULT, errno);

		ASSERT_EQ(0, close(pipes[0]));
		ASSERT_EQ(0, close(pipes[1]));
		ASSERT_EQ(0, munmap(vaddr, source->size));
	}
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
