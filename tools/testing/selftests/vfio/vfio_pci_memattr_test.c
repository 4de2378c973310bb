// SPDX-License-Identifier: GPL-2.0-only
/*
 * The memory attribute of a DMABUF is what its pages are mapped with, or the export
 * fails: a page has one memory type at a time, in every mapping, and an attempt to
 * give it another one leaves nothing behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <linux/align.h>
#include <linux/iommufd.h>
#include <linux/kernel.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define ATTR_SHIFT	28

/* How many ranges a DMABUF may need, of which each is a page */
#define MANY_RANGES	4096

/* How many of a device may be write-combined at a time */
#define MAX_WC_RANGES	8192

static const char *device_bdf;

/* What the UAPI promises, on any device */
FIXTURE(vfio_pci_memattr_uapi_test) {
	struct memattr_test test;
};

FIXTURE_SETUP(vfio_pci_memattr_uapi_test)
{
	const char *reason = memattr_open(&self->test, device_bdf);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_memattr_uapi_test)
{
	memattr_close(&self->test);
}

/* Whether a BAR can be exported at all */
static bool can_export(struct memattr_test *test, int bar)
{
	struct vfio_region_info *info = &test->device->bars[bar].info;

	return info->flags & VFIO_REGION_INFO_FLAG_MMAP && IS_ALIGNED(info->size, test->page_size);
}

/* The pages with the MSI-X table. Returns false if there is none. */
static bool find_msix_table(struct memattr_test *test, int *bar, u64 *start, u64 *end)
{
	u8 pos = vfio_pci_find_capability(test->device, PCI_CAP_ID_MSIX);
	u32 table, nr;

	if (!pos)
		return false;

	table = vfio_pci_config_readl(test->device, pos + PCI_MSIX_TABLE);
	nr = (vfio_pci_config_readw(test->device, pos + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE) + 1;
	*bar = table & PCI_MSIX_TABLE_BIR;
	*start = ALIGN_DOWN(table & PCI_MSIX_TABLE_OFFSET, test->page_size);
	*end = ALIGN((table & PCI_MSIX_TABLE_OFFSET) + nr * PCI_MSIX_ENTRY_SIZE, test->page_size);
	return can_export(test, *bar);
}

static bool is_msix_page(struct memattr_test *test, int bar, u64 offset)
{
	u64 start, end;
	int msix_bar;

	return find_msix_table(test, &msix_bar, &start, &end) && bar == msix_bar &&
	       offset >= start && offset < end;
}

/* What a write-combining export of a page fails with, where nobody has any */
static int expected_error(struct memattr_test *test, int bar, u64 offset)
{
	if (is_msix_page(test, bar, offset) && !memory_types_off())
		return -EBUSY;
	return vfio_pci_bar_no_dmabuf_wc(test->device, bar) ? -EOPNOTSUPP : 0;
}

static void expect_export(struct __test_metadata *_metadata, struct memattr_test *test,
			  int expected, int bar, u32 flags, u64 offset, u64 length)
{
	char *types = memory_type_list();
	int fd = memattr_export_bar(test, bar, flags, offset, length);

	if (expected) {
		ASSERT_EQ(expected, fd) TH_LOG("BAR%d, flags %#x, %#lx at %#lx", bar, flags,
					       length, offset);
		expect_memory_types(types);
	} else {
		ASSERT_LE(0, fd) TH_LOG("BAR%d, flags %#x, %#lx at %#lx", bar, flags,
					length, offset);
		ASSERT_EQ(0, close(fd));
	}
	free(types);
}

TEST_F(vfio_pci_memattr_uapi_test, attributes)
{
	struct memattr_test *test = &self->test;
	int bar, error;
	u32 attr;

	ASSERT_EQ(0xfU << ATTR_SHIFT, ATTR_MASK);
	ASSERT_EQ(0, ATTR_UC);
	ASSERT_EQ(1U << ATTR_SHIFT, ATTR_WC);

	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {
		if (!can_export(test, bar))
			continue;
		error = expected_error(test, bar, 0);
		expect_export(_metadata, test, 0, bar, ATTR_UC, 0, test->page_size);
		expect_export(_metadata, test, error, bar, ATTR_WC, 0, test->page_size);
		for (attr = 2; attr < 16; attr++)
			expect_export(_metadata, test, -EINVAL, bar, attr << ATTR_SHIFT, 0,
				      test->page_size);
		expect_export(_metadata, test, 0, bar, ATTR_UC, 0, test->page_size);
	}
}

TEST_F(vfio_pci_memattr_uapi_test, other_flags)
{
	struct memattr_test *test = &self->test;
	int bar, bit;

	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {
		if (!can_export(test, bar))
			continue;
		for (bit = 0; bit < ATTR_SHIFT; bit++) {
			expect_export(_metadata, test, -EINVAL, bar, 1U << bit, 0,
				      test->page_size);
			expect_export(_metadata, test, -EINVAL, bar, ATTR_WC | 1U << bit, 0,
				      test->page_size);
		}
		expect_export(_metadata, test, -EINVAL, bar, ~ATTR_MASK, 0, test->page_size);
		expect_export(_metadata, test, -EINVAL, bar, ~0U, 0, test->page_size);
	}
}

/* A region that is no memory, to learn whether an attribute is known */
TEST_F(vfio_pci_memattr_uapi_test, probe_has_no_effect)
{
	struct memattr_test *test = &self->test;
	const int regions[] = {
		VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_ROM_REGION_INDEX,
		VFIO_PCI_VGA_REGION_INDEX, VFIO_PCI_NUM_REGIONS, INT32_MAX, -1,
	};
	int lowest = dup(0), again, i;
	u32 attr;

	for (i = 0; i < ARRAY_SIZE(regions); i++) {
		for (attr = 0; attr < 16; attr++)
			expect_export(_metadata, test, attr < 2 ? -ENODEV : -EINVAL, regions[i],
				      attr << ATTR_SHIFT, 0, test->page_size);
	}

	/* No fd has been used up. */
	ASSERT_EQ(0, close(lowest));
	again = dup(0);
	ASSERT_EQ(lowest, again);
	ASSERT_EQ(0, close(again));
}

/* Each BAR that is none, or that the platform cannot map write-combining */
TEST_F(vfio_pci_memattr_uapi_test, not_supported)
{
	struct memattr_test *test = &self->test;
	const size_t page_size = test->page_size;
	bool any = false;
	int bar;

	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {
		const u64 size = test->device->bars[bar].info.size;
		u64 offset;

		if (!size)
			expect_export(_metadata, test, -ENODEV, bar, ATTR_WC, 0, page_size);
		if (!can_export(test, bar) || !vfio_pci_bar_no_dmabuf_wc(test->device, bar))
			continue;

		any = true;
		TH_LOG("BAR%d: %s", bar, vfio_pci_bar_no_dmabuf_wc(test->device, bar));
		for (offset = 0; offset < min_t(u64, size, 16 * page_size); offset += page_size) {
			expect_export(_metadata, test, expected_error(test, bar, offset), bar,
				      ATTR_WC, offset, page_size);
			expect_export(_metadata, test, 0, bar, ATTR_UC, offset, page_size);
		}
		/* A range that is none is none in the first place. */
		expect_export(_metadata, test, -EINVAL, bar, ATTR_WC, 0, 0);
		expect_export(_metadata, test, -EINVAL, bar, ATTR_WC, size, page_size);
	}
	if (!any)
		SKIP(return, "Every BAR can be mapped write-combining");
}

/* The PCI core maps the table uncached. */
TEST_F(vfio_pci_memattr_uapi_test, msix_table)
{
	struct memattr_test *test = &self->test;
	const size_t page_size = test->page_size;
	u64 start, end, size, offset;
	int bar, round, fd;
	char *types;

	if (memory_types_off())
		SKIP(return, "The platform has no write-combining");
	if (!find_msix_table(test, &bar, &start, &end))
		SKIP(return, "There is no MSI-X table in memory that can be exported");
	size = test->device->bars[bar].info.size;

	for (round = 0; round < 2; round++) {
		for (offset = 0; offset < size; offset += page_size) {
			expect_export(_metadata, test, expected_error(test, bar, offset), bar,
				      ATTR_WC, offset, page_size);
		}
		expect_export(_metadata, test, -EBUSY, bar, ATTR_WC, 0, size);
		expect_export(_metadata, test, -EBUSY, bar, ATTR_WC, start, end - start);
		expect_export(_metadata, test, 0, bar, ATTR_UC, start, end - start);

		/* It is not only the first range that counts. */
		if (start) {
			struct vfio_region_dma_range ranges[] = {
				{ 0, page_size }, { start, page_size },
			};
			struct vfio_region_dma_range last = ranges[0];

			types = memory_type_list();
			fd = __vfio_pci_dmabuf_export_flags(test->device, bar, O_RDWR, ATTR_WC,
							    ranges, ARRAY_SIZE(ranges));
			ASSERT_EQ(-EBUSY, fd);
			ranges[0] = ranges[1];
			ranges[1] = last;
			fd = __vfio_pci_dmabuf_export_flags(test->device, bar, O_RDWR, ATTR_WC,
							    ranges, ARRAY_SIZE(ranges));
			ASSERT_EQ(-EBUSY, fd);
			expect_memory_types(types);
			free(types);
		}

		/* With the table in use, or not */
		if (!round)
			vfio_pci_msix_enable(test->device, 0, 1);
	}
	vfio_pci_msix_disable(test->device);
}

/* What a part of a BAR can be, wherever write-combining is possible */
FIXTURE(vfio_pci_memattr_test) {
	struct memattr_test test;
};

FIXTURE_SETUP(vfio_pci_memattr_test)
{
	const char *reason = memattr_open_wc(&self->test, device_bdf);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_memattr_test)
{
	memattr_close(&self->test);
}

TEST_F(vfio_pci_memattr_test, bad_ranges)
{
	struct memattr_test *test = &self->test;
	const u64 size = test->size, page = test->page_size;
	const struct {
		int error;
		u64 offset;
		u64 length;
	} bad[] = {
		{ -EINVAL, 0, 0 },
		{ -EINVAL, 0, page - 1 },
		{ -EINVAL, 0, page / 2 },
		{ -EINVAL, 1, page },
		{ -EINVAL, page / 2, page },
		{ -EINVAL, size, page },
		{ -EINVAL, size - page, 2 * page },
		{ -EINVAL, 0, size + page },
		{ -EOVERFLOW, -page, 2 * page },
	};
	struct vfio_region_dma_range ranges[2] = { { 0, page } };
	char *types = memory_type_list();
	int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		ranges[1].offset = bad[i].offset;
		ranges[1].length = bad[i].length;
		ASSERT_EQ(bad[i].error, memattr_export_ranges(test, ATTR_WC, &ranges[1], 1))
			TH_LOG("%d", i);
		/* The first range has nothing to do with it. */
		ASSERT_EQ(bad[i].error, memattr_export_ranges(test, ATTR_WC, ranges, 2))
			TH_LOG("%d", i);
		ASSERT_EQ(bad[i].error, memattr_export_ranges(test, ATTR_UC, ranges, 2))
			TH_LOG("%d", i);
	}
	ASSERT_EQ(-EINVAL, memattr_export_ranges(test, ATTR_WC, ranges, 0));
	expect_memory_types(types);
	free(types);

	ASSERT_EQ(0, memattr_try_export(test, ATTR_WC, size - page, page));
}

