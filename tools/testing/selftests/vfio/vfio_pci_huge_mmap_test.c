// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory is mapped by the largest pages that fit: into the mapping, and into
 * the ranges of a DMABUF. What counts is what is in the page tables, which shows
 * in the number of page faults that it takes to fill them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/wait.h>

#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

/* How much of a BAR most of these tests look at */
#define TEST_SIZE SZ_16M

static const char *device_bdf;

struct huge_test {
	struct vfio_pci_device *device;
	struct mmap_target target;
};

/* Find a BAR of RAM to map. Returns why there is none, or NULL. */
static const char *huge_test_setup(struct huge_test *test, bool dmabuf)
{
	struct mmap_target targets[MAX_MMAP_TARGETS], *target;
	const char *reason;

	test->device = vfio_pci_device_open(device_bdf, default_iommu_mode);

	reason = no_huge_page(SZ_2M);
	if (reason)
		return reason;

	reason = mmap_targets_open(targets, test->device, false);
	if (reason)
		return reason;
	for (target = targets; target->size; target++) {
		if (target->scratch.ram && target->size > test->target.size)
			test->target = *target;
	}
	if (test->target.size < TEST_SIZE)
		return "The device has no BAR of RAM that is large enough";

	return mmap_target_open(&test->target, test->device, test->target.bar, dmabuf);
}

static void huge_test_teardown(struct huge_test *test)
{
	mmap_target_close(&test->target);
	vfio_pci_device_close(test->device);
}

/* Why nothing can be mapped by a page of 1 GiB, or NULL. */
static const char *no_pud(const struct mmap_target *target)
{
	if (target->size < SZ_1G)
		return "The BAR is too small";
	return no_huge_page(SZ_1G);
}

/* Map with the address at offset behind a multiple of align. */
static void *map_aligned(const struct mmap_target *target, u64 pos, size_t size,
			 size_t align, size_t offset)
{
	void *vaddr = mmap_reserve(size, align, offset);

	vaddr = mmap(vaddr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		     target->fd, target->offset + pos);
	VFIO_ASSERT_NE(vaddr, MAP_FAILED);
	return vaddr;
}

/* The memory is not mapped yet, and its first page gets all of it mapped. */
static void expect_one_entry(struct __test_metadata *_metadata, void *vaddr, size_t size)
{
	size_t step = size > SZ_2M ? SZ_2M / 2 : SZ_4K;

	ASSERT_EQ(1, mmio_count_faults(vaddr, 1, 1));
	ASSERT_EQ(0, mmio_count_faults(vaddr, size, step));
	ASSERT_EQ(0, mmio_count_faults(vaddr + size - SZ_4K, 1, 1));
}

/* The memory is not mapped yet, and each page is mapped by itself. */
static void expect_small_entries(struct __test_metadata *_metadata, void *vaddr, size_t size)
{
	ASSERT_EQ(size / SZ_4K, mmio_count_faults(vaddr, size, SZ_4K));
}

/*
 * The same in the kernel's own words. Use it sparingly, the dump of the page
 * tables takes seconds on a kernel with KASAN.
 */
static void expect_dumped(struct __test_metadata *_metadata, void *vaddr, ssize_t size)
{
	ssize_t dumped = page_table_entry_size(vaddr);

	if (dumped != -ENOENT)
		ASSERT_EQ(size, dumped);
}

/* Each page of the BAR says which one it is. */
static void tag_pages(struct __test_metadata *_metadata, struct huge_test *test)
{
	void *vaddr = map_aligned(&test->target, 0, TEST_SIZE, SZ_2M, 0);
	size_t pos;

	for (pos = 0; pos < TEST_SIZE; pos += SZ_4K)
		ASSERT_TRUE(mmio_try_write(vaddr + pos, pos + 1));
	ASSERT_EQ(0, munmap(vaddr, TEST_SIZE));
}

static void expect_tags(struct __test_metadata *_metadata, void *vaddr, size_t pos, size_t size)
{
	size_t offset;
	u32 tag;

	for (offset = 0; offset < size; offset += SZ_4K) {
		ASSERT_TRUE(mmio_try_read(vaddr + offset, &tag));
		ASSERT_EQ(pos + offset + 1, tag);
	}
}

/* All of the BAR, through the device's fd and as a DMABUF */
FIXTURE(vfio_pci_huge_mmap_test) {
	struct huge_test test;
};

