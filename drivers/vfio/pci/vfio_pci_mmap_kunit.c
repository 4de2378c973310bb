// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for the arithmetic of ranges, see vfio_pci_dmabuf.h and vfio_pci_dmabuf.c.
 */
#include <kunit/test.h>
#include <linux/module.h>
#include <linux/pfn.h>
#include <linux/prandom.h>
#include <linux/sizes.h>
#include <linux/vfio_pci_core.h>

#include "vfio_pci_dmabuf.h"

#define MAX_RANGES	4096
/* Somewhere that is aligned for every order */
#define BASE		((phys_addr_t)SZ_1G)

KUNIT_DEFINE_ACTION_WRAPPER(free_buf, kvfree, const void *);

struct ranges {
	struct vfio_pci_dma_buf *buf;
	/* What was asked for, before neighbours were merged */
	struct vfio_region_dma_range *asked;
	u32 nr_asked;
};

static struct ranges *alloc_ranges(struct kunit *test)
{
	struct ranges *r = kunit_kzalloc(test, sizeof(*r), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, r);
	r->asked = kunit_kcalloc(test, MAX_RANGES, sizeof(*r->asked), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, r->asked);
	return r;
}

static void add(struct ranges *r, u64 offset, u64 length)
{
	r->asked[r->nr_asked++] = (struct vfio_region_dma_range){ offset, length };
}

/* What an export does with the ranges */
static void prepare(struct kunit *test, struct ranges *r)
{
	struct vfio_region_dma_range *merged;
	u32 nr;

	merged = kunit_kcalloc(test, r->nr_asked, sizeof(*merged), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, merged);
	memcpy(merged, r->asked, r->nr_asked * sizeof(*merged));
	nr = vfio_pci_merge_ranges(merged, r->nr_asked);
	r->buf = vfio_pci_dma_buf_alloc(nr, false);
	KUNIT_ASSERT_NOT_NULL(test, r->buf);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, free_buf, r->buf));
	KUNIT_ASSERT_EQ(test, 0, vfio_pci_core_fill_phys_vec(r->buf->phys_vec, merged, nr,
							     BASE, (phys_addr_t)-1 - BASE));
	vfio_pci_dma_buf_init_ranges(r->buf);
	kunit_kfree(test, merged);
}

/*
 * The oracle: walk over what was asked for, page by page. The pages must follow
 * each other in memory and must not be interrupted by another range.
 */
static bool scan(const struct ranges *r, unsigned long pgoff, unsigned int order,
		 unsigned long *pfn)
{
	unsigned long found = 0, start = 0, next = 0;
	u32 i;

	for (i = 0; i < r->nr_asked; i++) {
		unsigned long pages = r->asked[i].length >> PAGE_SHIFT;
		unsigned long first = PHYS_PFN(BASE + r->asked[i].offset);

		if (pgoff < start + pages && pgoff + (1UL << order) > start) {
			unsigned long skip = pgoff > start ? pgoff - start : 0;

			if (!found)
				*pfn = first + skip;
			else if (next != first)
				return false;
			found += min(pages - skip, (1UL << order) - found);
			next = first + pages;
		}
		start += pages;
	}
	return found == 1UL << order;
}

static void expect_same(struct kunit *test, const struct ranges *r,
			unsigned long pgoff, unsigned int order)
{
	unsigned long want = 0, have = 0;
	bool is, should;

	should = scan(r, pgoff, order, &want);
	is = vfio_pci_dma_buf_find_pfn(r->buf, pgoff, order, &have);
	KUNIT_ASSERT_EQ_MSG(test, is, should, "pgoff %lu order %u", pgoff, order);
	if (should)
		KUNIT_ASSERT_EQ_MSG(test, have, want, "pgoff %lu order %u", pgoff, order);
}