/*
 * vfio maps a BAR when the device is opened, which decides on the type of all its
 * pages. That ends with the first of them that is to have another one.
 */
TEST_F(vfio_pci_memattr_test, type_of_the_whole_bar)
{
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	char *types;
	void *vaddr;
	int fd;

	if (!memory_types_shown())
		SKIP(return, "This architecture does not show memory types");

	ASSERT_EQ(1, memattr_nr_exact(test, 0, test->size, TYPE_UNCACHED_MINUS));
	ASSERT_EQ(1, memattr_nr_types(test, NULL));

	/* Not when it fails */
	types = memory_type_list();
	vaddr = memattr_map_bar(test, page, page);
	ASSERT_EQ(-EBUSY, memattr_export_wc(test, 0, 2 * page));
	expect_memory_types(types);
	ASSERT_EQ(0, munmap(vaddr, page));
	free(types);

	fd = memattr_export_wc(test, page, page);
	ASSERT_LE(0, fd);
	ASSERT_EQ(1, memattr_nr_exact(test, page, page, TYPE_WRITE_COMBINING));
	ASSERT_EQ(1, memattr_nr_types(test, NULL));

	types = memory_type_list();
	ASSERT_EQ(-EBUSY, memattr_export_uc(test, 0, test->size));
	vaddr = memattr_map_bar(test, 0, page);
	ASSERT_EQ(-EBUSY, memattr_export_wc(test, 0, test->size));
	ASSERT_EQ(0, munmap(vaddr, page));
	expect_memory_types(types);
	free(types);

	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, memattr_nr_types(test, NULL));

	/* It is back with the next open, but for the next one */
	vfio_pci_device_close(test->device);
	expect_memory_types(test->types);
	test->device = vfio_pci_device_open(device_bdf, default_iommu_mode);
	ASSERT_EQ(1, memattr_nr_exact(test, 0, test->size, TYPE_UNCACHED_MINUS));
	ASSERT_EQ(0, memattr_try_export(test, ATTR_WC, 0, test->size));
	ASSERT_EQ(0, memattr_nr_types(test, NULL));
}