FIXTURE_VARIANT(vfio_pci_huge_mmap_test) {
	bool dmabuf;
};

FIXTURE_VARIANT_ADD(vfio_pci_huge_mmap_test, bar) {
	.dmabuf = false,
};

FIXTURE_VARIANT_ADD(vfio_pci_huge_mmap_test, dmabuf) {
	.dmabuf = true,
};

FIXTURE_SETUP(vfio_pci_huge_mmap_test)
{
	const char *reason = huge_test_setup(&self->test, variant->dmabuf);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_huge_mmap_test)
{
	huge_test_teardown(&self->test);
}

TEST_F(vfio_pci_huge_mmap_test, pud)
{
	struct mmap_target *target = &self->test.target;
	void *vaddr;

	if (no_pud(target))
		SKIP(return, "%s", no_pud(target));

	vaddr = map_aligned(target, 0, SZ_1G, SZ_1G, 0);
	expect_one_entry(_metadata, vaddr, SZ_1G);
	expect_dumped(_metadata, vaddr + SZ_512M, SZ_1G);
	ASSERT_EQ(0, munmap(vaddr, SZ_1G));
}

TEST_F(vfio_pci_huge_mmap_test, pmd)
{
	struct mmap_target *target = &self->test.target;
	void *vaddr = map_aligned(target, 0, TEST_SIZE, SZ_2M, 0);
	size_t pos;

	for (pos = 0; pos < TEST_SIZE; pos += SZ_2M)
		expect_one_entry(_metadata, vaddr + pos, SZ_2M);
	ASSERT_EQ(0, munmap(vaddr, TEST_SIZE));
}

/* A PUD would fit into the memory, but not into the mapping. */
TEST_F(vfio_pci_huge_mmap_test, pmd_at_the_edge)
{
	struct mmap_target *target = &self->test.target;
	void *vaddr;

	if (target->size < SZ_1G)
		SKIP(return, "The BAR is too small");

	vaddr = map_aligned(target, 0, SZ_1G - SZ_4K, SZ_1G, 0);
	expect_one_entry(_metadata, vaddr, SZ_2M);
	expect_one_entry(_metadata, vaddr + SZ_512M, SZ_2M);
	expect_small_entries(_metadata, vaddr + SZ_1G - SZ_2M, SZ_2M - SZ_4K);
	ASSERT_EQ(0, munmap(vaddr, SZ_1G - SZ_4K));
}

/* Nothing but small pages fits where address and memory differ in alignment. */
TEST_F(vfio_pci_huge_mmap_test, misaligned)
{
	struct mmap_target *target = &self->test.target;
	void *vaddr;

	tag_pages(_metadata, &self->test);

	vaddr = map_aligned(target, 0, SZ_4M, SZ_2M, SZ_4K);
	expect_small_entries(_metadata, vaddr, SZ_4M);
	expect_tags(_metadata, vaddr, 0, SZ_4M);
	ASSERT_EQ(0, munmap(vaddr, SZ_4M));

	vaddr = map_aligned(target, SZ_4K, SZ_4M, SZ_2M, 0);
	expect_small_entries(_metadata, vaddr, SZ_4M);
	expect_tags(_metadata, vaddr, SZ_4K, SZ_4M);
	ASSERT_EQ(0, munmap(vaddr, SZ_4M));
}

/* From the middle of one page to the middle of another: as large as can be */
TEST_F(vfio_pci_huge_mmap_test, middle)
{
	struct mmap_target *target = &self->test.target;
	void *vaddr;

	tag_pages(_metadata, &self->test);

	vaddr = map_aligned(target, SZ_1M, SZ_4M, SZ_2M, SZ_1M);
	expect_small_entries(_metadata, vaddr, SZ_1M);
	expect_one_entry(_metadata, vaddr + SZ_1M, SZ_2M);
	expect_small_entries(_metadata, vaddr + SZ_1M + SZ_2M, SZ_1M);
	expect_tags(_metadata, vaddr, SZ_1M, SZ_4M);
	ASSERT_EQ(0, munmap(vaddr, SZ_4M));
}

