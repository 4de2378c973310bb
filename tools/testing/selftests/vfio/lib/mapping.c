// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/resource.h>

#include <linux/align.h>
#include <linux/compiler.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/sizes.h>

#include <libvfio.h>

/* Where to go on after a SIGBUS, for a thread that reckons with it */
struct sigbus_catcher {
	sigjmp_buf env;
};

static __thread struct sigbus_catcher *sigbus_catcher;
static __thread const void *sigbus_addr;

static void sigbus_handler(int sig, siginfo_t *info, void *context)
{
	sigbus_addr = info->si_addr;
	if (sigbus_catcher)
		siglongjmp(sigbus_catcher->env, 1);

	/* Nobody expects it: let the access raise it again. */
	signal(sig, SIG_DFL);
}

static void catch_sigbus(void)
{
	struct sigaction action = {
		.sa_sigaction = sigbus_handler,
		/* No signal mask to restore, which would take a system call. */
		.sa_flags = SA_NODEFER | SA_SIGINFO,
	};
	static bool done;

	if (READ_ONCE(done))
		return;

	VFIO_ASSERT_EQ(sigaction(SIGBUS, &action, NULL), 0);
	WRITE_ONCE(done, true);
}

bool mmio_try_read(const void *vaddr, u32 *value)
{
	struct sigbus_catcher catcher;

	catch_sigbus();
	if (sigsetjmp(catcher.env, 0)) {
		sigbus_catcher = NULL;
		return false;
	}

	WRITE_ONCE(sigbus_catcher, &catcher);
	*value = readl(vaddr);
	WRITE_ONCE(sigbus_catcher, NULL);
	return true;
}

bool mmio_try_write(void *vaddr, u32 value)
{
	struct sigbus_catcher catcher;

	catch_sigbus();
	if (sigsetjmp(catcher.env, 0)) {
		sigbus_catcher = NULL;
		return false;
	}

	WRITE_ONCE(sigbus_catcher, &catcher);
	writel(value, vaddr);
	WRITE_ONCE(sigbus_catcher, NULL);
	return true;
}

const void *mmio_sigbus_addr(void)
{
	return sigbus_addr;
}

static long minor_faults(void)
{
	struct rusage usage;

	VFIO_ASSERT_EQ(getrusage(RUSAGE_THREAD, &usage), 0);
	return usage.ru_minflt;
}

u64 mmio_count_faults(const void *vaddr, size_t size, size_t step)
{
	long before;
	size_t i;

	/* Whatever of this program itself is not there yet */
	minor_faults();
	mmio_try_touch(&before);

	before = minor_faults();
	for (i = 0; i < size; i += step) {
		if (!mmio_try_touch(vaddr + i))
			return UINT64_MAX;
	}
	return minor_faults() - before;
}

const char *no_huge_page(size_t size)
{
	if (getpagesize() != SZ_4K || access("/sys/kernel/mm/transparent_hugepage", F_OK))
		return "There are no huge pages, or not of the sizes that this test knows";
#ifndef __x86_64__
	/* Nothing else that these tests are for has ARCH_SUPPORTS_PUD_PFNMAP. */
	if (size > SZ_2M)
		return "No device's memory is mapped by pages of that size on this architecture";
#endif
	return NULL;
}

static bool has_flag(const char *line, const char *flag)
{
	const char *found = strstr(line, flag);

	/* A word of its own, and not a part of another */
	return found && found[-1] == ' ' && found[strlen(flag)] == ' ';
}

/*
 * What PAT makes of these bits, with which Linux has the same order on all CPUs: the
 * bit of the same name only says something where the type is none of these four.
 */
static enum cache_mode cache_mode(const char *line)
{
	bool pwt = has_flag(line, "PWT"), pcd = has_flag(line, "PCD");

	if (has_flag(line, "PAT"))
		return CACHE_OTHER;
	if (pcd)
		return pwt ? CACHE_UNCACHED : CACHE_UNCACHED_MINUS;
	return pwt ? CACHE_WRITE_COMBINING : CACHE_WRITE_BACK;
}

int page_table_entry_read(const void *vaddr, struct page_table_entry *entry)
{
	/* With page table isolation the user has tables of their own. */
	static const char * const paths[] = {
		"/sys/kernel/debug/page_tables/current_user",
		"/sys/kernel/debug/page_tables/current_kernel",
	};
	char line[256], unit, level[8];
	u64 start, end, size;
	FILE *file = NULL;
	int i;

	for (i = 0; !file && i < ARRAY_SIZE(paths); i++)
		file = fopen(paths[i], "r");
	if (!file)
		return -ENOENT;

	*entry = (struct page_table_entry) {};
	/* 0x00007f0000000000-0x00007f0000200000           2M     RW ...  pmd */
	while (fgets(line, sizeof(line), file)) {
		const char *last = strrchr(line, ' ');

		if (sscanf(line, "0x%lx-0x%lx %lu%c", &start, &end, &size, &unit) != 4)
			continue;
		if ((u64)vaddr < start || (u64)vaddr >= end)
			continue;

		/* What is not mapped has no flags, so the level follows the size. */
		if (!last || sscanf(last, " %7s", level) != 1 ||
		    (!has_flag(line, "RW") && !has_flag(line, "ro")))
			break;
		if (!strcmp(level, "pte"))
			entry->size = getpagesize();
		else if (!strcmp(level, "pmd"))
			entry->size = SZ_2M;
		else if (!strcmp(level, "pud"))
			entry->size = SZ_1G;
		entry->cache = cache_mode(line);
		break;
	}
	fclose(file);

	return 0;
}