/* Two parts of the BAR, in pages */
struct shape {
	u64 first;
	u64 nr_first;
	u64 second;
	u64 nr_second;
	bool overlap;
};

static void try_two(struct __test_metadata *_metadata, struct memattr_test *test,
		    enum memattr_type first, enum memattr_type second, const struct shape *shape)
{
	bool busy = (first == MEMATTR_WC) != (second == MEMATTR_WC) && shape->overlap;
	u64 offset = shape->second * test->page_size;
	size_t size = shape->nr_second * test->page_size;
	struct memattr_holder holders[2];

	ASSERT_EQ(0, memattr_hold(test, &holders[0], first, shape->first * test->page_size,
				  shape->nr_first * test->page_size));
	ASSERT_EQ(busy ? -EBUSY : 0, memattr_hold(test, &holders[1], second, offset, size))
		TH_LOG("first %d, second %d", first, second);
	ASSERT_TYPES((first == MEMATTR_WC) + (second == MEMATTR_WC && !busy),
		     memattr_nr_types(test, TYPE_WRITE_COMBINING));

	memattr_let_go(&holders[0]);
	if (busy)
		ASSERT_EQ(0, memattr_hold(test, &holders[1], second, offset, size));
	ASSERT_TYPES(second == MEMATTR_WC, memattr_nr_types(test, TYPE_WRITE_COMBINING));
	memattr_let_go(&holders[1]);
	ASSERT_TYPES(0, memattr_nr_types(test, TYPE_WRITE_COMBINING));
}

TEST_F(vfio_pci_memattr_test, one_type_at_a_time)
{
	static const struct shape shapes[] = {
		{ 4, 4, 4, 4, true },	/* The same */
		{ 4, 4, 2, 3, true },	/* Its first page */
		{ 4, 4, 7, 3, true },	/* Its last page */
		{ 4, 4, 5, 1, true },	/* One of its pages */
		{ 5, 1, 4, 4, true },	/* More than that */
		{ 4, 4, 0, 4, false },	/* Right before it */
		{ 4, 4, 8, 4, false },	/* Right behind it */
	};
	int first, second, i;

	for (i = 0; i < ARRAY_SIZE(shapes); i++) {
		for (first = 0; first < NR_MEMATTR_TYPES; first++) {
			for (second = 0; second < NR_MEMATTR_TYPES; second++)
				try_two(_metadata, &self->test, first, second, &shapes[i]);
		}
	}
}

/* A revoke takes it back although everything is still there that was made of it. */
static void try_after_revoke(struct __test_metadata *_metadata, struct memattr_test *test,
			     enum memattr_type first, enum memattr_type second)
{
	const size_t page = test->page_size;
	struct memattr_holder revoked, next;

	ASSERT_EQ(0, memattr_hold(test, &revoked, first, 4 * page, 4 * page));
	vfio_pci_dmabuf_revoke(test->device, revoked.fd);
	ASSERT_TYPES(0, memattr_nr_types(test, TYPE_WRITE_COMBINING));
	ASSERT_EQ(0, memattr_hold(test, &next, second, 4 * page, 4 * page))
		TH_LOG("%d after %d", second, first);
	ASSERT_FALSE(mmio_try_touch(revoked.vaddr));

	/* The rest of what there was of it takes nothing from the next one. */
	ASSERT_TYPES(second == MEMATTR_WC, memattr_nr_types(test, TYPE_WRITE_COMBINING));
	memattr_let_go(&revoked);
	ASSERT_TYPES(second == MEMATTR_WC, memattr_nr_types(test, TYPE_WRITE_COMBINING));
	ASSERT_TRUE(mmio_try_touch(next.vaddr));
	memattr_let_go(&next);
	ASSERT_TYPES(0, memattr_nr_types(test, TYPE_WRITE_COMBINING));
}

TEST_F(vfio_pci_memattr_test, revoked)
{
	enum memattr_type second;

	for (second = 0; second < NR_MEMATTR_TYPES; second++) {
		try_after_revoke(_metadata, &self->test, MEMATTR_UC, second);
		try_after_revoke(_metadata, &self->test, MEMATTR_WC, second);
	}
}

/* A mapping of the BAR is one, whatever is left of it. */
TEST_F(vfio_pci_memattr_test, rest_of_a_bar_mapping)
{
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	void *vaddr = memattr_map_bar(test, 4 * page, 8 * page), *moved;

	ASSERT_EQ(0, munmap(vaddr, 4 * page));
	ASSERT_EQ(-EBUSY, memattr_export_wc(test, 4 * page, page));
	ASSERT_EQ(0, munmap(vaddr + 5 * page, 3 * page));
	ASSERT_EQ(-EBUSY, memattr_export_wc(test, 4 * page, page));
	ASSERT_EQ(-EBUSY, memattr_export_wc(test, 11 * page, page));
	moved = mmap_reserve(page, page, 0);
	ASSERT_EQ(moved, mremap(vaddr + 4 * page, page, page, MREMAP_MAYMOVE | MREMAP_FIXED,
				moved));
	ASSERT_EQ(-EBUSY, memattr_export_wc(test, 8 * page, page));
	ASSERT_EQ(0, munmap(moved, page));
	memattr_expect_free(test, 4 * page, 8 * page);
}

static int wait_for_the_end(int sock, void *arg)
{
	VFIO_ASSERT_TRUE(mmio_try_touch(arg));
	client_sync(sock);
	client_sync(sock);
	return 0;
}

/* A child has inherited it, and nobody else has it any more. */
TEST_F(vfio_pci_memattr_test, mapping_of_a_child)
{
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	struct memattr_holder holder;
	int type;

	for (type = 0; type < NR_MEMATTR_TYPES; type++) {
		ASSERT_EQ(0, memattr_hold(test, &holder, type, 4 * page, 4 * page));
		test->client = client_start(wait_for_the_end, holder.vaddr);
		memattr_let_go(&holder);
		client_sync(test->client.sock);

		ASSERT_TYPES(type == MEMATTR_WC, memattr_nr_types(test, TYPE_WRITE_COMBINING));
		ASSERT_EQ(type == MEMATTR_WC ? 0 : -EBUSY,
			  memattr_try_export(test, ATTR_WC, 4 * page, 4 * page));
		ASSERT_EQ(type == MEMATTR_WC ? -EBUSY : 0,
			  memattr_try_map_bar(test, 4 * page, 4 * page));
		client_sync(test->client.sock);
		ASSERT_EQ(0, client_finish(&test->client));
		memattr_expect_free(test, 4 * page, 4 * page);
	}
}