static void find_in_one_range(struct kunit *test)
{
	struct ranges *r = alloc_ranges(test);
	unsigned long pfn;

	add(r, 0, 3 * PAGE_SIZE);
	prepare(test, r);

	KUNIT_EXPECT_TRUE(test, vfio_pci_dma_buf_find_pfn(r->buf, 0, 0, &pfn));
	KUNIT_EXPECT_EQ(test, pfn, PHYS_PFN(BASE));
	KUNIT_EXPECT_TRUE(test, vfio_pci_dma_buf_find_pfn(r->buf, 2, 0, &pfn));
	KUNIT_EXPECT_EQ(test, pfn, PHYS_PFN(BASE) + 2);
	KUNIT_EXPECT_FALSE(test, vfio_pci_dma_buf_find_pfn(r->buf, 3, 0, &pfn));
	KUNIT_EXPECT_TRUE(test, vfio_pci_dma_buf_find_pfn(r->buf, 1, 1, &pfn));
	KUNIT_EXPECT_FALSE(test, vfio_pci_dma_buf_find_pfn(r->buf, 2, 1, &pfn));
	KUNIT_EXPECT_FALSE(test, vfio_pci_dma_buf_find_pfn(r->buf, 0, 2, &pfn));
}

/* Ranges of 1, 2, 3, ... pages with a hole behind each, every page and border */
static void find_at_every_border(struct kunit *test)
{
	struct ranges *r = alloc_ranges(test);
	unsigned long pgoff, pages = 0;
	u64 offset = 0;
	unsigned int order;
	u32 i;

	for (i = 1; i <= 40; i++) {
		add(r, offset, i * PAGE_SIZE);
		offset += (i + 1) * PAGE_SIZE;
		pages += i;
	}
	prepare(test, r);
	KUNIT_EXPECT_EQ(test, r->buf->nr_ranges, 40);

	for (pgoff = 0; pgoff < pages + 2; pgoff++)
		for (order = 0; order < 7; order++)
			expect_same(test, r, pgoff, order);
}

/* Back to front: neighbours in memory, but not in the buffer's order */
static void reversed_is_not_merged(struct kunit *test)
{
	struct ranges *r = alloc_ranges(test);
	unsigned long pgoff;
	int i;

	for (i = 15; i >= 0; i--)
		add(r, i * PAGE_SIZE, PAGE_SIZE);
	prepare(test, r);
	KUNIT_EXPECT_EQ(test, r->buf->nr_ranges, 16);
	for (pgoff = 0; pgoff < 17; pgoff++) {
		expect_same(test, r, pgoff, 0);
		expect_same(test, r, pgoff, 1);
	}
}

static void same_page_twice_is_not_merged(struct kunit *test)
{
	struct ranges *r = alloc_ranges(test);
	unsigned long first = 0, second = 1;

	add(r, 0, 2 * PAGE_SIZE);
	add(r, 0, 2 * PAGE_SIZE);
	add(r, PAGE_SIZE, 2 * PAGE_SIZE);
	prepare(test, r);
	KUNIT_EXPECT_EQ(test, r->buf->nr_ranges, 3);
	KUNIT_EXPECT_TRUE(test, vfio_pci_dma_buf_find_pfn(r->buf, 0, 0, &first));
	KUNIT_EXPECT_TRUE(test, vfio_pci_dma_buf_find_pfn(r->buf, 2, 0, &second));
	KUNIT_EXPECT_EQ(test, first, second);
	KUNIT_EXPECT_TRUE(test, vfio_pci_dma_buf_find_pfn(r->buf, 4, 0, &second));
	KUNIT_EXPECT_EQ(test, first + 1, second);
}

static void neighbours_become_huge(struct kunit *test)
{
	struct ranges *r = alloc_ranges(test);
	unsigned long pfn;
	u32 i;

	for (i = 0; i < 512; i++)
		add(r, i * (u64)PAGE_SIZE, PAGE_SIZE);
	prepare(test, r);
	KUNIT_EXPECT_EQ(test, r->buf->nr_ranges, 1);
	KUNIT_EXPECT_EQ(test, r->buf->phys_vec[0].len, 512 * PAGE_SIZE);
	KUNIT_EXPECT_TRUE(test, vfio_pci_dma_buf_find_pfn(r->buf, 0, 9, &pfn));
	KUNIT_EXPECT_EQ(test, pfn, PHYS_PFN(BASE));
	KUNIT_EXPECT_FALSE(test, vfio_pci_dma_buf_find_pfn(r->buf, 1, 9, &pfn));
}