/* What is cut loses its huge page, what is not does not. */
TEST_F(vfio_pci_huge_mmap_test, partial_munmap)
{
	struct mmap_target *target = &self->test.target;
	void *vaddr;

	tag_pages(_metadata, &self->test);

	vaddr = map_aligned(target, 0, SZ_4M, SZ_2M, 0);
	expect_one_entry(_metadata, vaddr, SZ_2M);
	expect_one_entry(_metadata, vaddr + SZ_2M, SZ_2M);

	ASSERT_EQ(0, munmap(vaddr + SZ_1M, SZ_4K));
	expect_tags(_metadata, vaddr, 0, SZ_1M);
	expect_tags(_metadata, vaddr + SZ_1M + SZ_4K, SZ_1M + SZ_4K, SZ_1M - SZ_4K);
	ASSERT_EQ(0, mmio_count_faults(vaddr + SZ_2M, SZ_2M, SZ_4K));
	expect_dumped(_metadata, vaddr, SZ_4K);
	expect_dumped(_metadata, vaddr + SZ_2M, SZ_2M);

	/* Nothing but small pages from now on. */
	vfio_pci_cmd_clear(self->test.device, PCI_COMMAND_MEMORY);
	vfio_pci_cmd_set(self->test.device, PCI_COMMAND_MEMORY);
	expect_small_entries(_metadata, vaddr, SZ_1M);
	expect_small_entries(_metadata, vaddr + SZ_1M + SZ_4K, SZ_1M - SZ_4K);
	expect_one_entry(_metadata, vaddr + SZ_2M, SZ_2M);
	expect_tags(_metadata, vaddr + SZ_2M, SZ_2M, SZ_2M);

	ASSERT_EQ(0, munmap(vaddr, SZ_4M));
}

TEST_F(vfio_pci_huge_mmap_test, partial_munmap_of_pud)
{
	struct mmap_target *target = &self->test.target;
	void *vaddr;

	if (no_pud(target))
		SKIP(return, "%s", no_pud(target));

	tag_pages(_metadata, &self->test);

	vaddr = map_aligned(target, 0, SZ_1G, SZ_1G, 0);
	expect_one_entry(_metadata, vaddr, SZ_1G);

	ASSERT_EQ(0, munmap(vaddr, SZ_4K));
	expect_tags(_metadata, vaddr + SZ_4K, SZ_4K, TEST_SIZE - SZ_4K);
	expect_one_entry(_metadata, vaddr + SZ_512M, SZ_2M);
	ASSERT_EQ(0, munmap(vaddr, SZ_1G));
}

/* Whether the kernel, on behalf of this process, finds nothing there to read. */
static bool is_unmapped(const void *vaddr)
{
	int fds[2];
	bool ret;

	VFIO_ASSERT_EQ(pipe(fds), 0);
	ret = write(fds[1], vaddr, 1) < 0 && errno == EFAULT;
	VFIO_ASSERT_EQ(close(fds[0]), 0);
	VFIO_ASSERT_EQ(close(fds[1]), 0);
	return ret;
}

/*
 * Move all of a mapping by a page of 1 GiB, or its first half. Nothing stays
 * behind, in no TLB either.
 */
static void move_pud(struct __test_metadata *_metadata, struct huge_test *test, size_t size)
{
	void *old, *new;

	if (no_pud(&test->target))
		SKIP(return, "%s", no_pud(&test->target));

	tag_pages(_metadata, test);

	new = mmap_reserve(SZ_1G, SZ_1G, 0);
	old = map_aligned(&test->target, 0, SZ_1G, SZ_1G, 0);
	expect_one_entry(_metadata, old, SZ_1G);
	ASSERT_FALSE(is_unmapped(old));

	ASSERT_EQ(new, mremap(old, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, new));
	ASSERT_TRUE(is_unmapped(old));
	if (size == SZ_1G) {
		expect_one_entry(_metadata, new, SZ_1G);
	} else {
		expect_one_entry(_metadata, new + size / 2, SZ_2M);
		expect_one_entry(_metadata, old + size, SZ_2M);
		ASSERT_EQ(0, munmap(old + size, SZ_1G - size));
	}
	expect_tags(_metadata, new, 0, TEST_SIZE);
	ASSERT_EQ(0, munmap(new, SZ_1G));
}

TEST_F(vfio_pci_huge_mmap_test, move_pud)
{
	move_pud(_metadata, &self->test, SZ_1G);
}

TEST_F(vfio_pci_huge_mmap_test, move_half_of_pud)
{
	move_pud(_metadata, &self->test, SZ_512M);
}