/* Two of the same type may share pages, and each of them keeps what it has. */
TEST_F(vfio_pci_memattr_test, two_buffers)
{
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	struct memattr_holder first, second;
	int round;

	for (round = 0; round < 4; round++) {
		/* Of the same pages, or of some of them; the older or the newer one is closed. */
		u64 offset = round & 1 ? 6 * page : 4 * page;
		struct memattr_holder *closed = round & 2 ? &second : &first;
		struct memattr_holder *kept = round & 2 ? &first : &second;
		u64 kept_at = round & 2 ? 4 * page : offset;

		ASSERT_EQ(0, memattr_hold(test, &first, MEMATTR_WC, 4 * page, 4 * page));
		ASSERT_EQ(0, memattr_hold(test, &second, MEMATTR_WC, offset, 4 * page));
		ASSERT_TYPES(2, memattr_nr_types(test, NULL));
		memattr_expect_taken(test, 7 * page, page);
		memattr_let_go(closed);

		ASSERT_TYPES(1, memattr_nr_types(test, NULL));
		ASSERT_TYPES(1, memattr_nr_exact(test, kept_at, 4 * page, TYPE_WRITE_COMBINING));
		memattr_expect_taken(test, kept_at, 4 * page);
		memattr_expect_taken(test, 7 * page, page);
		if (kept_at != 4 * page)
			ASSERT_EQ(0, memattr_try_export(test, ATTR_UC, 4 * page, 2 * page));
		/* What it is mapped as now is what the list says now. */
		vfio_pci_memory_decode.disable(test->device);
		vfio_pci_memory_decode.enable(test->device);
		ASSERT_TRUE(mmio_try_touch(kept->vaddr + 2 * page));
		expect_write_combining(kept->vaddr + 2 * page);

		memattr_let_go(kept);
		memattr_expect_free(test, 4 * page, 6 * page);
	}
}

/* Each range by itself, or where neighbours follow each other, together */
TEST_F(vfio_pci_memattr_test, several_ranges)
{
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	const struct vfio_region_dma_range ranges[] = {
		{ 8 * page, page }, { 2 * page, page }, { 4 * page, page }, { 5 * page, 2 * page },
	};
	const struct vfio_region_dma_range gaps[] = {
		{ 0, 2 * page }, { 3 * page, page }, { 7 * page, page }, { 9 * page, page },
	};
	struct vfio_region_dma_range others[ARRAY_SIZE(gaps) + 1];
	void *vaddr, *uncached;
	int fd, other, i;

	fd = memattr_export_ranges(test, ATTR_WC, ranges, ARRAY_SIZE(ranges));
	ASSERT_LE(0, fd);
	ASSERT_TYPES(3, memattr_nr_types(test, NULL));
	ASSERT_TYPES(1, memattr_nr_exact(test, 8 * page, page, TYPE_WRITE_COMBINING));
	ASSERT_TYPES(1, memattr_nr_exact(test, 2 * page, page, TYPE_WRITE_COMBINING));
	ASSERT_TYPES(1, memattr_nr_exact(test, 4 * page, 3 * page, TYPE_WRITE_COMBINING));

	vaddr = memattr_map(fd, 0, 5 * page);
	for (i = 0; i < 5; i++)
		ASSERT_TRUE(mmio_try_touch(vaddr + i * page));
	expect_write_combining(vaddr);
	expect_write_combining(vaddr + page);
	expect_write_combining(vaddr + 4 * page);

	/* The gaps are everybody's, and everything else is not. */
	other = memattr_export_ranges(test, ATTR_UC, gaps, ARRAY_SIZE(gaps));
	ASSERT_LE(0, other);
	uncached = memattr_map(other, 0, 5 * page);
	for (i = 0; i < 5; i++)
		ASSERT_TRUE(mmio_try_touch(uncached + i * page));
	expect_uncached(uncached + page);
	expect_uncached(uncached + 3 * page);
	memcpy(others, gaps, sizeof(gaps));
	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		others[ARRAY_SIZE(gaps)] = ranges[i];
		ASSERT_EQ(-EBUSY, memattr_export_ranges(test, ATTR_UC, others, ARRAY_SIZE(others)));
		ASSERT_EQ(-EBUSY, memattr_try_map_bar(test, ranges[i].offset, ranges[i].length));
	}
	/* The other way round */
	memcpy(others, ranges, sizeof(ranges));
	for (i = 0; i < ARRAY_SIZE(gaps); i++) {
		others[ARRAY_SIZE(ranges)] = gaps[i];
		ASSERT_EQ(-EBUSY, memattr_export_ranges(test, ATTR_WC, others, ARRAY_SIZE(others)));
	}
	ASSERT_TYPES(3, memattr_nr_types(test, NULL));

	ASSERT_EQ(0, munmap(uncached, 5 * page));
	ASSERT_EQ(0, close(other));
	ASSERT_EQ(0, munmap(vaddr, 5 * page));
	ASSERT_EQ(0, close(fd));
	memattr_expect_free(test, 0, 10 * page);
}

/* A DMABUF does not stand in its own way. */
TEST_F(vfio_pci_memattr_test, ranges_that_overlap)
{
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	const struct vfio_region_dma_range ranges[] = {
		{ 4 * page, 2 * page }, { 5 * page, 2 * page }, { 4 * page, 2 * page },
	};
	void *vaddr;
	int fd;

	fd = memattr_export_ranges(test, ATTR_WC, ranges, ARRAY_SIZE(ranges));
	ASSERT_LE(0, fd);
	ASSERT_TYPES(3, memattr_nr_types(test, TYPE_WRITE_COMBINING));
	ASSERT_TYPES(2, memattr_nr_exact(test, 4 * page, 2 * page, TYPE_WRITE_COMBINING));
	vaddr = memattr_map(fd, 0, 6 * page);
	ASSERT_TRUE(mmio_try_touch(vaddr + 3 * page));
	expect_write_combining(vaddr + 3 * page);
	memattr_expect_taken(test, 6 * page, page);
	ASSERT_EQ(0, munmap(vaddr, 6 * page));
	ASSERT_EQ(0, close(fd));
	memattr_expect_free(test, 4 * page, 3 * page);
}