ssize_t page_table_entry_size(const void *vaddr)
{
	struct page_table_entry entry;
	int ret = page_table_entry_read(vaddr, &entry);

	return ret ?: entry.size;
}

bool proc_maps_line(const void *vaddr, char *line, size_t size)
{
	bool found = false;
	u64 start, end;
	FILE *file;

	file = fopen("/proc/self/maps", "r");
	VFIO_ASSERT_NOT_NULL(file);

	while (!found && fgets(line, size, file)) {
		if (sscanf(line, "%lx-%lx", &start, &end) != 2)
			continue;
		found = (u64)vaddr >= start && (u64)vaddr < end;
	}
	fclose(file);

	return found;
}

bool proc_maps_has(const void *vaddr, const char *what)
{
	char line[512];

	if (!proc_maps_line(vaddr, line, sizeof(line)))
		return false;
	if (strstr(line, what))
		return true;

	fprintf(stderr, "No \"%s\" in: %s", what, line);
	return false;
}

struct vfio_pci_scratch vfio_pci_bar_scratch(struct vfio_pci_device *device, int bar)
{
	const struct vfio_pci_driver_ops *ops = device->driver.ops;
	struct vfio_pci_scratch scratch = {};

	if (ops && ops->find_scratch)
		ops->find_scratch(device, bar, &scratch);
	return scratch;
}

bool scratch_try_write(const struct vfio_pci_scratch *scratch, void *vaddr, u32 value)
{
	if (!scratch->mask)
		return mmio_try_touch(vaddr);

	return mmio_try_write(vaddr, value);
}

bool scratch_try_check(const struct vfio_pci_scratch *scratch, const void *vaddr, u32 value)
{
	u32 got;

	if (!mmio_try_read(vaddr, &got))
		return false;

	return !(((got ^ scratch->invert) ^ value) & scratch->mask);
}

/* What of a BAR can be mapped is up to its region info, and to nothing else. */
static const char *no_mmap_target(struct vfio_pci_device *device, int bar, bool dmabuf)
{
	if (dmabuf)
		return vfio_pci_bar_no_dmabuf_mmap(device, bar);
	if (!(device->bars[bar].info.flags & VFIO_REGION_INFO_FLAG_MMAP))
		return "There is no such BAR to map";
	return NULL;
}

const char *mmap_target_open(struct mmap_target *target, struct vfio_pci_device *device,
			     int bar, bool dmabuf)
{
	const char *reason = no_mmap_target(device, bar, dmabuf);
	struct vfio_region_info *info = &device->bars[bar].info;

	if (reason)
		return reason;

	*target = (struct mmap_target) {
		.device = device,
		.bar = bar,
		.dmabuf = dmabuf,
		.scratch = vfio_pci_bar_scratch(device, bar),
		.fd = device->fd,
		.offset = info->offset,
		/* A BAR can be smaller than a page, its mapping cannot. */
		.size = ALIGN(info->size, getpagesize()),
	};

	if (dmabuf) {
		target->offset = 0;
		target->fd = vfio_pci_dmabuf_export_range(device, bar, 0, target->size);
	}
	return NULL;
}

const char *mmap_targets_open(struct mmap_target *targets, struct vfio_pci_device *device,
			      bool dmabuf)
{
	int bar, nr = 0;

	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {
		if (!mmap_target_open(&targets[nr], device, bar, dmabuf))
			nr++;
	}
	targets[nr].size = 0;
	if (nr)
		return NULL;

	return dmabuf ? vfio_pci_no_dmabuf_mmap(device) : "The device has no BAR to map";
}

const char *mmap_target_open_largest(struct mmap_target *target, struct vfio_pci_device *device,
				     bool dmabuf)
{
	struct mmap_target targets[MAX_MMAP_TARGETS], *largest = targets, *other;
	const char *reason;

	reason = mmap_targets_open(targets, device, dmabuf);
	if (reason)
		return reason;

	for (other = targets; other->size; other++) {
		if (other->size > largest->size)
			largest = other;
	}
	for (other = targets; other->size; other++) {
		if (other != largest)
			mmap_target_close(other);
	}
	*target = *largest;
	return NULL;
}

void mmap_target_close(struct mmap_target *target)
{
	if (target->dmabuf)
		VFIO_ASSERT_EQ(close(target->fd), 0);
}

void mmap_targets_close(struct mmap_target *targets)
{
	for (; targets->size; targets++)
		mmap_target_close(targets);
}

u64 mmap_targets_max_size(const struct mmap_target *targets)
{
	u64 max_size = 0;

	for (; targets->size; targets++)
		max_size = max(max_size, targets->size);
	return max_size;
}

void *mmap_target_map(const struct mmap_target *target, u64 offset, size_t size)
{
	void *vaddr;

	vaddr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
		     target->fd, target->offset + offset);
	VFIO_ASSERT_NE(vaddr, MAP_FAILED, "Failed to map %#zx of BAR%d at %#lx\n",
		       size, target->bar, offset);
	return vaddr;
}

bool mmap_target_try_touch(const struct mmap_target *target)
{
	const size_t page_size = getpagesize();
	void *vaddr;
	bool ret;

	vaddr = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, target->fd,
		     target->offset);
	if (vaddr == MAP_FAILED) {
		VFIO_ASSERT_EQ(errno, ENODEV);
		return false;
	}
	ret = mmio_try_touch(vaddr);
	VFIO_ASSERT_EQ(munmap(vaddr, page_size), 0);
	return ret;
}