/* Reading how much memory a process has must not change how it is mapped. */
TEST_F(vfio_pci_huge_mmap_test, statistics_do_not_split)
{
	static const char * const files[] = {
		"/proc/self/smaps", "/proc/self/smaps_rollup", "/proc/self/numa_maps",
	};
	struct mmap_target *target = &self->test.target;
	char buffer[4096];
	void *vaddr;
	ssize_t len;
	size_t i;
	int fd;

	if (no_pud(target))
		SKIP(return, "%s", no_pud(target));

	vaddr = map_aligned(target, 0, SZ_1G, SZ_1G, 0);
	expect_one_entry(_metadata, vaddr, SZ_1G);

	for (i = 0; i < ARRAY_SIZE(files); i++) {
		fd = open(files[i], O_RDONLY);
		if (fd < 0) {
			ASSERT_EQ(ENOENT, errno);
			TH_LOG("There is no %s", files[i]);
			continue;
		}
		do {
			len = read(fd, buffer, sizeof(buffer));
			ASSERT_LE(0, len);
		} while (len);
		ASSERT_EQ(0, close(fd));
		ASSERT_EQ(0, mmio_count_faults(vaddr, SZ_1G, SZ_2M / 2)) TH_LOG("%s", files[i]);
	}
	ASSERT_EQ(0, munmap(vaddr, SZ_1G));
}

/*
 * A process copies or moves a mapping by huge pages while memory decode is
 * disabled. Wherever a page is at that moment, it must not be overlooked: nothing
 * can be reached when the memory has been disabled.
 *
 * Both begin at the same time. The memory is disabled after a delay which is a
 * different one each time, from none to 16 ms.
 */
#define NR_DELAYS		16
#define DISABLE_RACE_ROUNDS	(4 * NR_DELAYS)

/* Shared by both processes */
struct disable_race {
	void *vaddr;
	void *new_vaddr;
	size_t size;
	/* Pages that could be reached although the memory was disabled */
	int in_parent;
	int in_child;
	int at_old;
	int at_new;
};

static int count_reachable(const struct disable_race *race, void *vaddr)
{
	int reachable = 0;
	size_t pos;

	for (pos = 0; pos < race->size; pos += SZ_2M)
		reachable += mmio_try_touch(vaddr + pos);
	return reachable;
}

/* Map all of it, and return at about the time at which disable_race() goes on. */
static void disable_race_begin(const struct disable_race *race, int sock)
{
	/* The memory is enabled. */
	client_sync(sock);
	VFIO_ASSERT_EQ(count_reachable(race, race->vaddr), race->size / SZ_2M);
	client_sync(sock);
}

static int fork_main(int sock, void *arg)
{
	struct disable_race *race = arg;
	int round, status, fds[2];
	pid_t pid;
	char data;

	for (round = 0; round < DISABLE_RACE_ROUNDS; round++) {
		VFIO_ASSERT_EQ(pipe(fds), 0);
		disable_race_begin(race, sock);

		pid = fork();
		VFIO_ASSERT_GE(pid, 0);
		if (!pid) {
			close(fds[1]);
			/* Returns when the parent has closed the other end. */
			VFIO_ASSERT_EQ(read(fds[0], &data, 1), 0);
			_exit(count_reachable(race, race->vaddr));
		}

		/* The memory is disabled. */
		client_sync(sock);
		race->in_parent += count_reachable(race, race->vaddr);
		VFIO_ASSERT_EQ(close(fds[0]), 0);
		VFIO_ASSERT_EQ(close(fds[1]), 0);
		VFIO_ASSERT_EQ(waitpid(pid, &status, 0), pid);
		VFIO_ASSERT_TRUE(WIFEXITED(status));
		race->in_child += WEXITSTATUS(status);
		client_sync(sock);
	}
	return 0;
}