/* So many ranges that a list of them would be noticed, each with a gap behind it */
static struct vfio_region_dma_range *many_ranges(struct memattr_test *test)
{
	struct vfio_region_dma_range *ranges = calloc_assert(MANY_RANGES, sizeof(*ranges));
	int i;

	for (i = 0; i < MANY_RANGES; i++) {
		ranges[i].offset = 2 * i * test->page_size;
		ranges[i].length = test->page_size;
	}
	return ranges;
}

TEST_F(vfio_pci_memattr_test, one_page_of_many_ranges)
{
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	struct vfio_region_dma_range *ranges;
	const int pages[] = { 0, MANY_RANGES / 2 + 1, MANY_RANGES - 1 };
	struct memattr_holder holder;
	int fd, i, type;
	void *vaddr;
	char *types;

	if (test->size < 2 * MANY_RANGES * page)
		SKIP(return, "The BAR is too small");
	ranges = many_ranges(test);

	types = memory_type_list();
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		for (type = MEMATTR_BAR; type <= MEMATTR_UC; type++) {
			ASSERT_EQ(0, memattr_hold(test, &holder, type, 2 * pages[i] * page, page));
			fd = memattr_export_ranges(test, ATTR_WC, ranges, MANY_RANGES);
			ASSERT_EQ(-EBUSY, fd);
			expect_memory_types(types);
			memattr_let_go(&holder);
		}
		/* The one behind it has nothing to do with it. */
		ASSERT_EQ(0, memattr_hold(test, &holder, MEMATTR_UC,
					  (2 * pages[i] + 1) * page, page));
		fd = memattr_export_ranges(test, ATTR_WC, ranges, MANY_RANGES);
		ASSERT_LE(0, fd);
		ASSERT_EQ(0, close(fd));
		memattr_let_go(&holder);
		free(types);
		types = memory_type_list();
		ASSERT_TYPES(0, memattr_nr_types(test, NULL));
	}
	free(types);

	fd = memattr_export_ranges(test, ATTR_WC, ranges, MANY_RANGES);
	ASSERT_LE(0, fd);
	ASSERT_TYPES(MANY_RANGES, memattr_nr_types(test, NULL));
	vaddr = memattr_map(fd, 0, MANY_RANGES * page);
	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		ASSERT_TRUE(mmio_try_touch(vaddr + pages[i] * page));
		expect_write_combining(vaddr + pages[i] * page);
		memattr_expect_taken(test, 2 * pages[i] * page, page);
		memattr_expect_taken(test, 0, test->size);
		ASSERT_EQ(0, memattr_try_map_bar(test, (2 * pages[i] + 1) * page, page));
		ASSERT_EQ(0, memattr_try_export(test, ATTR_UC, (2 * pages[i] + 1) * page, page));
	}
	vfio_pci_dmabuf_revoke(test->device, fd);
	ASSERT_TYPES(0, memattr_nr_types(test, NULL));
	ASSERT_FALSE(mmio_try_touch(vaddr + pages[1] * page));
	memattr_expect_free(test, 0, test->size);

	ASSERT_EQ(0, munmap(vaddr, MANY_RANGES * page));
	ASSERT_EQ(0, close(fd));
	free(ranges);
}

/* More ranges than PAT should have to look at, which need not be of one DMABUF */
TEST_F(vfio_pci_memattr_test, too_many_ranges)
{
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	struct vfio_region_dma_range *ranges;
	int fds[MAX_WC_RANGES / MANY_RANGES], i;

	if (test->size < 2 * MANY_RANGES * page)
		SKIP(return, "The BAR is too small");
	ranges = many_ranges(test);

	for (i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = memattr_export_ranges(test, ATTR_WC, ranges, MANY_RANGES);
		ASSERT_LE(0, fds[i]) TH_LOG("%d", i);
	}
	ASSERT_EQ(-ENOSPC, memattr_export_wc(test, 0, page));
	ASSERT_EQ(-ENOSPC, memattr_export_ranges(test, ATTR_WC, ranges, 2));
	/* Uncached ones do not count, and are what they were. */
	ASSERT_EQ(0, memattr_try_export(test, ATTR_UC, page, page));
	memattr_expect_taken(test, 0, page);

	vfio_pci_dmabuf_revoke(test->device, fds[0]);
	ASSERT_EQ(0, memattr_try_export(test, ATTR_WC, 0, page));
	for (i = 0; i < ARRAY_SIZE(fds); i++)
		ASSERT_EQ(0, close(fds[i]));
	memattr_expect_free(test, 0, test->size);
	free(ranges);
}

/* The DMABUF cannot be had, after its ranges could. */
TEST_F(vfio_pci_memattr_test, no_fd)
{
	struct memattr_test *test = &self->test;
	struct vfio_region_dma_range *ranges;
	struct rlimit limit, none;
	int lowest, fd, round;
	char *types;

	if (test->size < 2 * MANY_RANGES * test->page_size)
		SKIP(return, "The BAR is too small");
	ranges = many_ranges(test);

	/* The first time, and when the BAR is not mapped as a whole any more */
	for (round = 0; round < 2; round++) {
		types = memory_type_list();
		lowest = dup(0);
		ASSERT_LE(0, lowest);
		ASSERT_EQ(0, close(lowest));
		ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
		none = limit;
		none.rlim_cur = lowest;
		ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &none));
		fd = memattr_export_ranges(test, ATTR_WC, ranges, MANY_RANGES);
		ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
		ASSERT_EQ(-EMFILE, fd);
		ASSERT_TYPES(0, memattr_nr_types(test, TYPE_WRITE_COMBINING));
		if (round)
			expect_memory_types(types);
		free(types);
		memattr_expect_free(test, 0, test->size);
	}
	free(ranges);
}

/* Neither of an fd nor of a mapping does it matter which goes first. */
TEST_F(vfio_pci_memattr_test, mapping_without_fd)
{
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	void *vaddr;
	int fd;

	fd = memattr_export_wc(test, 4 * page, 4 * page);
	ASSERT_LE(0, fd);
	vaddr = memattr_map(fd, 0, 4 * page);
	ASSERT_EQ(0, close(fd));
	ASSERT_TYPES(1, memattr_nr_exact(test, 4 * page, 4 * page, TYPE_WRITE_COMBINING));
	ASSERT_TRUE(mmio_try_touch(vaddr + page));
	expect_write_combining(vaddr + page);
	memattr_expect_taken(test, 4 * page, page);

	ASSERT_EQ(0, munmap(vaddr, 2 * page));
	vfio_pci_memory_decode.disable(test->device);
	vfio_pci_memory_decode.enable(test->device);
	ASSERT_TRUE(mmio_try_touch(vaddr + 2 * page));
	expect_write_combining(vaddr + 2 * page);
	/* All that was exported, and not what is left mapped of it */
	memattr_expect_taken(test, 4 * page, page);
	ASSERT_TYPES(1, memattr_nr_exact(test, 4 * page, 4 * page, TYPE_WRITE_COMBINING));
	ASSERT_EQ(0, munmap(vaddr + 2 * page, 2 * page));
	memattr_expect_free(test, 4 * page, 4 * page);
}