/* Two ranges that together are more than a u64 can say stay two. */
static void merge_does_not_overflow(struct kunit *test)
{
	const u64 half = 1ULL << 63;
	struct vfio_region_dma_range ranges[] = { { 0, half }, { half, half }, { 0, half } };

	KUNIT_EXPECT_EQ(test, vfio_pci_merge_ranges(ranges, 3), 3);
	KUNIT_EXPECT_EQ(test, ranges[0].length, half);
	KUNIT_EXPECT_EQ(test, ranges[1].length, half);
}

/* Offsets and orders at which pgoff + pages does not fit in a long */
static void find_does_not_overflow(struct kunit *test)
{
	struct ranges *r = alloc_ranges(test);
	const unsigned int max = BITS_PER_LONG - 1;
	unsigned long pfn;

	add(r, 0, 4 * PAGE_SIZE);
	add(r, SZ_1M, 4 * PAGE_SIZE);
	prepare(test, r);
	KUNIT_EXPECT_FALSE(test, vfio_pci_dma_buf_find_pfn(r->buf, ULONG_MAX, 0, &pfn));
	KUNIT_EXPECT_FALSE(test, vfio_pci_dma_buf_find_pfn(r->buf, ULONG_MAX - 3, 2, &pfn));
	KUNIT_EXPECT_FALSE(test, vfio_pci_dma_buf_find_pfn(r->buf, 4, max, &pfn));
	KUNIT_EXPECT_FALSE(test, vfio_pci_dma_buf_find_pfn(r->buf, ULONG_MAX >> 1, max, &pfn));
}

static void random_ranges(struct kunit *test)
{
	static const u32 sizes[] = { 1, 2, 3, 7, 64, 511, 512, 513, MAX_RANGES };
	struct ranges *r = alloc_ranges(test);
	struct rnd_state rnd;
	int n, round;

	/* The same on every run: a failure must be there again. */
	prandom_seed_state(&rnd, 0x5eed);
	for (n = 0; n < ARRAY_SIZE(sizes); n++) {
		for (round = 0; round < 8; round++) {
			u64 offset = 0;
			unsigned long pages = 0;
			int i;

			r->nr_asked = 0;
			for (i = 0; i < sizes[n]; i++) {
				u32 dice = prandom_u32_state(&rnd);
				size_t len = (1 + dice % 5) * PAGE_SIZE;

				/* Half of them follow their neighbour. */
				if (dice & 0x100)
					offset += ((dice >> 9) % 64) * PAGE_SIZE;
				add(r, offset, len);
				offset += len;
				pages += len >> PAGE_SHIFT;
			}
			prepare(test, r);
			KUNIT_ASSERT_LE(test, r->buf->nr_ranges, sizes[n]);
			KUNIT_ASSERT_EQ(test, r->buf->range_end[r->buf->nr_ranges - 1], pages);
			for (i = 0; i < 200; i++) {
				u32 dice = prandom_u32_state(&rnd);

				expect_same(test, r, dice % (pages + 8), (dice >> 28) % 6);
			}
			for (i = 0; i < 6; i++)
				expect_same(test, r, pages - 1, i);
		}
		cond_resched();
	}
}

static struct kunit_case vfio_pci_mmap_cases[] = {
	KUNIT_CASE(find_in_one_range),
	KUNIT_CASE(find_at_every_border),
	KUNIT_CASE(reversed_is_not_merged),
	KUNIT_CASE(same_page_twice_is_not_merged),
	KUNIT_CASE(neighbours_become_huge),
	KUNIT_CASE(merge_does_not_overflow),
	KUNIT_CASE(find_does_not_overflow),
	KUNIT_CASE_SLOW(random_ranges),
	{}
};

static struct kunit_suite vfio_pci_mmap_suite = {
	.name = "vfio_pci_mmap",
	.test_cases = vfio_pci_mmap_cases,
};

kunit_test_suite(vfio_pci_mmap_suite);

MODULE_DESCRIPTION("KUnit tests for VFIO PCI");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_LICENSE("GPL");