static int mremap_main(int sock, void *arg)
{
	struct disable_race *race = arg;
	void *vaddr;
	int round;

	for (round = 0; round < DISABLE_RACE_ROUNDS; round++) {
		disable_race_begin(race, sock);

		vaddr = mremap(race->vaddr, race->size, race->size,
			       MREMAP_MAYMOVE | MREMAP_FIXED, race->new_vaddr);
		VFIO_ASSERT_EQ(vaddr, race->new_vaddr);

		/* The memory is disabled. */
		client_sync(sock);
		race->at_new += count_reachable(race, race->new_vaddr);
		race->at_old += !is_unmapped(race->vaddr);

		/* Nothing else may come to where it is moved back to. */
		vaddr = mmap(race->vaddr, race->size, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		VFIO_ASSERT_EQ(vaddr, race->vaddr);
		race->vaddr = race->new_vaddr;
		race->new_vaddr = vaddr;
		client_sync(sock);
	}
	return 0;
}

static void disable_race(struct __test_metadata *_metadata, struct huge_test *test,
			 size_t size, int (*main)(int sock, void *race))
{
	struct disable_race *race;
	struct client client;
	int round;

	race = mmap(NULL, sizeof(*race), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		    -1, 0);
	ASSERT_NE(MAP_FAILED, race);
	race->size = size;
	race->new_vaddr = mmap_reserve(size, SZ_2M, 0);
	race->vaddr = map_aligned(&test->target, 0, size, SZ_2M, 0);

	/* It has a copy of the mapping, which is to be the only one. */
	client = client_start(main, race);
	ASSERT_EQ(0, munmap(race->vaddr, size));
	ASSERT_EQ(0, munmap(race->new_vaddr, size));

	for (round = 0; round < DISABLE_RACE_ROUNDS; round++) {
		int delay = round % NR_DELAYS;

		client_sync(client.sock);
		client_sync(client.sock);
		if (delay)
			usleep(1U << (delay - 1));
		vfio_pci_memory_decode.disable(test->device);
		client_sync(client.sock);
		client_sync(client.sock);
		vfio_pci_memory_decode.enable(test->device);
	}
	ASSERT_EQ(0, client_wait(&client));

	EXPECT_EQ(0, race->in_parent);
	EXPECT_EQ(0, race->in_child);
	EXPECT_EQ(0, race->at_old);
	EXPECT_EQ(0, race->at_new);
	ASSERT_EQ(0, munmap(race, sizeof(*race)));
}

TEST_F(vfio_pci_huge_mmap_test, fork_during_disable)
{
	disable_race(_metadata, &self->test, TEST_SIZE, fork_main);
}

/* A single page: zap and move take the same lock for any other. */
TEST_F(vfio_pci_huge_mmap_test, mremap_during_disable)
{
	disable_race(_metadata, &self->test, SZ_2M, mremap_main);
}

/* A huge page is gone as well when the memory is, and back again. */
TEST_F(vfio_pci_huge_mmap_test, memory_state)
{
	struct mmap_target *target = &self->test.target;
	size_t size = no_pud(target) ? SZ_2M : SZ_1G;
	void *vaddr = map_aligned(target, 0, size, size, 0);

	expect_one_entry(_metadata, vaddr, size);
	vfio_pci_cmd_clear(self->test.device, PCI_COMMAND_MEMORY);
	ASSERT_FALSE(mmio_try_touch(vaddr));
	ASSERT_FALSE(mmio_try_touch(vaddr + size - SZ_4K));
	vfio_pci_cmd_set(self->test.device, PCI_COMMAND_MEMORY);
	expect_one_entry(_metadata, vaddr, size);
	ASSERT_EQ(0, munmap(vaddr, size));
}

/* Ranges of the BAR in a DMABUF */
FIXTURE(vfio_pci_huge_ranges_test) {
	struct huge_test test;
};

FIXTURE_SETUP(vfio_pci_huge_ranges_test)
{
	const char *reason = huge_test_setup(&self->test, true);

	if (reason)
		SKIP(return, "%s", reason);
	tag_pages(_metadata, &self->test);
}

FIXTURE_TEARDOWN(vfio_pci_huge_ranges_test)
{
	huge_test_teardown(&self->test);
}

static void *map_ranges(struct huge_test *test, const struct vfio_region_dma_range *ranges,
			int nr_ranges, size_t size)
{
	struct mmap_target target = test->target;
	void *vaddr;

	target.fd = vfio_pci_dmabuf_export(test->device, target.bar, O_RDWR | O_CLOEXEC,
					   ranges, nr_ranges);
	vaddr = map_aligned(&target, 0, size, SZ_2M, 0);
	VFIO_ASSERT_EQ(close(target.fd), 0);
	return vaddr;
}

/* Pages that follow each other are as good as one range of them. */
TEST_F(vfio_pci_huge_ranges_test, merged)
{
	struct vfio_region_dma_range ranges[SZ_2M / SZ_4K];
	void *vaddr;
	int i;

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		ranges[i].offset = SZ_2M + i * SZ_4K;
		ranges[i].length = SZ_4K;
	}
	vaddr = map_ranges(&self->test, ranges, ARRAY_SIZE(ranges), SZ_2M);
	expect_one_entry(_metadata, vaddr, SZ_2M);
	expect_dumped(_metadata, vaddr, SZ_2M);
	expect_tags(_metadata, vaddr, SZ_2M, SZ_2M);
	ASSERT_EQ(0, munmap(vaddr, SZ_2M));
}