/* An importer does not care how the CPU maps the memory. */
TEST_F(vfio_pci_memattr_test, imported)
{
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	struct iommu *iommu = test->device->iommu;
	struct iommu_ioas_map_file map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = iommu->ioas_id,
		.length = page,
	};
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas_id = iommu->ioas_id,
		.length = page,
	};
	int fd;

	if (!iommu->iommufd)
		SKIP(return, "iommufd is not used");

	fd = memattr_export_wc(test, 4 * page, page);
	ASSERT_LE(0, fd);
	map.fd = fd;
	ASSERT_EQ(0, ioctl(iommu->iommufd, IOMMU_IOAS_MAP_FILE, &map));
	ASSERT_TYPES(1, memattr_nr_exact(test, 4 * page, page, TYPE_WRITE_COMBINING));
	unmap.iova = map.iova;
	ASSERT_EQ(0, ioctl(iommu->iommufd, IOMMU_IOAS_UNMAP, &unmap));

	/* It keeps the DMABUF, but not from being revoked. */
	ASSERT_EQ(0, ioctl(iommu->iommufd, IOMMU_IOAS_MAP_FILE, &map));
	ASSERT_EQ(0, memattr_try_export(test, ATTR_WC, 4 * page, page));
	memattr_expect_taken(test, 4 * page, page);
	vfio_pci_dmabuf_revoke(test->device, fd);
	memattr_expect_free(test, 4 * page, page);
	ASSERT_EQ(0, close(fd));
	unmap.iova = map.iova;
	ASSERT_EQ(0, ioctl(iommu->iommufd, IOMMU_IOAS_UNMAP, &unmap));
}

/*
 * Root can have the memory from the PCI core, and then the type of its pages is what
 * that has asked for.
 */
TEST_F(vfio_pci_memattr_test, mapped_by_the_pci_core)
{
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	const struct vfio_region_dma_range ranges[] = {
		{ 4 * page, 2 * page }, { 8 * page, 4 * page }, { 16 * page, page },
	};
	int sysfs, fd, round;
	void *vaddr;

	if (!memory_types_shown())
		SKIP(return, "This architecture has no list of memory types");

	sysfs = sysfs_bar_open(device_bdf, test->bar);
	if (sysfs < 0)
		SKIP(return, "The PCI core does not let the BAR be mapped");

	/* The first time, and when the BAR is not mapped as a whole any more */
	for (round = 0; round < 2; round++) {
		vaddr = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, sysfs, 10 * page);
		if (vaddr == MAP_FAILED)
			SKIP(return, "The PCI core does not map the BAR: %s", strerror(errno));

		ASSERT_EQ(-EBUSY, memattr_export_wc(test, 8 * page, 4 * page));
		ASSERT_EQ(-EBUSY, memattr_export_wc(test, 10 * page, page));
		ASSERT_EQ(-EBUSY, memattr_export_ranges(test, ATTR_WC, ranges, ARRAY_SIZE(ranges)));
		ASSERT_EQ(0, memattr_nr_types(test, TYPE_WRITE_COMBINING));
		/* Uncached it is, and nothing is left of the attempt. */
		ASSERT_EQ(0, memattr_try_export(test, ATTR_UC, 4 * page, 13 * page));
		ASSERT_EQ(0, memattr_try_map_bar(test, 8 * page, 4 * page));
		ASSERT_EQ(0, memattr_try_export(test, ATTR_WC, 11 * page, page));
		ASSERT_EQ(0, memattr_try_export(test, ATTR_WC, 9 * page, page));

		ASSERT_EQ(0, munmap(vaddr, page));
		fd = memattr_export_ranges(test, ATTR_WC, ranges, ARRAY_SIZE(ranges));
		ASSERT_LE(0, fd);
		ASSERT_EQ(3, memattr_nr_types(test, NULL));
		ASSERT_EQ(0, close(fd));
	}
	ASSERT_EQ(0, close(sysfs));
}

/*
 * An architecture that has no way to show memory types may have one to tell them
 * apart: device memory cannot be accessed at an odd address.
 */
TEST_F(vfio_pci_memattr_test, unaligned_access)
{
	struct memattr_test *test = &self->test;
	const size_t page = test->page_size;
	void *uncached, *vaddr;
	u32 value;
	int fd;

#ifndef __aarch64__
	SKIP(return, "This architecture accesses device memory at any address");
#endif
	if (!test->scratch.ram)
		SKIP(return, "The BAR is no RAM");

	fd = memattr_export_wc(test, 0, page);
	ASSERT_LE(0, fd);
	vaddr = memattr_map(fd, 0, page);
	ASSERT_TRUE(mmio_try_write(vaddr, 0x44332211));
	ASSERT_TRUE(mmio_try_write(vaddr + 4, 0x88776655));
	ASSERT_TRUE(mmio_try_read(vaddr + 1, &value));
	ASSERT_EQ(0x55443322, value);
	ASSERT_TRUE(mmio_try_write(vaddr + 3, 0xddccbbaa));
	memattr_sync();
	ASSERT_TRUE(mmio_try_read(vaddr, &value));
	ASSERT_EQ(0xaa332211, value);
	ASSERT_TRUE(mmio_try_read(vaddr + 4, &value));
	ASSERT_EQ(0x88ddccbb, value);
	ASSERT_EQ(0, munmap(vaddr, page));
	ASSERT_EQ(0, close(fd));

	fd = memattr_export_uc(test, 0, page);
	ASSERT_LE(0, fd);
	uncached = memattr_map(fd, 0, page);
	ASSERT_TRUE(mmio_try_read(uncached, &value));
	ASSERT_EQ(0xaa332211, value);
	/* Not every emulator is that strict. */
	if (mmio_try_read(uncached + 1, &value))
		SKIP(return, "This CPU accesses device memory at any address");
	ASSERT_EQ(uncached + 1, mmio_sigbus_addr());
	ASSERT_FALSE(mmio_try_write(uncached + 1, 0));
	ASSERT_TRUE(mmio_try_read(uncached, &value));
	ASSERT_EQ(0xaa332211, value);
	ASSERT_EQ(0, munmap(uncached, page));
	ASSERT_EQ(0, close(fd));
}

