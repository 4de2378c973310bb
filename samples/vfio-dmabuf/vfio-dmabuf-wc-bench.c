// SPDX-License-Identifier: GPL-2.0-only
/*
 * What does write-combining bring? Writes to a piece of a PCI device's memory through
 * a DMABUF, first uncached and then write-combined, and says how fast that was.
 *
 * A CPU sends what is written uncached as it comes, at most 8 bytes here in each
 * transaction on the bus. What is write-combined it may collect, and send 64 bytes at
 * once. That is why a fence follows each 64 bytes: a driver that hands a descriptor to
 * its device does the same, for the descriptor not to stay in the CPU.
 *
 * A device may do anything when it is written to, so that is done only when asked for
 * with --write, and it takes somebody who knows what is at that offset.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <glob.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/pci_regs.h>
#include <linux/types.h>
#include <linux/vfio.h>

/* As much as a CPU combines */
#define BLOCK_SIZE	64

#define NSEC_PER_SEC	1000000000ULL

static const char usage[] =
"usage: vfio-dmabuf-wc-bench [--write] [--size BYTES] [--seconds N] DEVICE BAR OFFSET\n"
"\n"
"Measures how fast memory of a PCI device can be written, uncached and write-combined:\n"
"BYTES (one page, unless given) at OFFSET of BAR number BAR. DEVICE is one that vfio-pci\n"
"is bound to, like 0000:01:00.0. Without --write the memory is mapped and not touched.\n"
"\n"
"With --write all that is there is OVERWRITTEN, for N seconds (1, unless given) each.\n"
"Only do this to memory, and never to registers.\n";

/* To be bound to an iommufd is all that it takes to reach the memory of a device. */
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

static int export_memory(int device, __u32 attr, __u32 bar, __u64 offset, __u64 size)
{
	struct vfio_device_feature_dma_buf *dma_buf;
	struct vfio_device_feature *feature;
	size_t argsz;
	int fd;

	argsz = sizeof(*feature) + sizeof(*dma_buf) + sizeof(dma_buf->dma_ranges[0]);
	feature = calloc(1, argsz);
	if (!feature)
		err(1, "calloc");
	feature->argsz = argsz;
	feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;

	dma_buf = (void *)feature->data;
	dma_buf->region_index = bar;
	dma_buf->open_flags = O_RDWR | O_CLOEXEC;
	dma_buf->flags = attr;
	dma_buf->nr_ranges = 1;
	dma_buf->dma_ranges[0].offset = offset;
	dma_buf->dma_ranges[0].length = size;

	fd = ioctl(device, VFIO_DEVICE_FEATURE, feature);
	free(feature);
	return fd;
}

/* What was written before is on its way to the device before what comes after. */
static inline void fence(void)
{
#ifdef __x86_64__
	__asm__ __volatile__("sfence" : : : "memory");
#elif defined(__aarch64__)
	__asm__ __volatile__("dsb st" : : : "memory");
#else
	__sync_synchronize();
#endif
}

static __u64 now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

static void write_all(__volatile__ __u64 *memory, size_t size, __u64 value)
{
	const size_t words = BLOCK_SIZE / sizeof(*memory);
	size_t i, j;

	for (i = 0; i < size / sizeof(*memory); i += words) {
		for (j = 0; j < words; j++)
			memory[i + j] = value;
		fence();
	}
}

/* Bytes per second */
static double measure(void *memory, size_t size, unsigned int seconds)
{
	__volatile__ __u64 *last = memory + size - sizeof(*last);
	__u64 start = now(), time, rounds = 0;

	do {
		write_all(memory, size, ++rounds);
		/* Writes are posted: a read of the last one waits for all of them. */
		(void)*last;
		time = now() - start;
	} while (time < seconds * NSEC_PER_SEC);
	return (double)size * rounds * NSEC_PER_SEC / time;
}

/* A page is never both: so one after the other, with nothing left of the first. */
static bool try_attr(int device, const char *name, __u32 attr, __u32 bar, __u64 offset,
		     size_t size, unsigned int seconds, bool write)
{
	int fd = export_memory(device, attr, bar, offset, size);
	void *memory;

	if (fd < 0) {
		/* EOPNOTSUPP for a BAR that is not prefetchable, see <linux/vfio.h> */
		printf("%-16s not possible: %s\n", name, strerror(errno));
		return false;
	}
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		err(1, "mmap");
	if (write)
		printf("%-16s %.0f bytes/s\n", name, measure(memory, size, seconds));
	else
		printf("%-16s mapped, and not touched\n", name);
	munmap(memory, size);
	close(fd);
	return true;
}

static __u64 parse(const char *text)
{
	char *end;
	__u64 value;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (errno || end == text || *end)
		errx(2, "not a number: %s", text);
	return value;
}

int main(int argc, char *argv[])
{
	static const struct option options[] = {
		{ "write", no_argument, NULL, 'w' },
		{ "size", required_argument, NULL, 's' },
		{ "seconds", required_argument, NULL, 't' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	unsigned int seconds = 1;
	size_t size = sysconf(_SC_PAGESIZE);
	bool write = false, ok;
	__u64 offset;
	__u32 bar;
	int device, option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'w':
			write = true;
			break;
		case 's':
			size = parse(optarg);
			break;
		case 't':
			seconds = parse(optarg);
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	if (optind + 3 != argc || !size || size % BLOCK_SIZE) {
		fputs(usage, stderr);
		return 2;
	}
	bar = parse(argv[optind + 1]);
	offset = parse(argv[optind + 2]);

	device = open_device(argv[optind]);
	enable_memory(device);
	ok = try_attr(device, "uncached:", VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_UC, bar, offset, size,
		      seconds, write);
	ok &= try_attr(device, "write-combined:", VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC, bar, offset,
		       size, seconds, write);
	return !ok;
}