/* Two of them in the wrong order are not. */
TEST_F(vfio_pci_huge_ranges_test, swapped)
{
	struct vfio_region_dma_range ranges[SZ_2M / SZ_4K];
	void *vaddr;
	int i;

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		ranges[i].offset = i * SZ_4K;
		ranges[i].length = SZ_4K;
	}
	ranges[100].offset = 101 * SZ_4K;
	ranges[101].offset = 100 * SZ_4K;

	vaddr = map_ranges(&self->test, ranges, ARRAY_SIZE(ranges), SZ_2M);
	expect_small_entries(_metadata, vaddr, SZ_2M);
	expect_tags(_metadata, vaddr, 0, 100 * SZ_4K);
	expect_tags(_metadata, vaddr + 100 * SZ_4K, 101 * SZ_4K, SZ_4K);
	expect_tags(_metadata, vaddr + 101 * SZ_4K, 100 * SZ_4K, SZ_4K);
	expect_tags(_metadata, vaddr + 102 * SZ_4K, 102 * SZ_4K, SZ_2M - 102 * SZ_4K);
	ASSERT_EQ(0, munmap(vaddr, SZ_2M));
}

TEST_F(vfio_pci_huge_ranges_test, aligned_ranges_in_any_order)
{
	struct vfio_region_dma_range ranges[] = {
		{ SZ_8M, SZ_2M }, { SZ_2M, SZ_2M }, { SZ_4M, SZ_4M }, { SZ_8M, SZ_2M },
	};
	size_t size = 5 * SZ_2M, pos;
	void *vaddr;

	vaddr = map_ranges(&self->test, ranges, ARRAY_SIZE(ranges), size);
	for (pos = 0; pos < size; pos += SZ_2M)
		expect_one_entry(_metadata, vaddr + pos, SZ_2M);

	expect_tags(_metadata, vaddr, SZ_8M, SZ_2M);
	expect_tags(_metadata, vaddr + SZ_2M, SZ_2M, SZ_2M + SZ_4M);
	expect_tags(_metadata, vaddr + SZ_8M, SZ_8M, SZ_2M);
	ASSERT_EQ(0, munmap(vaddr, size));
}

/* A border within a huge page, and then a huge page that fits again */
TEST_F(vfio_pci_huge_ranges_test, border_within)
{
	struct vfio_region_dma_range ranges[] = {
		{ 0, SZ_1M }, { SZ_4M + SZ_1M, SZ_2M + SZ_1M },
	};
	void *vaddr;

	vaddr = map_ranges(&self->test, ranges, ARRAY_SIZE(ranges), SZ_4M);
	expect_small_entries(_metadata, vaddr, SZ_2M);
	expect_one_entry(_metadata, vaddr + SZ_2M, SZ_2M);

	expect_tags(_metadata, vaddr, 0, SZ_1M);
	expect_tags(_metadata, vaddr + SZ_1M, SZ_4M + SZ_1M, SZ_2M + SZ_1M);
	ASSERT_EQ(0, munmap(vaddr, SZ_4M));
}

/* A range ends one page early. What is behind it must not come along. */
TEST_F(vfio_pci_huge_ranges_test, ends_one_page_early)
{
	struct vfio_region_dma_range ranges[] = {
		{ 0, SZ_2M - SZ_4K }, { SZ_8M, SZ_4K }, { SZ_2M, SZ_2M },
	};
	void *vaddr;

	vaddr = map_ranges(&self->test, ranges, ARRAY_SIZE(ranges), SZ_4M);
	expect_small_entries(_metadata, vaddr, SZ_2M);
	expect_one_entry(_metadata, vaddr + SZ_2M, SZ_2M);

	expect_tags(_metadata, vaddr, 0, SZ_2M - SZ_4K);
	expect_tags(_metadata, vaddr + SZ_2M - SZ_4K, SZ_8M, SZ_4K);
	expect_tags(_metadata, vaddr + SZ_2M, SZ_2M, SZ_2M);
	ASSERT_EQ(0, munmap(vaddr, SZ_4M));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
