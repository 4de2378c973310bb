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

static void sigbus_handler(int sig)
{
	if (sigbus_catcher)
		siglongjmp(sigbus_catcher->env, 1);

	/* Nobody expects it: let the access raise it again. */
	signal(sig, SIG_DFL);
}

static void catch_sigbus(void)
{
	struct sigaction action = {
		.sa_handler = sigbus_handler,
		/* No signal mask to restore, which would take a system call. */
		.sa_flags = SA_NODEFER,
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
	readl(&before);

	before = minor_faults();
	for (i = 0; i < size; i += step)
		readl(vaddr + i);
	return minor_faults() - before;
}

ssize_t page_table_entry_size(const void *vaddr)
{
	/* With page table isolation the user has tables of their own. */
	static const char * const paths[] = {
		"/sys/kernel/debug/page_tables/current_user",
		"/sys/kernel/debug/page_tables/current_kernel",
	};
	char line[256], unit, level[8];
	u64 start, end, size;
	ssize_t ret = 0;
	FILE *file = NULL;
	int i;

	for (i = 0; !file && i < ARRAY_SIZE(paths); i++)
		file = fopen(paths[i], "r");
	if (!file)
		return -ENOENT;

	/* 0x00007f0000000000-0x00007f0000200000           2M     RW ...  pmd */
	while (fgets(line, sizeof(line), file)) {
		const char *last = strrchr(line, ' ');

		if (sscanf(line, "0x%lx-0x%lx %lu%c", &start, &end, &size, &unit) != 4)
			continue;
		if ((u64)vaddr < start || (u64)vaddr >= end)
			continue;

		/* What is not mapped has no flags, so the level follows the size. */
		if (!last || sscanf(last, " %7s", level) != 1 ||
		    (!strstr(line, "RW") && !strstr(line, "ro")))
			break;
		if (!strcmp(level, "pte"))
			ret = getpagesize();
		else if (!strcmp(level, "pmd"))
			ret = SZ_2M;
		else if (!strcmp(level, "pud"))
			ret = SZ_1G;
		break;
	}
	fclose(file);

	return ret;
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

static const struct {
	u16 vendor;
	u16 device;
	int bar;
	struct vfio_pci_bar_word word;
} bar_words[] = {
	/* QEMU's edu: the liveness check */
	{ 0x1234, 0x11e8, 0, { .offset = 0x4, .mask = ~0U, .invert = ~0U } },
	/* QEMU's ivshmem-plain: the shared memory */
	{ 0x1af4, 0x1110, 2, { .mask = ~0U, .ram = true } },
	/* QEMU's bochs-display: video memory, and the width of the screen */
	{ 0x1234, 0x1111, 0, { .mask = ~0U, .ram = true } },
	{ 0x1234, 0x1111, 2, { .offset = 0x500, .mask = 0xffff0000 } },
	/* QEMU's nvme: the address of the admin submission queue, of no effect */
	{ 0x1b36, 0x0010, 0, { .offset = 0x28, .mask = 0xfffff000 } },
};

struct vfio_pci_bar_word vfio_pci_bar_word(struct vfio_pci_device *device, int bar)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(bar_words); i++) {
		if (bar_words[i].bar == bar &&
		    vfio_pci_device_match(device, bar_words[i].vendor, bar_words[i].device))
			return bar_words[i].word;
	}
	return (struct vfio_pci_bar_word){};
}

bool bar_word_try_write(const struct vfio_pci_bar_word *word, void *vaddr, u32 value)
{
	if (!word->mask)
		return mmio_try_touch(vaddr);

	return mmio_try_write(vaddr, value);
}

bool bar_word_try_check(const struct vfio_pci_bar_word *word, const void *vaddr, u32 value)
{
	u32 got;

	if (!mmio_try_read(vaddr, &got))
		return false;

	return !(((got ^ word->invert) ^ value) & word->mask);
}

/* What of a BAR can be mapped is up to its region info, and to nothing else. */
static const char *no_bar_source(struct vfio_pci_device *device, int bar, bool delegated)
{
	if (delegated)
		return vfio_pci_bar_no_dmabuf_mmap(device, bar);
	if (!(device->bars[bar].info.flags & VFIO_REGION_INFO_FLAG_MMAP))
		return "There is no such BAR to map";
	return NULL;
}

const char *bar_source_open(struct bar_source *source, struct vfio_pci_device *device,
			    int bar, bool delegated)
{
	struct vfio_region_info *info = &device->bars[bar].info;
	const char *reason = no_bar_source(device, bar, delegated);

	if (reason)
		return reason;

	*source = (struct bar_source) {
		.device = device,
		.bar = bar,
		.delegated = delegated,
		.word = vfio_pci_bar_word(device, bar),
		.fd = device->fd,
		.offset = info->offset,
		/* A BAR can be smaller than a page, its mapping cannot. */
		.size = ALIGN(info->size, getpagesize()),
	};

	if (delegated) {
		source->offset = 0;
		source->fd = vfio_pci_dmabuf_export_range(device, bar, 0, source->size);
	}
	return NULL;
}

const char *bar_source_open_largest(struct bar_source *source, struct vfio_pci_device *device,
				    bool delegated)
{
	int bar, largest = -1;

	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {
		if (no_bar_source(device, bar, delegated))
			continue;
		if (largest < 0 || device->bars[bar].info.size > device->bars[largest].info.size)
			largest = bar;
	}
	if (largest < 0)
		return delegated ? vfio_pci_no_dmabuf_mmap(device) : "The device has no BAR to map";

	return bar_source_open(source, device, largest, delegated);
}

const char *bar_sources_open(struct bar_source *sources, struct vfio_pci_device *device,
			     bool delegated)
{
	int bar, nr = 0;

	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {
		if (!bar_source_open(&sources[nr], device, bar, delegated))
			nr++;
	}
	sources[nr].size = 0;
	if (nr)
		return NULL;

	return delegated ? vfio_pci_no_dmabuf_mmap(device) : "The device has no BAR to map";
}

void bar_source_close(struct bar_source *source)
{
	if (source->delegated)
		VFIO_ASSERT_EQ(close(source->fd), 0);
}

void bar_sources_close(struct bar_source *sources)
{
	for (; sources->size; sources++)
		bar_source_close(sources);
}

u64 bar_sources_largest(const struct bar_source *sources)
{
	u64 largest = 0;

	for (; sources->size; sources++)
		largest = max(largest, sources->size);
	return largest;
}

void *bar_source_mmap(const struct bar_source *source, u64 offset, size_t size)
{
	void *vaddr;

	vaddr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
		     source->fd, source->offset + offset);
	VFIO_ASSERT_NE(vaddr, MAP_FAILED, "Failed to map %#zx of BAR%d at %#lx\n",
		       size, source->bar, offset);
	return vaddr;
}

bool bar_source_try_touch(const struct bar_source *source)
{
	const size_t page_size = getpagesize();
	void *vaddr;
	bool ret;

	vaddr = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, source->fd,
		     source->offset);
	if (vaddr == MAP_FAILED) {
		VFIO_ASSERT_EQ(errno, ENODEV);
		return false;
	}
	ret = mmio_try_touch(vaddr);
	VFIO_ASSERT_EQ(munmap(vaddr, page_size), 0);
	return ret;
}