/* What is in the page tables, by pages of each size */
FIXTURE(vfio_pci_memattr_map_test) {
	struct memattr_test test;
	/* The second of such pages of the BAR, or where it has only one, the first */
	u64 offset;
	int fd;
	void *vaddr;
};

FIXTURE_VARIANT(vfio_pci_memattr_map_test) {
	size_t size;
};

FIXTURE_VARIANT_ADD(vfio_pci_memattr_map_test, pte) { SZ_4K };
FIXTURE_VARIANT_ADD(vfio_pci_memattr_map_test, pmd) { SZ_2M };
FIXTURE_VARIANT_ADD(vfio_pci_memattr_map_test, pud) { SZ_1G };

#define map_data		FIXTURE_DATA(vfio_pci_memattr_map_test)

static void *map_aligned(int fd, u64 offset, size_t size)
{
	void *vaddr = mmap_reserve(size, size, 0);

	vaddr = mmap(vaddr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset);
	VFIO_ASSERT_NE(vaddr, MAP_FAILED);
	return vaddr;
}

FIXTURE_SETUP(vfio_pci_memattr_map_test)
{
	struct memattr_test *test = &self->test;
	const char *reason = memattr_open_wc(test, device_bdf);

	if (reason)
		SKIP(return, "%s", reason);
	reason = no_huge_page(variant->size);
	if (reason)
		SKIP(return, "%s", reason);
	if (test->size < variant->size)
		SKIP(return, "The BAR is too small");

	self->offset = test->size > variant->size ? variant->size : 0;
	self->fd = memattr_export_wc(test, self->offset, variant->size);
	ASSERT_LE(0, self->fd);
	self->vaddr = map_aligned(self->fd, 0, variant->size);
}

FIXTURE_TEARDOWN(vfio_pci_memattr_map_test)
{
	VFIO_ASSERT_EQ(munmap(self->vaddr, variant->size), 0);
	VFIO_ASSERT_EQ(close(self->fd), 0);
	memattr_close(&self->test);
}

/* One page, and it is write-combining. */
static void expect_one_page(struct __test_metadata *_metadata, map_data *self, void *vaddr,
			    size_t size)
{
	ASSERT_TRUE(mmio_try_touch(vaddr + size / 2));
	expect_cache_mode(vaddr + size / 2, CACHE_WRITE_COMBINING, size);
	ASSERT_EQ(0, mmio_count_faults(vaddr, size, size / 16));
}

TEST_F(vfio_pci_memattr_map_test, one_page)
{
	struct memattr_test *test = &self->test;

	ASSERT_TYPES(1, memattr_nr_types(test, NULL));
	ASSERT_TYPES(1, memattr_nr_exact(test, self->offset, variant->size, TYPE_WRITE_COMBINING));
	expect_one_page(_metadata, self, self->vaddr, variant->size);
	ASSERT_TYPES(1, memattr_nr_types(test, NULL));

	/* Also after it was gone */
	vfio_pci_memory_decode.disable(test->device);
	ASSERT_TYPES(1, memattr_nr_types(test, NULL));
	vfio_pci_memory_decode.enable(test->device);
	expect_one_page(_metadata, self, self->vaddr, variant->size);
}

