// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>

#include <libvfio.h>

#define DRIVER		"vfio-pci"

/* Enough for what the tests do with it */
#define MIN_PAGES	32

const char *memattr_open(struct memattr_test *test, const char *bdf)
{
	const char *reason = memory_types_hidden();

	if (reason)
		return reason;

	test->bdf = bdf;
	test->page_size = getpagesize();
	/* A test that unbinds the driver may have died before it binds it. */
	sysfs_driver_restore(DRIVER, bdf);
	test->types = memory_type_list();
	test->device = vfio_pci_device_open(bdf, default_iommu_mode);
	return vfio_pci_no_dmabuf_attr(test->device);
}

const char *memattr_open_wc(struct memattr_test *test, const char *bdf)
{
	const char *reason = memattr_open(test, bdf), *why_not;
	int bar;

	if (reason)
		return reason;

	reason = "The device has no BAR";
	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {
		struct vfio_region_info *info = &test->device->bars[bar].info;

		if (!info->size)
			continue;
		why_not = vfio_pci_bar_no_dmabuf_wc(test->device, bar);
		if (why_not) {
			reason = why_not;
		} else if (info->size > test->size) {
			test->bar = bar;
			test->size = info->size;
			test->offset = info->offset;
		}
	}
	if (!test->size)
		return reason;

	test->phys = sysfs_bar_resource(bdf, test->bar).start;
	test->scratch = vfio_pci_bar_scratch(test->device, test->bar);
	return test->size < MIN_PAGES * test->page_size ? "The BAR is too small" : NULL;
}

void memattr_close(struct memattr_test *test)
{
	if (test->client.pid)
		client_kill(&test->client);
	if (test->device)
		vfio_pci_device_close(test->device);
	sysfs_driver_restore(DRIVER, test->bdf);

	expect_memory_types(test->types);
	free(test->types);
}

int memattr_export_bar(struct memattr_test *test, int bar, u32 flags, u64 offset, u64 length)
{
	struct vfio_region_dma_range range = {
		.offset = offset,
		.length = length,
	};

	return __vfio_pci_dmabuf_export_flags(test->device, bar, O_RDWR | O_CLOEXEC, flags,
					      &range, 1);
}

int memattr_export_ranges(struct memattr_test *test, u32 flags,
			  const struct vfio_region_dma_range *ranges, u32 nr_ranges)
{
	return __vfio_pci_dmabuf_export_flags(test->device, test->bar, O_RDWR | O_CLOEXEC, flags,
					      ranges, nr_ranges);
}

int memattr_try_export(struct memattr_test *test, u32 flags, u64 offset, u64 length)
{
	int fd = memattr_export_bar(test, test->bar, flags, offset, length);

	if (fd < 0)
		return fd;
	VFIO_ASSERT_EQ(close(fd), 0);
	return 0;
}

int memattr_try_map_bar(struct memattr_test *test, u64 offset, size_t size)
{
	void *vaddr;

	vaddr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, test->device->fd,
		     test->offset + offset);
	if (vaddr == MAP_FAILED)
		return -errno;
	VFIO_ASSERT_EQ(munmap(vaddr, size), 0);
	return 0;
}

void *memattr_map(int fd, u64 offset, size_t size)
{
	void *vaddr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);

	VFIO_ASSERT_NE(vaddr, MAP_FAILED);
	return vaddr;
}

void *memattr_map_bar(struct memattr_test *test, u64 offset, size_t size)
{
	return memattr_map(test->device->fd, test->offset + offset, size);
}

int memattr_hold(struct memattr_test *test, struct memattr_holder *holder,
		 enum memattr_type type, u64 offset, size_t size)
{
	int fd = -1;

	if (type == MEMATTR_UC)
		fd = memattr_export_uc(test, offset, size);
	if (type == MEMATTR_WC)
		fd = memattr_export_wc(test, offset, size);
	if (type != MEMATTR_BAR && fd < 0)
		return fd;

	holder->type = type;
	holder->fd = fd;
	holder->size = size;
	if (type == MEMATTR_BAR) {
		holder->vaddr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
				     test->device->fd, test->offset + offset);
		if (holder->vaddr == MAP_FAILED)
			return -errno;
	} else {
		holder->vaddr = memattr_map(fd, 0, size);
	}

	VFIO_ASSERT_TRUE(mmio_try_touch(holder->vaddr));
	VFIO_ASSERT_TRUE(mmio_try_touch(holder->vaddr + size - sizeof(u32)));
	return 0;
}

void memattr_let_go(struct memattr_holder *holder)
{
	if (holder->fd >= 0)
		VFIO_ASSERT_EQ(close(holder->fd), 0);
	VFIO_ASSERT_EQ(munmap(holder->vaddr, holder->size), 0);
}

int memattr_nr_types(struct memattr_test *test, const char *type)
{
	return memory_type_count(test->phys, test->phys + test->size, type);
}

int memattr_nr_exact(struct memattr_test *test, u64 offset, u64 size, const char *type)
{
	return memory_type_count_exact(test->phys + offset, test->phys + offset + size, type);
}

void expect_memory_types(const char *before)
{
	char *types = memory_type_list();

	VFIO_ASSERT_FALSE(strcmp(before, types), "%s\nwas expected, and there is\n%s\n", before,
			  types);
	free(types);
}

void expect_cache_mode(const void *vaddr, enum cache_mode cache, size_t size)
{
	struct page_table_entry entry;

	if (!memory_types_shown())
		return;

	VFIO_ASSERT_EQ(page_table_entry_read(vaddr, &entry), 0);
	VFIO_ASSERT_NE(entry.size, 0);
	if (size)
		VFIO_ASSERT_EQ(entry.size, size);
	VFIO_ASSERT_EQ(entry.cache, cache);
}

void expect_write_combining(const void *vaddr)
{
	expect_cache_mode(vaddr, CACHE_WRITE_COMBINING, 0);
}

void expect_uncached(const void *vaddr)
{
	expect_cache_mode(vaddr, CACHE_UNCACHED_MINUS, 0);
}

static void expect_no_wc(struct memattr_test *test, u64 offset, size_t size)
{
	const u64 start = test->phys + offset;

	VFIO_ASSERT_EQ(memory_type_count(start, start + size, TYPE_WRITE_COMBINING), 0);
}

void memattr_expect_free(struct memattr_test *test, u64 offset, size_t size)
{
	expect_no_wc(test, offset, size);
	VFIO_ASSERT_EQ(memattr_try_map_bar(test, offset, size), 0);
	VFIO_ASSERT_EQ(memattr_try_export(test, ATTR_UC, offset, size), 0);
	VFIO_ASSERT_EQ(memattr_try_export(test, ATTR_WC, offset, size), 0);
	expect_no_wc(test, offset, size);
}

void memattr_expect_taken(struct memattr_test *test, u64 offset, size_t size)
{
	VFIO_ASSERT_EQ(memattr_try_map_bar(test, offset, size), -EBUSY);
	VFIO_ASSERT_EQ(memattr_try_export(test, ATTR_UC, offset, size), -EBUSY);
}