TEST_F(vfio_pci_memattr_map_test, read_only)
{
	struct memattr_test *test = &self->test;
	struct vfio_region_dma_range range = { self->offset, variant->size };
	void *vaddr;
	int fd;

	fd = __vfio_pci_dmabuf_export_flags(test->device, test->bar, O_RDONLY | O_CLOEXEC, ATTR_WC,
					    &range, 1);
	ASSERT_LE(0, fd);
	ASSERT_EQ(MAP_FAILED, mmap(NULL, variant->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	ASSERT_EQ(EACCES, errno);
	vaddr = mmap_reserve(variant->size, variant->size, 0);
	ASSERT_EQ(vaddr, mmap(vaddr, variant->size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0));
	expect_one_page(_metadata, self, vaddr, variant->size);
	ASSERT_EQ(0, munmap(vaddr, variant->size));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_memattr_map_test, part_at_an_offset)
{
	struct memattr_test *test = &self->test;
	const size_t size = variant->size;
	void *vaddr, *part;
	u32 value;
	int fd;

	if (test->size < 4 * size)
		SKIP(return, "The BAR is too small");

	fd = memattr_export_wc(test, self->offset, 3 * size);
	ASSERT_LE(0, fd);
	part = map_aligned(fd, size, size);
	expect_one_page(_metadata, self, part, size);
	ASSERT_EQ(0, munmap(part, size));

	/* It is what it should be. */
	vaddr = memattr_map(fd, 0, 3 * size);
	part = map_aligned(fd, 2 * size, size);
	if (test->scratch.ram) {
		ASSERT_TRUE(mmio_try_write(vaddr + 2 * size, 0x11223344));
		memattr_sync();
		ASSERT_TRUE(mmio_try_read(part, &value));
		ASSERT_EQ(0x11223344, value);
	}
	expect_one_page(_metadata, self, part, size);
	ASSERT_EQ(0, munmap(vaddr, 3 * size));
	ASSERT_EQ(0, munmap(part, size));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_memattr_map_test, changed_protection)
{
	const size_t size = variant->size;

	expect_one_page(_metadata, self, self->vaddr, size);
	ASSERT_EQ(0, mprotect(self->vaddr, size, PROT_READ));
	expect_one_page(_metadata, self, self->vaddr, size);
	ASSERT_EQ(0, mprotect(self->vaddr, size, PROT_NONE));
	ASSERT_EQ(0, mprotect(self->vaddr, size, PROT_READ | PROT_WRITE));
	expect_one_page(_metadata, self, self->vaddr, size);
}

/* What is left is in smaller pages. */
TEST_F(vfio_pci_memattr_map_test, split_by_munmap)
{
	const size_t size = variant->size, page = self->test.page_size;

	if (size == page)
		SKIP(return, "It is a single page");

	expect_one_page(_metadata, self, self->vaddr, size);
	ASSERT_EQ(0, munmap(self->vaddr + page, page));
	ASSERT_TRUE(mmio_try_touch(self->vaddr));
	ASSERT_TRUE(mmio_try_touch(self->vaddr + 2 * page));
	ASSERT_TRUE(mmio_try_touch(self->vaddr + size - page));
	expect_cache_mode(self->vaddr, CACHE_WRITE_COMBINING, page);
	expect_cache_mode(self->vaddr + 2 * page, CACHE_WRITE_COMBINING, page);
	expect_write_combining(self->vaddr + size - page);
}

TEST_F(vfio_pci_memattr_map_test, split_by_mprotect)
{
	const size_t size = variant->size, page = self->test.page_size;

	if (size == page)
		SKIP(return, "It is a single page");

	expect_one_page(_metadata, self, self->vaddr, size);
	ASSERT_EQ(0, mprotect(self->vaddr + page, page, PROT_READ));
	ASSERT_TRUE(mmio_try_touch(self->vaddr));
	ASSERT_TRUE(mmio_try_touch(self->vaddr + page));
	ASSERT_TRUE(mmio_try_touch(self->vaddr + size - page));
	expect_cache_mode(self->vaddr, CACHE_WRITE_COMBINING, page);
	expect_cache_mode(self->vaddr + page, CACHE_WRITE_COMBINING, page);
	expect_write_combining(self->vaddr + size - page);
	ASSERT_EQ(0, mprotect(self->vaddr + page, page, PROT_READ | PROT_WRITE));
	ASSERT_TRUE(mmio_try_touch(self->vaddr + page));
	expect_write_combining(self->vaddr + page);
}

TEST_F(vfio_pci_memattr_map_test, moved)
{
	const size_t size = variant->size;
	void *to = mmap_reserve(size, size, 0);

	expect_one_page(_metadata, self, self->vaddr, size);
	ASSERT_EQ(to, mremap(self->vaddr, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to));
	self->vaddr = to;
	expect_one_page(_metadata, self, self->vaddr, size);
}

/* What a process that is not the owner finds, which is asked for it as VFIO_ASSERTs. */
static void check_wc(const void *vaddr, size_t size)
{
	struct page_table_entry entry;

	VFIO_ASSERT_TRUE(mmio_try_touch(vaddr + size / 2));
	if (!memory_types_shown())
		return;
	VFIO_ASSERT_EQ(page_table_entry_read(vaddr + size / 2, &entry), 0);
	VFIO_ASSERT_EQ(entry.cache, CACHE_WRITE_COMBINING);
	VFIO_ASSERT_EQ(entry.size, size);
}

struct child {
	void *touched;
	void *untouched;
	size_t size;
};

static int child_main(int sock, void *arg)
{
	struct child *child = arg;

	check_wc(child->touched, child->size);
	check_wc(child->untouched, child->size);
	return 0;
}

TEST_F(vfio_pci_memattr_map_test, forked)
{
	struct child child = {
		.touched = self->vaddr,
		.untouched = map_aligned(self->fd, 0, variant->size),
		.size = variant->size,
	};

	expect_one_page(_metadata, self, self->vaddr, variant->size);
	self->test.client = client_start(child_main, &child);
	ASSERT_EQ(0, client_finish(&self->test.client));
	expect_one_page(_metadata, self, self->vaddr, variant->size);
	ASSERT_EQ(0, munmap(child.untouched, variant->size));
}

/* A process that has nothing but the fd */
static int client_main(int sock, void *arg)
{
	const size_t size = (size_t)arg;
	int fd = recv_fd(sock);
	void *vaddr;

	vaddr = map_aligned(fd, 0, size);
	VFIO_ASSERT_EQ(close(fd), 0);
	check_wc(vaddr, size);
	return 0;
}

TEST_F(vfio_pci_memattr_map_test, client)
{
	struct client *client = &self->test.client;

	*client = client_start(client_main, (void *)variant->size);
	send_fd(client->sock, self->fd);
	ASSERT_EQ(0, client_finish(client));
}

/* Nobody else gets to notice. */
TEST_F(vfio_pci_memattr_map_test, uncached_elsewhere)
{
	struct memattr_test *test = &self->test;
	const size_t size = variant->size;
	const u64 bar_offset = test->device->bars[test->bar].info.offset;
	void *before[2], *after[2];
	u64 data[64];
	int fds[2], i;

	if (test->size < 6 * size)
		SKIP(return, "The BAR is too small");

	/* Before there is a write-combining page in the BAR: open it once more */
	ASSERT_EQ(0, munmap(self->vaddr, size));
	ASSERT_EQ(0, close(self->fd));
	vfio_pci_device_close(test->device);
	test->device = vfio_pci_device_open(device_bdf, default_iommu_mode);
	before[0] = map_aligned(test->device->fd, bar_offset + 2 * size, size);
	fds[0] = memattr_export_uc(test, 3 * size, size);
	ASSERT_LE(0, fds[0]);
	before[1] = map_aligned(fds[0], 0, size);
	for (i = 0; i < 2; i++)
		ASSERT_TRUE(mmio_try_touch(before[i]));

	self->fd = memattr_export_wc(test, self->offset, size);
	ASSERT_LE(0, self->fd);
	self->vaddr = map_aligned(self->fd, 0, size);
	expect_one_page(_metadata, self, self->vaddr, size);

	/* And after it */
	after[0] = map_aligned(test->device->fd, bar_offset + 4 * size, size);
	fds[1] = memattr_export_uc(test, 5 * size, size);
	ASSERT_LE(0, fds[1]);
	after[1] = map_aligned(fds[1], 0, size);

	/* Across all of them, for which the kernel has to map it */
	for (i = 0; i < 6; i++) {
		ASSERT_EQ(sizeof(data), pread(test->device->fd, data, sizeof(data),
					      bar_offset + i * size));
		if (test->scratch.ram)
			ASSERT_EQ(sizeof(data), pwrite(test->device->fd, data, sizeof(data),
						       bar_offset + i * size));
	}
	ASSERT_TYPES(1, memattr_nr_types(test, NULL));

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, mmio_count_faults(before[i], 1, 1));
		ASSERT_TRUE(mmio_try_touch(after[i]));
		expect_cache_mode(before[i], CACHE_UNCACHED_MINUS, size);
		expect_cache_mode(after[i], CACHE_UNCACHED_MINUS, size);
	}

	/* What is mapped anew is no exception. */
	vfio_pci_memory_decode.disable(test->device);
	vfio_pci_memory_decode.enable(test->device);
	for (i = 0; i < 2; i++) {
		ASSERT_TRUE(mmio_try_touch(before[i]));
		expect_cache_mode(before[i], CACHE_UNCACHED_MINUS, size);
	}
	expect_one_page(_metadata, self, self->vaddr, size);

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, munmap(before[i], size));
		ASSERT_EQ(0, munmap(after[i], size));
		ASSERT_EQ(0, close(fds[i]));
	}
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
